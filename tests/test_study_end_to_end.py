"""A small study, for real: corpora, a trained generator, vLLM, audits, mixtures, students, scores, MLflow.

The study is made once; the tests look at what it left, and change copies of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from finephrase_dagster.artifacts.graph import items, state
from finephrase_dagster.artifacts.key import CHECKPOINT
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.audit.overlap import prompt_overlaps
from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.commands.main import app
from finephrase_dagster.definitions import build_defs, record_in_mlflow
from finephrase_dagster.orchestration.due_job import build_due_job
from finephrase_dagster.results.leaderboard import record_study
from finephrase_dagster.results.warehouse import writing
from finephrase_dagster.study.paths import REPOSITORY
from finephrase_dagster.study.spec import Study
from installation import CELL, Installation, install, small_study

pytestmark = pytest.mark.slow


def test_every_partition_of_the_graph_is_there(finished: Installation) -> None:
    states = {item.name: state(item).status for item in items(finished.lineage)}
    assert set(states.values()) == {"current"}


def test_the_leaderboard_ranks_every_mixture(finished: Installation) -> None:
    rows = json.loads((finished.lineage.leaderboard().folder / "leaderboard.json").read_text())
    assert {row["mixture"] for row in rows} == {"raw", "faq_and_raw"}
    for row in rows:
        assert 0 < row["macro"] < 1
        assert set(row["categories"]) == {"GK", "RC", "RES", "NLU", "MATH", "TABLE"}
        assert row["macro"] == pytest.approx(sum(row["categories"].values()) / 6)
    assert rows == sorted(rows, key=lambda row: -row["macro"])
    assert {(row["mixture"], row["decay_from"]) for row in rows} == {
        ("raw", None),
        ("faq_and_raw", None),
        ("faq_and_raw", "raw"),
    }
    by_mixture = {row["mixture"]: row for row in rows}
    assert by_mixture["raw"]["mix_in"] == {"package_readmes": 1}
    assert by_mixture["faq_and_raw"]["mix_in"] == {"package_readmes": 0.5}
    components = finished.lineage.mixture("faq_and_raw").manifest()["components"]
    assert by_mixture["faq_and_raw"]["epochs"] == max(component["epochs"] for component in components)


def test_students_are_scored_on_the_way_and_the_order_there_is_compared_with_the_end(finished: Installation) -> None:
    lineage = finished.lineage
    for run in lineage.study.student_runs:
        scores = lineage.scores(run).manifest()
        steps = [point["step"] for point in scores["curve"]]
        assert steps == ([16] if run.endswith("decay_raw") else [8, 16])
        assert scores["curve"][-1]["macro"] == scores["macro"]
        low, high = scores["macro_interval"]
        assert low <= scores["macro"] <= high
    (look,) = json.loads((lineage.leaderboard().folder / "early.json").read_text())
    assert (look["step"], look["runs"]) == (8, 2)
    assert look["regret"]["0.5"] >= 0


def test_a_decay_variant_continues_from_the_pre_decay_checkpoint_of_its_base(finished: Installation) -> None:
    lineage = finished.lineage
    base, decayed = "raw__nano__data0_model0", "faq_and_raw__nano__data0_model0__decay_raw"
    curves = {run: lineage.checkpoint(run).manifest()["curve"] for run in (base, decayed)}
    pre_decay = lineage.pre_decay_checkpoint(base).manifest()
    assert curves[base][: len(pre_decay["curve"])] == curves[decayed][: len(pre_decay["curve"])] == pre_decay["curve"]
    assert curves[base][-1]["loss"] != curves[decayed][-1]["loss"]
    assert lineage.checkpoint(base).manifest()["resumed_from"] == pre_decay["steps"]
    order = lineage.checkpoint(decayed).folder / "order.parquet"
    assert duckdb.execute("SELECT count(*) FROM read_parquet(?)", [str(order)]).fetchone() == (128,)


def test_a_mixture_that_repeats_its_data_is_warned_of(finished: Installation) -> None:
    with finished.instance() as instance:
        key = dg.AssetCheckKey(dg.AssetKey(["mixtures", "mixture"]), "repetition")
        (record, *_) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
        evaluation = record.event.asset_check_evaluation if record.event else None
        assert evaluation is not None
        many = finished.lineage.mixture(evaluation.partition or "").manifest()["components"]
        assert evaluation.passed == (max(component["epochs"] for component in many) <= 4)


def test_a_mixture_records_how_far_the_prompts_of_a_cell_say_the_same(finished: Installation) -> None:
    assert finished.lineage.mixture_manifest("faq_and_raw")["overlaps"] == []  # a single prompt
    fields = finished.lineage.study.model_dump()
    fields["mixtures"]["faq_and_raw"]["components"] = {f"{CELL}/faq": 1, f"{CELL}/table": 1}
    study = Study.model_validate(fields, context=catalogue())
    (pair,) = prompt_overlaps(Lineage(study=study, paths=finished.paths), "faq_and_raw")
    assert (pair.first, pair.second) == (f"{CELL}/faq", f"{CELL}/table")
    assert pair.documents > 0
    assert 0 <= pair.near_duplicates <= 1


def test_the_warehouse_holds_manifests_audits_and_scores(finished: Installation) -> None:
    with duckdb.connect(str(finished.paths.warehouse), read_only=True) as connection:
        manifests = connection.execute("SELECT count(*) FROM manifests").fetchone()
        gates = connection.execute("SELECT DISTINCT gate FROM audits").fetchall()
        tasks = connection.execute("SELECT count(DISTINCT name) FROM scores WHERE kind = 'task'").fetchone()
    assert manifests == (len(list(items(finished.lineage))),)
    assert {gate for (gate,) in gates} >= {"accounting", "completed", "empty", "truncated", "form", "common_opening"}
    assert tasks == (13,)


def mlflow_runs(made: Installation) -> list[Any]:
    """Return the runs of a study in MLflow."""
    client = MlflowClient(f"sqlite:///{made.paths.tracking_store}")
    experiment = client.get_experiment_by_name("finephrase/small")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_mlflow_has_one_finished_run_per_checkpoint_with_curve_scores_and_mixture(finished: Installation) -> None:
    client = MlflowClient(f"sqlite:///{finished.paths.tracking_store}")
    everything = [run for run in mlflow_runs(finished) if "finephrase.kind" in run.data.tags]
    assert {run.info.status for run in everything} == {"FINISHED"}
    arms = {run.info.run_name: run for run in everything if run.data.tags["finephrase.kind"] == "arm"}
    assert sorted(arms) == ["faq_and_raw__nano", "faq_and_raw__nano__decay_raw", "raw__nano"]
    students = [run for run in everything if run.info.run_name not in arms]
    runs = [run for run in students if run.data.tags["dagster.asset"] == "training/checkpoint"]
    assert sorted(run.info.run_name for run in runs) == sorted(finished.lineage.study.student_runs)
    (pre_decay,) = [run for run in students if run not in runs]
    assert pre_decay.info.run_name == "raw__nano__data0_model0 (pre-decay)"
    for run in runs:
        tags = run.data.tags
        assert {"macro", "micro", "gsm8k", "GK", "final_loss"} <= set(run.data.metrics)
        assert run.data.params["model_seed"] == "0"
        assert {"dagster.run_id", "dagster.scores_run_id", "dagster.partition", "finephrase.fingerprint"} <= set(tags)
        manifest = finished.lineage.checkpoint(run.info.run_name).manifest()
        history = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss")]
        assert history == [(point["step"], point["loss"]) for point in manifest["curve"]]
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "macro")]
        assert steps == sorted(set(steps))
        assert steps[-1] == manifest["steps"]
        assert 8 in steps or run.data.params["decay_from"] != "None"
        arm = arms[finished.lineage.study.student_runs[run.info.run_name].arm]
        assert tags["mlflow.parentRunId"] == arm.info.run_id
        assert arm.data.metrics["macro"] == run.data.metrics["macro"]  # a study of one seed
        components = finished.lineage.mixture_manifest(tags["finephrase.mixture"])["components"]
        for each in (run, arm):
            used = {used.dataset.name: used.dataset.digest for used in each.inputs.dataset_inputs}
            assert used.keys() == {component["name"] for component in components}
        assert used["package_readmes"] == finished.lineage.source("package_readmes").fingerprint[:16]
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert files == {"mixture.json", "manifest.json", "environment.txt"}
    of_arm = arms["faq_and_raw__nano"]
    assert of_arm.data.tags["finephrase.verdict"] == "not comparable"  # it repeats its text more than its baseline
    (cell,) = client.list_artifacts(of_arm.info.run_id, "audits")
    assert [file.path for file in client.list_artifacts(of_arm.info.run_id, cell.path)] == [f"{cell.path}/faq.html"]


def test_dagster_knows_every_partition_its_checks_and_its_previews(finished: Installation) -> None:
    with finished.instance() as instance:
        for item in items(finished.lineage):
            key = dg.AssetKey(item.key.path)
            record = instance.fetch_materializations(
                dg.AssetRecordsFilter(key, asset_partitions=[item.partition] if item.partition else None), limit=1
            ).records[0]
            found = record.asset_materialization
            assert found is not None
            assert found.tags["dagster/data_version"] == item.artifact().version
            assert "recipe" in found.metadata
            if item.stage in ("sources", "synthetic", "mixtures"):
                assert "preview" in found.metadata
                assert "dagster/row_count" in found.metadata


def test_a_second_run_makes_nothing(own: Installation) -> None:
    outcome, _ = own.materialize()
    assert outcome.made == []
    assert len(outcome.reused) == len(list(items(own.lineage)))


def test_events_that_dagster_lost_are_recorded_again_without_recomputing(own: Installation) -> None:
    manifests = {path: path.stat().st_mtime_ns for path in (own.paths.data / "artifacts").rglob("manifest.json")}
    for path in (own.root / "dagster_home").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    outcome, _ = own.materialize()
    assert outcome.complete
    assert len(outcome.made) == len(manifests)
    with own.instance() as instance:  # otherwise Overview and Jobs would not show them
        runs = instance.get_runs()
    assert {run.remote_job_origin and run.remote_job_origin.location_name for run in runs} == {"finephrase"}
    assert {
        path: path.stat().st_mtime_ns for path in (own.paths.data / "artifacts").rglob("manifest.json")
    } == manifests


def stale(installation: Installation) -> set[str]:
    """What Dagster itself calls stale."""
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    graph = build_defs(installation.lineage).resolve_asset_graph()
    with installation.instance() as instance:
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        return {
            item.name
            for item in items(installation.lineage)
            if resolver.get_status(dg.AssetKey(item.key.path), item.partition) != StaleStatus.FRESH
        }


def test_dagster_shows_a_cell_as_stale_whose_sampling_changed_until_it_is_materialized(own: Installation) -> None:
    cell = {f"{asset}/{prompt}" for asset in CELL_ASSETS for prompt in ("faq", "table")}
    fields = small_study()
    for temperature in (0.9, 1.0):  # the second is what the model's own settings say already
        fields["generators"]["rephraser"]["sampling"] = {"temperature": temperature}
        own.write(fields)
        assert stale(own) == cell
    outcome, _ = own.materialize()
    assert set(outcome.made) == cell, "reused, and recorded with the new settings"
    assert stale(own) == set()


CELL_ASSETS = (f"synthetic/{CELL}", f"audits/{CELL}_audit", f"tokens/{CELL}_tokens")


def test_an_edited_prompt_recomputes_what_depends_on_it_and_nothing_else(own: Installation) -> None:
    assert stale(own) == set()
    path = own.paths.prompts / "table.md"
    path.write_text(path.read_text().replace("Gather", "Collect"))
    untouched = {item.name: item.artifact().folder for item in items(own.lineage) if "/table" not in item.name}
    outcome, said = own.materialize()
    assert outcome.complete
    assert set(outcome.made) == {
        f"synthetic/{CELL}/table",
        f"audits/{CELL}_audit/table",
        f"tokens/{CELL}_tokens/table",
    }
    assert any("table is stale: prompt.template" in line for line in said)
    assert {item.name: item.artifact().folder for item in items(own.lineage) if item.name in untouched} == untouched
    assert stale(own) == set()


def test_dagster_marks_the_partition_of_an_edited_prompt_once_the_file_is_observed(own: Installation) -> None:
    from finephrase_dagster.orchestration.automation.observer import changed_prompts

    path = own.paths.prompts / "faq.md"
    path.write_text(path.read_text().replace("curious", "patient"))
    with own.instance() as instance:
        for observation in changed_prompts(own.lineage, instance):
            instance.report_runless_asset_event(observation)
    # Dagster marks direct dependants; what hangs on them follows when they have run.
    assert f"synthetic/{CELL}/faq" in stale(own)
    assert not {name for name in stale(own) if "faq" not in name}


def test_a_job_materializes_what_is_due_or_the_chosen_part_of_it(
    own: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"DAGSTER_HOME": own.root / "dagster_home", "FINEPHRASE_STUDY": own.study}.items():
        monkeypatch.setenv(name, str(value))
    fields = small_study()
    for mixture in fields["mixtures"].values():
        mixture["tokens"] += 4096
    own.write(fields)
    config = {"ops": {"materialize": {"config": {"select": ["mixtures/mixture/raw"]}}}}
    with own.instance() as instance:
        assert build_due_job(own.lineage).execute_in_process(run_config=config, instance=instance).success
    states = {item.name: state(item).status for item in items(own.lineage)}
    assert states["mixtures/mixture/raw"] == "current"
    assert states["mixtures/mixture/faq_and_raw"] == "stale"


def printed(own: Installation, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Return what a command prints about an installation, in one line."""
    monkeypatch.setenv("FINEPHRASE_DATA", str(own.paths.data))
    result = CliRunner().invoke(app, [*arguments, "--study", str(own.study)])
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_means_over_some_tasks_are_marked_as_partial_in_a_trace_and_in_mlflow(
    own: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = small_study()
    fields["evaluation"]["tasks"] = ["gsm8k", "piqa_cf"]
    own.write(fields)
    outcome, _ = own.materialize()
    assert outcome.complete
    words = "partial: macro and micro are means over 2 of the 12 tasks that count. Not evaluated: "
    shown = printed(own, monkeypatch, "trace", "faq_and_raw")
    assert "macro (partial) 0." in shown
    assert shown.count(words) == 1
    current = [run for run in mlflow_runs(own) if "finephrase.superseded" not in run.data.tags]
    tags = [run.data.tags for run in current if run.data.tags.get("finephrase.kind") == "student"]
    assert tags
    assert all(each["finephrase.partial"].startswith(words) for each in tags)
    assert "macro (partial)" in printed(own, monkeypatch, "results", "leaderboard")


def test_a_mixture_refuses_a_dataset_that_did_not_pass_its_audit(
    own: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = small_study()
    fields["gates"]["form"] = 1.0
    own.write(fields)
    outcome, _ = own.materialize()
    assert not outcome.complete
    shown = printed(own, monkeypatch, "results", "leaderboard")
    assert " raw nano" in shown
    assert re.search(r"without a score: faq_and_raw \(\d students?\): audits/\S+/faq did not pass \(form is 0", shown)
    listed = CliRunner().invoke(app, ["results", "leaderboard", "--json", "--study", str(own.study)])
    rows = {row["mixture"]: row for row in json.loads(listed.stdout)}
    assert rows["raw"]["macro"] > 0
    assert rows["raw"]["unscored"] == {}
    assert set(rows["faq_and_raw"]) == set(rows["raw"])
    assert (rows["faq_and_raw"]["seeds"], rows["faq_and_raw"]["macro"]) == (0, None)
    assert all("/faq did not pass (form is 0" in reason for reason in rows["faq_and_raw"]["unscored"].values())
    audits = {f"audits/{CELL}_audit/{prompt}" for prompt in ("faq", "table")}
    assert set(outcome.failed) == {*audits, "mixtures/mixture/faq_and_raw"}
    assert all(
        "form is" in outcome.failed[audit] and "required is at least 1" in outcome.failed[audit] for audit in audits
    )
    message = outcome.failed["mixtures/mixture/faq_and_raw"]
    assert f"{CELL}/faq did not pass its audit" in message
    assert "form is" in message
    assert "mixtures/mixture/raw" in outcome.reused
    with own.instance() as instance:
        key = dg.AssetCheckKey(dg.AssetKey(["audits", f"{CELL}_audit"]), "form")
        record = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)[0]
        assert record.status.value == "FAILED"


def test_a_further_seed_trains_just_its_students(own: Installation) -> None:
    fields = small_study()
    fields["seeds"].append({"data": 1, "model": 1})
    own.write(fields)
    outcome, _ = own.materialize()
    assert outcome.complete
    assert {name.split("/")[0] for name in outcome.made} == {"training", "evaluation", "results"}
    assert not [name for name in outcome.made if "data0_model0" in name]
    rows = json.loads((own.lineage.leaderboard().folder / "leaderboard.json").read_text())
    assert all(row["seeds"] == 2 and row["macro_sd"] is not None for row in rows)


def test_one_line_replaces_the_generator_with_a_model_in_a_folder(own: Installation, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(own.lineage.generator("rephraser").folder / "model", folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"temperature": 0.5}))
    fields = small_study()
    fields["generators"]["rephraser"]["model"] = str(folder)
    del fields["mixtures"]["raw"], fields["runs"]
    own.write(fields)
    outcome, _ = own.materialize()
    assert outcome.complete, outcome.failed
    recipe = own.lineage.dataset(own.lineage.study.cells[0], "faq").manifest()["recipe"]
    assert str(folder) not in json.dumps(recipe)
    assert recipe["sampling"]["temperature"] == 0.5
    shutil.rmtree(own.paths.data / "artifacts" / "generators")
    assert folder.is_dir()


