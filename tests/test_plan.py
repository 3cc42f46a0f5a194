"""The plan: what would run and why, what exists, and what it costs."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finephrase_dagster.artifacts.artifact import MANIFEST, Contents
from finephrase_dagster.artifacts.graph import Item, items
from finephrase_dagster.artifacts.key import STAGES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue, read_lineage
from finephrase_dagster.commands.plan import item_lines
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.plan.forecast import Forecast
from finephrase_dagster.plan.plan import Plan, Terms, plan
from finephrase_dagster.study.paths import REPOSITORY, Paths
from finephrase_dagster.study.spec import Study
from installation import Installation
from test_cli import finephrase

STUDIES = REPOSITORY / "studies"
FIGURES = ("documents", "input_tokens", "output_tokens", "gpu_hours", "dollars", "wall_hours", "disk_bytes")
RUN = {"completion_tokens": 9_000, "tokens_per_second": 300.0, "gpus": 0}
FACTS: dict[str, dict[str, Any]] = {
    "sources": {"rows": 100, "tokens": 50_000, "text_bytes": 200_000, "dropped": {}},
    "audits": {"passed": True, "gates": []},
    "generators": {"sampling": {"temperature": 1.0}, "parameters": 4_000_000},
    "synthetic": {"completed": 90, "completion_tokens": 9_000, "run": RUN},
}


def lineage_of(study: str, data: Path) -> Lineage:
    return read_lineage(Paths(data=data, study=STUDIES / f"{study}.yaml"))


def complete(lineage: Lineage) -> None:
    """Publish every artifact of a study with the figures that a plan reads."""
    for item in items(lineage.snapshot()):

        def make(folder: Path, of: Item = item) -> Contents:
            (folder / "content.txt").write_text(of.name)
            return Contents(files=[folder / "content.txt"], facts=FACTS.get(of.stage, {}))

        item.artifact().materialize(make)


@pytest.fixture
def completed(tmp_path: Path) -> Lineage:
    """Return the complete demo study with prompts that a test may edit."""
    prompts = Path(shutil.copytree(REPOSITORY / "prompts", tmp_path / "prompts"))
    paths = Paths(data=tmp_path / "data", study=STUDIES / "demo.yaml", prompts=prompts)
    made = read_lineage(paths)
    complete(made)
    return made


def edit(lineage: Lineage, prompt: str) -> Lineage:
    path = lineage.paths.prompts / f"{prompt}.md"
    path.write_text(path.read_text().replace("Reply with", "Answer with"))
    return read_lineage(lineage.paths)


def of_status(result: Plan, status: str) -> dict[str, tuple[str, ...]]:
    return {p.item.name: p.state.reasons for p in result.items if p.state.status == status}


def test_the_production_run_costs_what_was_published(tmp_path: Path) -> None:
    synthetic = plan(lineage_of("production", tmp_path)).as_json()["stages"]["synthetic"]
    assert synthetic["documents"] == 4 * 339_347_842
    assert synthetic["output_tokens"] == pytest.approx(486e9, rel=0.005)
    assert synthetic["gpu_hours"] / 24 == pytest.approx(612, rel=0.03)
    assert synthetic["dollars"] == pytest.approx(612 * 24 * 3, rel=0.03)
    assert "throughput: published sweep, tier 1" in synthetic["basis"]


def test_the_published_study_has_its_90_generation_runs(tmp_path: Path) -> None:
    result = plan(lineage_of("finephrase", tmp_path)).as_json()
    synthetic = result["stages"]["synthetic"]
    assert synthetic["partitions"] == 90
    sources = Counter(item["asset"].split("__")[1] for item in result["items"] if item["stage"] == "synthetic")
    assert sources == {"fineweb_edu_hq": 77, "dclm": 7, "fineweb_edu_lq": 4, "cosmopedia": 2}
    assert synthetic["output_tokens"] == pytest.approx(1.056e12, rel=0.005)
    assert synthetic["input_tokens"] == pytest.approx(1.800e12, rel=0.005)


def test_only_the_leaderboard_depends_on_a_hundred_partitions_or_more(tmp_path: Path) -> None:
    graph = list(items(lineage_of("finephrase", tmp_path)))
    assert [item.name for item in graph if len(item.needs) >= 100] == ["results/leaderboard"]


@pytest.mark.parametrize("study", ["demo", "finephrase", "production"])
def test_a_plan_starts_nothing_and_writes_nothing(study: str, tmp_path: Path) -> None:
    plan(lineage_of(study, tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("study", ["demo", "finephrase", "production"])
def test_stages_add_up_to_the_total_and_items_to_stages(study: str, tmp_path: Path) -> None:
    result = plan(lineage_of(study, tmp_path)).as_json()
    assert list(result["stages"]) == [stage for stage in STAGES if stage in result["stages"]]
    for figure in ("partitions", *FIGURES):
        in_stages = sum(stage[figure] for stage in result["stages"].values())
        assert result["total"][figure] == pytest.approx(in_stages)
    for name, stage in result["stages"].items():
        for figure in FIGURES:
            in_items = sum(item[figure] for item in result["items"] if item["stage"] == name)
            assert stage[figure] == pytest.approx(in_items)


def test_a_complete_study_has_nothing_to_do(completed: Lineage) -> None:
    result = plan(completed).as_json()
    assert result["total"]["partitions"] == 0
    assert result["total"]["wall_hours"] == 0
    assert result["total"]["exists"]["partitions"] == len(result["items"])
    assert result["stages"]["synthetic"]["exists"]["output_tokens"] == 9 * 9_000
    for item in result["items"]:
        assert item["fingerprint"].startswith(Path(item["folder"]).name)
        assert (Path(item["folder"]) / MANIFEST).is_file()
    first = result["items"][0]
    assert f"  {first['name']} current {first['folder']}" in item_lines(result["items"], True)


@pytest.mark.slow
def test_the_forecast_of_the_live_view_is_of_what_is_missing(completed: Lineage) -> None:
    every = [*items(completed)]
    last = [item for item in every if item.stage == "training"][-1]
    assert Forecast.of(completed, every).seconds([last]) == 0
    shutil.rmtree(last.artifact().folder)
    forecast = Forecast.of(completed.snapshot(), every)
    assert forecast.seconds([last]) > 0
    assert sum(forecast.seconds([item]) for item in every if item.stage not in ("training", "evaluation")) == 0


def test_an_edited_prompt_makes_its_partitions_and_their_dependants_stale_with_the_reason(completed: Lineage) -> None:
    stale = of_status(plan(edit(completed, "table")), "stale")
    cells = ["rephraser__package_readmes", "rephraser__language_reference"]
    own = {f"synthetic/{cell}/table" for cell in cells}
    assert {name for name, reasons in stale.items() if any("prompt.template" in reason for reason in reasons)} == own
    mixtures = ("all_formats_and_raw", "formats_and_raw")
    runs = [f"{mixture}__nano__data{seed}_model{seed}" for mixture in mixtures for seed in (0, 1)]
    assert set(stale) == {
        *own,
        *(f"audits/{cell}_audit/table" for cell in cells),
        *(f"tokens/{cell}_tokens/table" for cell in cells),
        *(f"mixtures/mixture/{mixture}" for mixture in mixtures),
        *(f"training/checkpoint/{run}" for run in runs),
        *(f"evaluation/benchmark_scores/{run}" for run in runs),
        "results/leaderboard",
    }
    assert stale["tokens/rephraser__package_readmes_tokens/table"] == (
        "synthetic/rephraser__package_readmes/table is stale",
    )
    assert set(of_status(plan(completed), "missing")) == set()


def test_measured_figures_replace_published_ones(completed: Lineage) -> None:
    """The measurements are four datasets of 9,000 tokens at 300 tokens per second, without a GPU."""
    synthetic = plan(edit(completed, "table")).as_json()["stages"]["synthetic"]
    assert "throughput: measured here over 81,000 tokens, without a GPU" in synthetic["basis"]
    assert "completions: measured here on 180 documents" in synthetic["basis"]
    assert synthetic["output_tokens"] == 2 * 100 * 100  # of 100 documents each, 100 tokens a completion
    assert synthetic["gpu_hours"] == 0
    assert synthetic["wall_hours"] == pytest.approx(20_000 / 300 / 3600)


def test_lengths_with_a_smaller_limit_do_not_count_for_a_larger_one(completed: Lineage, tmp_path: Path) -> None:
    fields = yaml.safe_load(completed.paths.study.read_text())
    fields["generators"]["rephraser"]["max_tokens"] = 300
    study = tmp_path / "longer.yaml"
    study.write_text(yaml.safe_dump(fields))
    paths = Paths(data=completed.paths.data, study=study, prompts=completed.paths.prompts)
    synthetic = plan(read_lineage(paths)).as_json()["stages"]["synthetic"]
    assert synthetic["basis"][0] == "completions: published, this prompt by other generators"
    assert synthetic["output_tokens"] == 8 * 100 * 300


def test_the_rate_of_a_large_model_without_a_gpu_never_makes_a_study_free(completed: Lineage, tmp_path: Path) -> None:
    """The generator of the production run was tried on a laptop."""
    fields = yaml.safe_load(completed.paths.study.read_text())
    fields["generators"]["rephraser"] |= {"parameters": 1.7e9}
    fields["generators"]["rephraser"]["model"] = str(tmp_path)
    study = tmp_path / "laptop.yaml"
    study.write_text(yaml.safe_dump(fields))
    paths = Paths(data=completed.paths.data, study=study, prompts=completed.paths.prompts)
    lineage = read_lineage(paths)
    complete(lineage)
    shutil.rmtree(lineage.dataset(lineage.study.cells[0], "table").folder)
    synthetic = plan(lineage).as_json()["stages"]["synthetic"]
    assert synthetic["partitions"] == 1
    assert synthetic["gpu_hours"] > 0


def test_a_failed_audit_is_named_with_what_cannot_be_made_because_of_it(tmp_path: Path) -> None:
    lineage = lineage_of("demo", tmp_path)
    failed = {
        "passed": False,
        "gates": [
            {"name": "form", "passed": False, "blocking": True, "value": 0.611, "bound": "at least", "threshold": 0.8},
            {"name": "loops", "passed": False, "blocking": False},
            {"name": "empty", "passed": True, "blocking": True},
        ],
    }
    for item in items(lineage.snapshot()):

        def make(folder: Path, of: Item = item) -> Contents:
            (folder / "content.txt").write_text(of.name)
            facts = failed if "readmes_audit/faq" in of.name else FACTS.get(of.stage, {})
            return Contents(files=[folder / "content.txt"], facts=facts)

        item.artifact().materialize(make)
    figures = plan(lineage).as_json()
    (warning,) = [warning for warning in figures["warnings"] if "did not pass" in warning]
    listed = [item for item in figures["items"] if item["stage"] == "audits"]
    not_passed = [
        item["name"] for item in listed if item["reasons"] == ["did not pass (form is 0.611, required is at least 0.8)"]
    ]
    assert not_passed == [item["name"] for item in listed if "readmes_audit/faq" in item["name"]]
    audits = figures["stages"]["audits"]
    assert (audits["failed"], audits["exists"]["partitions"]) == (len(not_passed), len(listed) - len(not_passed))
    assert warning.startswith(
        "audits/rephraser__package_readmes_audit/faq: did not pass (form is 0.611, required is at least 0.8); mix"
    )
    assert "mixtures/mixture/faq_and_raw" in warning
    assert "14 partitions downstream" in warning  # tokens, three mixtures of two students with scores, the leaderboard


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", '{"fingerprint": "other", "version": "1", "recipe": {}}'])
def test_a_broken_manifest_makes_an_item_missing_and_its_dependants_stale(completed: Lineage, content: str) -> None:
    artifact = completed.dataset(completed.study.cells[0], "table")
    (artifact.folder / "__meta__" / "manifest.json").write_text(content)
    result = plan(completed)
    (reasons,) = of_status(result, "missing").values()
    assert "delete its folder" in reasons[0]
    assert "audits/rephraser__package_readmes_audit/table" in of_status(result, "stale")
    assert result.as_json()["stages"]["synthetic"]["partitions"] == 1


def test_a_large_student_that_was_trained_without_a_gpu_never_makes_a_study_free(
    completed: Lineage, tmp_path: Path
) -> None:
    fields = yaml.safe_load(completed.paths.study.read_text())
    fields["students"]["nano"] |= {"layers": 24, "hidden": 2048, "ffn": 8192, "heads": 16}
    study = tmp_path / "large.yaml"
    study.write_text(yaml.safe_dump(fields))
    paths = Paths(data=completed.paths.data, study=study, prompts=completed.paths.prompts)
    lineage = read_lineage(paths)
    run = next(iter(lineage.study.student_runs))
    slow = {"tokens": 1e6, "tokens_per_second": 8_000.0, "gpus": 0}
    lineage.checkpoint(run).materialize(lambda folder: Contents(files=[], facts=slow))
    training = plan(lineage).as_json()["stages"]["training"]
    assert training["gpu_hours"] > 0
    assert training["basis"] == ["throughput: published, scaled by parameters and tokens"]


def test_the_cost_is_unknown_if_only_a_cpu_rate_of_the_model_is_known(completed: Lineage, tmp_path: Path) -> None:
    fields = yaml.safe_load(completed.paths.study.read_text())
    fields["generators"]["rephraser"]["model"] = str(tmp_path)
    study = tmp_path / "unknown.yaml"
    study.write_text(yaml.safe_dump(fields))
    lineage = read_lineage(Paths(data=completed.paths.data, study=study, prompts=completed.paths.prompts))
    for item in items(lineage.snapshot()):
        facts = {"sampling": {}} if item.stage == "generators" else FACTS.get(item.stage, {})
        item.artifact().materialize(lambda folder, figures=facts: Contents(files=[], facts=figures))
    shutil.rmtree(lineage.dataset(lineage.study.cells[0], "table").folder)
    assert [what.partition(":")[0] for what in plan(lineage).unknown] == ["generators.rephraser"]


ODD = ["completed", "run", "text_bytes", "sampling", "seconds", "tokens_per_second", "files", "rows", "passed", "gates"]


@pytest.mark.slow
@given(field=st.sampled_from(ODD), value=st.none() | st.just("fast") | st.just([]) | st.just({}) | st.just(float(-1)))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_plan_is_made_whatever_the_manifests_contain(completed: Lineage, field: str, value: object) -> None:
    originals = {}
    for path in completed.paths.data.rglob("manifest.json"):
        originals[path] = path.read_text()
        manifest = json.loads(originals[path])
        if field in manifest:
            path.write_text(json.dumps({**manifest, field: value}))
    try:
        assert plan(edit(completed, "table")).as_json()["items"]
    finally:
        for path, text in originals.items():
            path.write_text(text)


@pytest.mark.slow
def test_a_data_folder_that_is_a_file_is_a_wrong_request(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = finephrase("plan", FINEPHRASE_DATA=str(tmp_path / "file"))
    assert done.returncode == 2
    assert "is not a folder" in done.stderr


@pytest.mark.parametrize(("limit", "documents"), [(None, 100), (200, 100), (100, 0)])
def test_the_size_of_a_changed_source_is_its_earlier_count_unless_that_was_its_limit(
    limit: int | None, documents: int, tmp_path: Path
) -> None:
    lineage = read_lineage(Paths(data=tmp_path / "data", study=study_with(tmp_path, limit=limit)))
    lineage.source("web").materialize(lambda folder: Contents(files=[], facts=FACTS["sources"]))
    changed = study_with(tmp_path, sample={"rate": 0.5, "seed": 1})
    sources = plan(read_lineage(Paths(data=tmp_path / "data", study=changed))).as_json()["stages"]["sources"]
    assert (sources["stale"], sources["documents"]) == (1, documents)
    assert sources["basis"][0] == f"size: {'counted here, by an earlier recipe' if documents else 'unknown'}"


def test_rates_of_another_model_with_the_same_name_do_not_count(completed: Lineage, tmp_path: Path) -> None:
    fields = yaml.safe_load(completed.paths.study.read_text())
    fields["generators"]["rephraser"] |= {
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct@main",
        "parameters": 134_000_000,
    }
    study = tmp_path / "other.yaml"
    study.write_text(yaml.safe_dump(fields))
    paths = Paths(data=completed.paths.data, study=study, prompts=completed.paths.prompts)
    result = plan(read_lineage(paths))
    synthetic = result.as_json()["stages"]["synthetic"]
    assert synthetic["basis"][1] == "throughput: published sweep, tier 1"  # the registry knows the model
    assert synthetic["gpu_hours"] > 0
    assert any(warning.startswith("generators.rephraser: a branch may move") for warning in result.warnings)


def test_twice_the_gpus_take_half_the_time_and_cost_the_same(tmp_path: Path) -> None:
    lineage = lineage_of("production", tmp_path)
    one, two, half = (
        plan(lineage, terms).as_json()["stages"]["synthetic"]
        for terms in (Terms(gpus=50), Terms(gpus=100), Terms(gpus=50, goodput=0.5))
    )
    assert two["wall_hours"] == pytest.approx(one["wall_hours"] / 2)
    assert two["dollars"] == pytest.approx(one["dollars"])
    assert half["dollars"] == pytest.approx(2 * one["dollars"])
    assert half["gpu_hours"] == pytest.approx(one["gpu_hours"])


def study_with(folder: Path, **source: Any) -> Path:
    """Write a study of one source and a model of unknown size and throughput."""
    fields = yaml.safe_load((STUDIES / "production.yaml").read_text())
    fields["sources"] = {"web": {"kind": "hub", "dataset": "some/web", "revision": "1", **source}}
    fields["generators"] = {
        "unknown": {"model": "some/model@1", "context": 4096, "max_tokens": 512, "sampling": {"seed": 0}}
    }
    fields["cells"] = [{"generator": "unknown", "source": "web"}]
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


@pytest.mark.slow
def test_an_unknown_cost_is_never_taken_for_zero(tmp_path: Path) -> None:
    study = study_with(tmp_path)
    result = plan(read_lineage(Paths(data=tmp_path / "data", study=study)))
    assert [what.partition(":")[0] for what in result.unknown] == ["sources.web", "generators.unknown"]
    figures = result.as_json()
    for stage in (figures["total"], figures["stages"]["synthetic"]):
        assert (stage["dollars"], stage["gpu_hours"], stage["wall_hours"]) == (None, None, None)
        assert stage["unpriced"] > 0
    assert figures["total"]["known"]["wall_hours"] > 0
    assert {item["dollars"] is None for item in figures["items"] if item["unknown"]} == {True}
    done = finephrase("plan", "--study", str(study), "--max-dollars", "1e9", FINEPHRASE_DATA=str(tmp_path / "data"))
    assert done.returncode == 1
    assert "error: the cost cannot be computed: sources.web: unknown size" in done.stderr


def test_the_limit_of_a_source_bounds_its_size(tmp_path: Path) -> None:
    study = study_with(tmp_path, limit=1000, documents=5_000_000, tokens=10_000_000_000)
    result = plan(read_lineage(Paths(data=tmp_path / "data", study=study))).as_json()
    assert result["stages"]["sources"]["documents"] == 1000
    assert result["stages"]["sources"]["input_tokens"] == 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "status"), [("100000", 0), ("1000", 1)])
def test_max_dollars_guards_a_launch(limit: str, status: int, tmp_path: Path) -> None:
    study = str(STUDIES / "production.yaml")
    done = finephrase("plan", "--study", study, "--max-dollars", limit, "--json", FINEPHRASE_DATA=str(tmp_path))
    assert done.returncode == status
    assert json.loads(done.stdout)["total"]["dollars"] > 40_000
    assert ("more than --max-dollars 1,000.00. Raise the limit" in done.stderr) == bool(status)


@pytest.mark.slow
def test_the_printed_plan_names_stages_costs_and_bases(tmp_path: Path) -> None:
    study = str(STUDIES / "production.yaml")
    done = finephrase("plan", "--study", study, "--gpus", "100", FINEPHRASE_DATA=str(tmp_path))
    assert done.returncode == 0
    assert "synthetic: completions: published run; throughput: published sweep, tier 1" in done.stdout
    assert "6.1 days" in done.stdout
    assert "100 GPUs at 3 dollars per hour, working 100 % of the time; the stages run" in done.stdout
    everything = finephrase("plan", "--study", study, "--items", FINEPHRASE_DATA=str(tmp_path)).stdout
    assert "synthetic/smollm2_1_7b__fineweb_edu_350bt/faq missing" in everything


@pytest.mark.slow
def test_a_plan_without_gpu_hours_names_no_price(tmp_path: Path) -> None:
    done = finephrase("plan", FINEPHRASE_DATA=str(tmp_path))
    assert (done.returncode, "dollars per hour" in done.stdout) == (0, False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--gpus", "0"], ["--goodput", "2"], ["--goodput", "nan"], ["--max-dollars", "-1"], ["--gpu-hour-dollars", "inf"]],
)
def test_impossible_terms_are_a_wrong_request(arguments: list[str], tmp_path: Path) -> None:
    done = finephrase("plan", *arguments, FINEPHRASE_DATA=str(tmp_path))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_web_ui_shows_the_plan_without_making_anything(completed: Lineage) -> None:
    lineage = edit(completed, "table")
    before = sorted(path for path in lineage.paths.data.rglob("*"))
    with dg.DagsterInstance.ephemeral() as instance:
        job = build_defs(lineage).resolve_job_def("make__study__plan")
        result = job.execute_in_process(instance=instance, run_config={"ops": {"study__plan": {"config": {"gpus": 2}}}})
    assert result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["current"].passed
    assert "0 missing" in (checks["current"].description or "")
    assert checks["priced"].passed
    event = result.get_asset_materialization_events()[0]
    metadata = event.step_materialization_data.materialization.metadata
    assert "| synthetic | 2 | 7 |" in str(metadata["plan"].value)
    assert "`synthetic/rephraser__package_readmes/table`: prompt.template" in str(metadata["stale"].value)
    assert sorted(path for path in lineage.paths.data.rglob("*")) == before


@pytest.mark.slow
def test_a_change_to_a_finished_study_is_priced_by_measured_figures(own: Installation) -> None:
    result = plan(own.lineage).as_json()
    assert result["total"]["partitions"] == 0
    path = own.paths.prompts / "table.md"
    path.write_text(path.read_text().replace("Gather", "Collect"))
    after = plan(own.lineage).as_json()
    assert {item["name"] for item in after["items"] if item["state"] == "stale"} == {
        "synthetic/rephraser__package_readmes/table",
        "audits/rephraser__package_readmes_audit/table",
        "tokens/rephraser__package_readmes_tokens/table",
    }
    completions, throughput = after["stages"]["synthetic"]["basis"][:2]
    assert completions == "completions: measured here on 24 documents"
    assert throughput.startswith("throughput: measured here over ")


def test_the_plan_warns_of_a_mixture_that_repeats_its_data_too_often(lineage: Lineage) -> None:
    assert not [warning for warning in plan(lineage).warnings if "times" in warning]
    fields = lineage.study.model_dump()
    fields["mixtures"]["readmes_raw"]["tokens"] = 80_000_000
    (warning,) = [
        warning
        for warning in plan(
            Lineage(study=Study.model_validate(fields, context=catalogue()), paths=lineage.paths)
        ).warnings
        if "times" in warning
    ]
    assert re.match(
        r"mixtures\.readmes_raw: a student sees package_readmes about \d+\.\d times: beyond 4 times", warning
    )


def test_the_plan_warns_of_a_missing_tokenizer(lineage: Lineage, tmp_path: Path) -> None:
    fields = lineage.study.model_dump() | {"tokenizer": {"model": str(tmp_path / "nowhere")}}
    result = plan(Lineage(study=Study.model_validate(fields, context=catalogue()), paths=lineage.paths))
    assert any(
        warning.startswith(f"tokenizer: the folder {tmp_path}/nowhere does not exist") for warning in result.warnings
    )


def test_rollouts_cost_what_they_are_expected_to_draw(tmp_path: Path) -> None:
    fields = yaml.safe_load((REPOSITORY / "studies" / "demo.yaml").read_text())
    tokens = {}
    for rule in ({}, {"rollouts": 3, "keep": "best"}, {"rollouts": 3}):
        fields["generators"]["rephraser"] = {
            name: value for name, value in fields["generators"]["rephraser"].items() if name not in ("rollouts", "keep")
        } | rule
        study = tmp_path / "study.yaml"
        study.write_text(yaml.safe_dump(fields))
        lineage = read_lineage(Paths(data=tmp_path / "data", study=study, prompts=REPOSITORY / "prompts"))
        items_ = [one for one in plan(lineage).items if one.item.asset == "synthetic/rephraser__package_readmes"]
        tokens[str(rule)] = sum(one.cost.output_tokens for one in items_)
    once, best, first = tokens.values()
    assert best == pytest.approx(3 * once, rel=0.01)
    assert first == pytest.approx((1 + 0.2 + 0.04) * once, rel=0.01)


@pytest.mark.slow
def test_items_that_are_stale_for_one_reason_take_one_line(tmp_path: Path) -> None:
    study = Path(shutil.copy(STUDIES / "demo.yaml", tmp_path))
    complete(read_lineage(Paths(data=tmp_path / "data", study=study)))
    study.write_text(study.read_text().replace("tokens: 64_000", "tokens: 32_000"))
    output = finephrase("plan", "--study", str(study), FINEPHRASE_DATA=str(tmp_path / "data"))
    assert output.returncode == 0, output.stderr
    output = output.stdout
    stale = output[output.index("stale:") : output.index("sampling:")].splitlines()[1:]
    assert len(stale) < 8, stale
    assert any(re.search(r" \d+ of training, such as \S+: inputs that are not current: 1$", line) for line in stale)


def test_local_files_are_measured_and_a_local_model_is_no_download(tmp_path: Path) -> None:
    texts = ["A short text.", "Another one that is longer. " * 20] * 50
    for name in ("a", "b"):
        pq.write_table(pa.table({"body": texts, "other": texts}), tmp_path / f"{name}.parquet", use_dictionary=False)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.6}')
    fields = {
        "name": "own",
        "description": "How large is it?",
        "sources": {"mine": {"kind": "files", "paths": [str(tmp_path / "*.parquet")], "text_column": "body"}},
        "generators": {"local": {"model": str(tmp_path / "model"), "context": 1024, "max_tokens": 256}},
        "cells": [{"generator": "local", "source": "mine", "prompts": ["faq"]}],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields))
    figures = plan(read_lineage(Paths(data=tmp_path / "data", study=tmp_path / "study.yaml"))).as_json()
    sources, generators = figures["stages"]["sources"], figures["stages"]["generators"]
    assert sources["documents"] == 200
    assert sources["input_tokens"] == pytest.approx(2 * sum(map(len, texts)) / 4, rel=0.1)
    assert generators["basis"] == ["read in place from its folder"]
    assert generators["disk_bytes"] == 0
    assert figures["sampling"] == [
        "local: temperature 0.6 (set by the model), top_p 1.0 (default), top_k off (default), seed 0"
    ]