def test_renamed_entries_of_a_study_find_their_artifacts_and_only_the_leaderboard_is_composed_again(
    own: Installation,
) -> None:
    manifests = {path: path.stat().st_mtime_ns for path in (own.paths.data / "artifacts").rglob("manifest.json")}
    text = own.study.read_text()
    for old, new in (("small", "renamed"), ("rephraser", "author"), ("package_readmes", "packages"), ("raw", "plain")):
        text = text.replace(old, new)
    own.study.write_text(text.replace("corpus: packages", "corpus: package_readmes"))
    outcome, _ = own.materialize()
    assert outcome.complete, outcome.failed
    there = {path: path.stat().st_mtime_ns for path in (own.paths.data / "artifacts").rglob("manifest.json")}
    assert there.items() > manifests.items()
    assert {path.parents[2].name for path in there.keys() - manifests.keys()} == {"leaderboard"}
    again, _ = own.materialize()
    assert not again.made
    components = own.lineage.mixture_manifest("faq_and_plain")["components"]
    assert {component["name"] for component in components} == {"packages", "author__packages/faq"}


def command(installation: Installation) -> tuple[list[str], dict[str, str]]:
    environment = {
        **os.environ,
        "FINEPHRASE_DATA": str(installation.paths.data),
        "DAGSTER_HOME": str(installation.root / "dagster_home"),
    }
    return [
        sys.executable,
        "-m",
        "finephrase_dagster.commands.main",
        "materialize",
        "--study",
        str(installation.study),
    ], environment


def heed_interrupts() -> None:
    """Undoes what a shell does to the commands it starts in the background: it has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lines_until(process: subprocess.Popen[str], text: str) -> Iterator[str]:
    assert process.stderr is not None
    for line in process.stderr:
        yield line
        if text in line:
            return
    raise AssertionError(f"it ended before it said {text!r}")


INTERRUPTIONS = [
    (signal.SIGKILL, "starting an engine"),
    (signal.SIGKILL, "tokens/tokenizer"),
    (signal.SIGINT, "training/checkpoint raw"),
]


def test_a_run_that_is_interrupted_again_and_again_completes_when_it_is_run_again(tmp_path: Path) -> None:
    made = install(tmp_path / "installation")
    arguments, environment = command(made)
    manifests: dict[Path, int] = {}
    for sent, moment in INTERRUPTIONS:
        process = subprocess.Popen(
            arguments,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=heed_interrupts,
        )
        said = list(lines_until(process, moment))
        time.sleep(0.5)
        process.send_signal(sent)
        process.communicate(timeout=60)
        assert process.returncode != 0
        there = {path: path.stat().st_mtime_ns for path in (made.paths.data / "artifacts").rglob("manifest.json")}
        assert there.items() > manifests.items(), said
        manifests = there
    outcome, _ = made.materialize()
    assert outcome.complete, outcome.failed
    assert {path: path.stat().st_mtime_ns for path in manifests} == manifests
    with made.instance() as instance:
        unfinished = [run for run in instance.get_runs() if not run.is_finished]
    assert unfinished == []


def test_a_deleted_warehouse_is_rebuilt_and_the_documented_query_gives_the_leaderboards_figures(
    own: Installation,
) -> None:
    text = (REPOSITORY / "docs" / "results.md").read_text()
    query = text.split("```sql\n")[1].split("```")[0].replace("'demo'", f"'{own.lineage.study.name}'")
    own.paths.warehouse.unlink()
    with writing(own.paths.warehouse) as connection:
        assert record_study(own.lineage, connection) == len(list(items(own.lineage)))
        assert record_study(own.lineage, connection) == 0
    rows = json.loads((own.lineage.leaderboard().folder / "leaderboard.json").read_text())
    with duckdb.connect(str(own.paths.warehouse), read_only=True) as connection:
        told = connection.execute(query).fetchall()
    assert [(row["mixture"], row["student"]) for row in rows if row["decay_from"] is None] == [row[:2] for row in told]
    assert [row["macro"] for row in rows if row["decay_from"] is None] == pytest.approx([row[2] for row in told])


def test_a_deleted_mlflow_store_is_filled_from_the_artifacts_once_by_two_commands_at_the_same_time(
    own: Installation,
) -> None:
    shutil.rmtree(own.paths.tracking_store.parent)
    own.paths.tracking_store.parent.mkdir()
    MlflowClient(f"sqlite:///{own.paths.tracking_store}")  # creates the tables, which two processes cannot do at once
    command = [sys.executable, "-m", "finephrase_dagster.commands.main", "results", "mlflow", "--study", str(own.study)]
    environment = {
        **os.environ,
        "FINEPHRASE_DATA": str(own.paths.data),
        "DAGSTER_HOME": str(own.root / "dagster_home"),
    }
    processes = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(300) for process in processes] == [0, 0]
    for _ in range(2):
        runs = {run.info.run_name: run for run in mlflow_runs(own)}
        assert len(runs) == len(mlflow_runs(own)) == len(own.lineage.study.student_runs) + 1 + 3  # pre-decay, arms
        for run in own.lineage.study.student_runs:
            assert runs[run].info.status == "FINISHED"
            assert runs[run].data.metrics["macro"] == own.lineage.scores(run).manifest()["macro"]
            assert runs[run].data.tags["dagster.run_id"]
        with own.instance() as instance:
            record_in_mlflow(own.lineage, instance, log=print)  # adds nothing


DYING = """
import os, signal, sys
from finephrase_dagster.commands.main import main
from resources.tracking import Tracking

Tracking.complete = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
sys.argv = ["finephrase", "materialize", "--study", sys.argv[1]]
main()
"""
"""Materializes a study until a student is trained, and dies before it is recorded."""


def test_a_run_that_is_killed_between_training_and_recording_leaves_one_run_and_one_row(own: Installation) -> None:
    run = next(iter(own.lineage.study.student_runs))
    shutil.rmtree(own.paths.tracking_store.parent)
    own.paths.warehouse.unlink()
    shutil.rmtree(own.lineage.checkpoint(run).folder)
    with own.instance() as instance:  # otherwise Dagster knows the version of the equal student that it gets again
        instance.wipe_assets([dg.AssetKey(CHECKPOINT.path)])
    environment = {
        **os.environ,
        "FINEPHRASE_DATA": str(own.paths.data),
        "DAGSTER_HOME": str(own.root / "dagster_home"),
    }
    killed = subprocess.run([sys.executable, "-c", DYING, str(own.study)], env=environment, timeout=600, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert own.lineage.checkpoint(run).complete
    assert [each.info.status for each in mlflow_runs(own) if each.info.run_name == run] == ["RUNNING"]
    outcome, _ = own.materialize()
    assert outcome.complete, outcome.failed
    assert [each.info.status for each in mlflow_runs(own) if each.info.run_name == run] == ["FINISHED"]
    with writing(own.paths.warehouse) as connection:
        record_study(own.lineage, connection)
        query = "SELECT part, count(*) FROM manifests WHERE asset = 'training/checkpoint' GROUP BY part"
        rows = dict(connection.execute(query).fetchall())
    assert rows == dict.fromkeys(own.lineage.study.student_runs, 1)
