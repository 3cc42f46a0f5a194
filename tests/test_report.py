"""The report: what its figures say about a study of known scores, and a page that needs nothing else."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from finephrase_dagster.commands.main import app
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.evaluate.categories import categories
from finephrase_dagster.results.evidence import Evidence, NoEvidence, read_evidence
from finephrase_dagster.results.external import import_study
from finephrase_dagster.results.figures import figures
from finephrase_dagster.results.noise import Replicates, pool_of, published_spread
from finephrase_dagster.results.report import SHOWN_ROWS, Drawn, chapter, draw, render, write_report
from finephrase_dagster.results.warehouse import reading
from finephrase_dagster.study.paths import REPOSITORY
from installation import Installation
from test_published_study import PUBLISHED, needs_published, score_rows, write_csv

TABLE, FAQ, BASE = "table_smollm2_1.7b_hq", "faq_smollm2_1.7b_hq", "fw_edu_hq"
STEPS = (2500, 5000, 7500, 10_000)


def curve(run: str, final: float, *, early: float | None = None) -> list[tuple[str, str, int, float]]:
    """Return the scored steps of a run that climbs evenly to its final score, or stands at another one before."""
    return [(run, "42", step, final if step == STEPS[-1] else (early or final * step / STEPS[-1])) for step in STEPS]


def study() -> list[dict[str, Any]]:
    runs = [
        point
        for seed, shift in ((1, -0.001), (2, 0.0), (3, 0.001))
        for point in (
            *curve(f"{BASE}--data-seed=1-seed={seed}", 0.100 + shift),
            *curve(f"mix-{BASE}-{TABLE}--data-seed=1-seed={seed}", 0.200 + shift),
        )
    ]
    runs += curve("finepdfs_edu", 0.150)
    for share, score in ((0.3, 0.180), (0.7, 0.220), (0.9, 0.210)):
        runs += curve(f"mix-{round(1 - share, 1)}-{BASE}-{share}-{TABLE}", score)
    runs += curve(f"mix-{BASE}-{FAQ}", 0.160)
    longer = [(f"mix-{BASE}-dclm-{TABLE}", "42", step, 0.5) for step in (*STEPS, 50_000)]
    return score_rows([*runs, *longer])


def generation(prompt: str, mixture: str, seconds: float) -> dict[str, Any]:
    return {
        "run": f"format/{prompt}",
        "model": "maker/small",
        "source_dataset": "web",
        "prompt": f"format/{prompt}.md",
        "num_documents": 10,
        "failed_requests": 0,
        "input_tokens": 100,
        "output_tokens": 7_340_032_000,
        "gpu_time_seconds": seconds,
        "output_tps_per_gpu": 5.0,
        "training_run": mixture,
    }


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("report")
    made = [generation("table", f"mix-{BASE}-{TABLE}", 7_200), generation("faq", f"mix-{BASE}-{FAQ}", 3_600)]
    (folder / "generations.json").write_text(json.dumps(made))
    sweep = f"model,base_tp,base_tps,t0_tps,t0_params,t1_tps,t1_params\n{made[0]['model']},1,9000,9500,a,9900,b\n"
    (folder / "sweep.csv").write_text(sweep)
    files = {"scores": write_csv(folder / "scores.csv", study()), "generations": folder / "generations.json"}
    files["sweep"] = folder / "sweep.csv"
    import_study(folder / "warehouse.duckdb", "theirs", files)
    with reading(folder / "warehouse.duckdb") as connection:
        return read_evidence(connection, "theirs")


def rows(name: str, evidence: Evidence) -> list[dict[str, Any]]:
    return figures()[name].rows(evidence)


def caption(name: str, evidence: Evidence) -> str:
    return figures()[name].caption(rows(name, evidence))


def by(field: str, found: list[dict[str, Any]]) -> Mapping[Any, dict[str, Any]]:
    return {row[field]: row for row in found}


def test_the_baseline_is_the_original_text_of_the_best_mixture_and_longer_runs_are_left_out(
    evidence: Evidence,
) -> None:
    assert evidence.baseline.mixture == BASE  # not finepdfs_edu, which scores higher
    assert evidence.left_out == (f"mix-{BASE}-dclm-{TABLE}",)
    assert [entry.mixture for entry in evidence.entries][:2] == [
        f"mix-0.3-{BASE}-0.7-{TABLE}",
        f"mix-0.1-{BASE}-0.9-{TABLE}",
    ]


@pytest.mark.slow
def test_the_answer_says_by_how_much_how_sure_at_what_cost_and_what_was_given_up(evidence: Evidence) -> None:
    conclusion = chapter(evidence).conclusion
    assert conclusion.word == "beats"
    assert "0.1200 ahead of the baseline, fw_edu_hq (0.1000)" in conclusion.answer
    text = " ".join(conclusion.remarks)
    assert "How sure: the difference lies in the interval +0.1" in text
    assert "Cost: 2 GPU-hours for 7,340,032,000 tokens of synthetic text." in text
    assert "no category scores lower" in text
    assert "trained for another number of tokens" in text


def test_the_leaderboards_intervals_are_those_of_the_noise_of_seeds(evidence: Evidence) -> None:
    row = by("mixture", rows("leaderboard", evidence))[BASE]
    # sd .001 of three seeds, two degrees of freedom: 4.3027 * .001 / sqrt(3)
    assert (row["low"], row["high"]) == pytest.approx((0.1 - 0.0024841, 0.1 + 0.0024841), abs=1e-6)
    assert row["text"] == "baseline"


def test_a_curve_crosses_the_baselines_final_score_where_it_stays_above(evidence: Evidence) -> None:
    found = rows("learning_curves", evidence)
    best = next(row for row in found if row["mixture"] == f"mix-0.3-{BASE}-0.7-{TABLE}")
    assert best["reaches_baseline_at"] == pytest.approx(0.1 / 0.22)
    assert "after 45% of its training tokens (2.2 times as fast)" in caption("learning_curves", evidence)


def test_ratio_curves_join_the_shares_of_the_same_components(evidence: Evidence) -> None:
    found = rows("ratio_curves", evidence)
    assert [(row["components"], row["synthetic"], round(row["macro"], 6), row["runs"]) for row in found] == [
        (TABLE, 0.3, 0.18, 1),
        (TABLE, 0.5, 0.2, 3),
        (TABLE, 0.7, 0.22, 1),
        (TABLE, 0.9, 0.21, 1),
    ]
    assert f"{TABLE} at 70% (0.2200)" in caption("ratio_curves", evidence)


def test_the_frontier_is_made_of_mixtures_that_no_cheaper_one_equals(evidence: Evidence) -> None:
    found = rows("costs", evidence)
    assert [(row["mixture"], row["gpu_hours"]) for row in found if row["frontier"]] == [
        (f"mix-{BASE}-{FAQ}", 1.0),
        (f"mix-0.3-{BASE}-0.7-{TABLE}", 2.0),
    ]


def test_categories_are_compared_with_the_baselines(evidence: Evidence) -> None:
    best = [row for row in rows("categories", evidence) if row["mixture"] == f"mix-0.3-{BASE}-0.7-{TABLE}"]
    assert len(best) == len(categories())
    assert all(row["difference"] == pytest.approx(0.12) for row in best)


def test_a_benchmarks_signal_is_its_spread_over_mixtures_by_that_over_seeds(evidence: Evidence) -> None:
    from statistics import stdev

    row = by("benchmark", rows("task_signal", evidence))["drop"]
    assert row["noise"] == pytest.approx(0.001)
    assert row["degrees_of_freedom"] == 4
    assert row["signal"] == pytest.approx(stdev([0.22, 0.21, 0.2, 0.18, 0.16, 0.15, 0.1]))
    assert not row["weak"]


def test_averaged_checkpoints_are_scored_next_to_the_last(evidence: Evidence) -> None:
    assert {row["estimate"] for row in rows("task_signal", evidence)} == {"last checkpoint"}  # four checkpoints
    assert by("score", rows("other_scores", evidence)) == {}  # nothing but the macro score


def test_a_token_is_worth_as_many_of_the_baseline_as_both_need_for_one_score(evidence: Evidence) -> None:
    worth = by("mixture", rows("data_efficiency", evidence))
    better = worth[f"mix-{BASE}-{TABLE}"]  # climbs evenly to 0.2, the baseline to 0.1
    assert (better["efficiency"], better["better"]) == (pytest.approx(2), True)
    assert better["speed_up_step"] == pytest.approx(STEPS[-1] / 2)
    assert BASE not in worth
    swapped = replace(evidence, baseline=evidence.entry(f"mix-{BASE}-{TABLE}"))
    worse = by("mixture", rows("data_efficiency", swapped))[BASE]
    assert (worse["efficiency"], worse["better"]) == (pytest.approx(0.5), False)


def test_early_scores_that_rank_as_the_final_ones_agree_fully(evidence: Evidence) -> None:
    assert all(row["agreement"] == 1 and row["rank_correlation"] == 1 for row in rows("early_decisions", evidence))


def test_the_variance_of_a_grid_of_seeds_is_split_by_what_the_seed_draws(tmp_path: Path) -> None:
    shift = {1: -0.01, 2: 0.0, 3: 0.01}  # the data seed alone moves the score
    runs = [
        point
        for data, moved in shift.items()
        for model in shift
        for point in curve(f"{BASE}--data-seed={data}-seed={model}", 0.1 + moved)
    ]
    import_study(tmp_path / "warehouse.duckdb", "grid", {"scores": write_csv(tmp_path / "s.csv", score_rows(runs))})
    with reading(tmp_path / "warehouse.duckdb") as connection:
        evidence = read_evidence(connection, "grid")
    shares = {row["part"]: row["share"] for row in rows("seed_variance", evidence)}
    assert shares == {
        "order of the data": pytest.approx(1),
        "initial weights": pytest.approx(0, abs=1e-9),
        "both together": pytest.approx(0, abs=1e-9),
    }


@pytest.mark.slow
def test_the_page_loads_nothing_and_each_figures_data_can_be_saved(evidence: Evidence, tmp_path: Path) -> None:
    one = chapter(evidence)
    page = write_report(tmp_path, [one, one]).read_text()
    assert not re.search(r"""(?:src|href)=["'](?!#|data:)|url\((?!#)|@import|<script""", page)
    assert len(page) < 2_000_000
    links = re.findall(r'href="data:text/csv;base64,([^"]+)"', page)
    assert len(links) == 2 * len(one.figures)
    first = list(csv.DictReader(io.StringIO(base64.b64decode(links[0]).decode())))
    assert len(first) == len(one.figures[0].rows)
    assert page.count("<svg") == 2 * len(one.figures)
    assert {path.name for path in (tmp_path / "figures" / "theirs").glob("leaderboard.*")} == {
        "leaderboard.csv",
        "leaderboard.svg",
        "leaderboard.vl.json",
    }
    assert not list(tmp_path.rglob(".*"))


def check(drawn: Drawn) -> None:
    assert set(drawn.figure.columns) <= set(drawn.rows[0])
    assert drawn.caption.endswith(".")
    assert len(drawn.shown) == min(len(drawn.rows), SHOWN_ROWS)
    assert not re.search(r">(?:nan|NaN|null|undefined)<", drawn.svg)


@pytest.mark.slow
def test_a_figure_is_drawn_if_there_are_data_for_it(evidence: Evidence) -> None:
    drawn = {one.name: one for one in chapter(evidence).figures}
    missing = {"proxies", "formats", "generators", "sources", "seed_variance", "collapse", "other_scores"}
    assert set(figures()) - set(drawn) == missing
    for one in drawn.values():
        check(one)


def test_the_collapse_of_audited_datasets_is_drawn_beside_the_published_points(evidence: Evidence) -> None:
    points = [{"length": length, "distinct": 10 - length // 4, "most_common": length} for length in (4, 10, 20)]
    dataset = replace(evidence.datasets[0], collapse=points)
    drawn = draw("collapse", replace(evidence, datasets=(dataset,)))
    assert drawn is not None
    check(drawn)
    assert "8 among 10 completions (80.0%)" in drawn.caption
    assert len([row for row in drawn.rows if row["dataset"].startswith("published")]) == 2


def test_a_name_is_text_and_never_markup(tmp_path: Path) -> None:
    runs = score_rows([*curve("<b>bold</b>", 0.2), *curve(BASE, 0.1)])
    import_study(tmp_path / "warehouse.duckdb", "theirs", {"scores": write_csv(tmp_path / "s.csv", runs)})
    with reading(tmp_path / "warehouse.duckdb") as connection:
        page = render([chapter(read_evidence(connection, "theirs"))])
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


@pytest.mark.slow
def test_without_a_second_seed_nothing_is_decided(tmp_path: Path) -> None:
    runs = score_rows([*curve("mix-web-unheard", 0.2), *curve("web", 0.1)])
    for row in runs:
        row["runname"] += "-77m"  # a student of a size that was not published
    import_study(tmp_path / "warehouse.duckdb", "single", {"scores": write_csv(tmp_path / "s.csv", runs)})
    with reading(tmp_path / "warehouse.duckdb") as connection:
        found = read_evidence(connection, "single")
    conclusion = chapter(found).conclusion
    assert conclusion.word in (None, "undecided")
    assert rows("task_signal", found) == []


@pytest.mark.slow
def test_a_wrong_name_is_one_message_that_lists_what_there_is(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_study(tmp_path / "warehouse.duckdb", "theirs", {"scores": write_csv(tmp_path / "s.csv", study())})
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path))
    for arguments, named in (
        (["report", "--output", str(tmp_path / "out"), "--name", "nobody"], "its studies are theirs"),
        (["report", "--output", str(tmp_path / "out"), "--name", "theirs", "--student", "9b"], "it has 1.7b"),
        (["report", "--output", str(tmp_path / "out"), "--name", "theirs", "--baseline", "web"], "no finished runs"),
        (["results", "figure", "pie"], "Choose from leaderboard"),
        (["results", "proxies", "--name", "theirs"], "too little data"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code in (1, 2), done.output
        assert named in done.stderr
        assert "Traceback" not in done.stderr
    with reading(tmp_path / "warehouse.duckdb") as connection, pytest.raises(NoEvidence):
        read_evidence(connection, "theirs", baseline="web")


@pytest.mark.slow
def test_the_commands_write_the_page_and_print_a_figures_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_study(tmp_path / "warehouse.duckdb", "theirs", {"scores": write_csv(tmp_path / "s.csv", study())})
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path))
    done = CliRunner().invoke(app, ["report", "--output", str(tmp_path / "out"), "--name", "theirs"])
    assert done.exit_code == 0, done.output
    assert "Yes." in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    done = CliRunner().invoke(app, ["results", "figure", "ratio_curves", "--name", "theirs", "--json"])
    assert [row["synthetic"] for row in json.loads(done.stdout)["rows"]] == [0.3, 0.5, 0.7, 0.9]
    done = CliRunner().invoke(app, ["results", "figure", "ratio_curves", "--name", "theirs"])
    assert "0.22" in done.stdout
    assert "at 70%" in done.stdout


@needs_published
def test_the_published_studys_findings_come_out_of_its_files(tmp_path: Path) -> None:
    files = {
        "scores": PUBLISHED / "benchmark-results.csv",
        "generations": PUBLISHED / "rephrasing_metadata.json",
    }
    import_study(tmp_path / "warehouse.duckdb", "published", files)
    with reading(tmp_path / "warehouse.duckdb") as connection:
        found = read_evidence(connection, "published")
    best: dict[str, tuple[float, float]] = {}
    for row in rows("ratio_curves", found):
        best[row["components"]] = max(best.get(row["components"], (0.0, 0.0)), (row["macro"], row["synthetic"]))
    assert {name: (round(macro, 4), share) for name, (macro, share) in best.items()} == {
        "table_smollm2_1.7b_hq": (0.1777, 0.7),
        "math_smollm2_1.7b_hq": (0.1749, 0.8),
        "faq_smollm2_1.7b_hq": (0.1655, 0.6),
        "tutorial_smollm2_1.7b_hq": (0.1605, 0.6),
    }
    signal = by("score", rows("task_signal", found))
    assert (round(signal["drop"]["ratio"], 1), round(signal["winogrande_cf"]["ratio"], 1)) == (1.3, 2.1)
    assert signal["drop"]["weak"] is signal["winogrande_cf"]["weak"] is True
    assert signal["macro/last5"]["ratio"] > signal["macro"]["ratio"]
    for name in signal:  # the grids of three data seeds and three model seeds
        values = [[run.scores[name] for run in one.runs if "data" in (run.seed or "")] for one in found.entries]
        noise = pool_of([Replicates(tuple(of_grid)) for of_grid in values if len(of_grid) == 9])[1] ** 0.5
        spread = published_spread("1.7b", None, name)
        assert spread is not None
        assert noise == pytest.approx(spread[0], rel=0.01)
    last, five = (published_spread("1.7b", None, name) for name in ("macro", "macro/last5"))
    assert (last and last[0], five and five[0]) == (0.00221, 0.00156)
    assert [row["better"] for row in rows("other_scores", found)] == [True, True]
    assert "4,677" in caption("throughput", found)
    assert "2,637" in caption("throughput", found)
    for one in chapter(found).figures:
        check(one)
    macro = {row["proxy"]: row for row in rows("proxies", found) if row["score"] == "macro"}
    assert {row["datasets"] for row in macro.values()} == {83}  # 90, of which 7 contradict themselves
    assert macro["edu score of the output"]["low"] < 0 < macro["edu score of the output"]["high"]


@pytest.mark.slow
def test_ones_own_study_and_a_published_one_stand_in_one_page(finished: Installation, tmp_path: Path) -> None:
    own = finished.copy(tmp_path / "installation")
    import_study(own.paths.warehouse, "theirs", {"scores": write_csv(tmp_path / "s.csv", study())})
    with reading(own.paths.warehouse) as connection:
        chapters = [chapter(read_evidence(connection, name)) for name in (own.lineage.study.name, "theirs")]
    page = render(chapters)
    assert "A published study, read from its files." in page
    assert re.search(r"Gates that do not block failed on \S+/faq \(in faq_and_raw\): ", page)
    assert {drawn.name for drawn in chapters[0].figures} >= {"leaderboard", "categories", "throughput"}


@pytest.mark.slow
def test_the_asset_writes_the_page_and_stores_it_once_in_mlflow(own: Installation) -> None:
    job = build_defs(own.lineage).resolve_job_def("make__results__report")
    analysis = build_defs(own.lineage).resolve_job_def("make__results__analysis")
    with own.instance() as instance:
        for name in ("leaderboard", "proxies"):
            assert analysis.execute_in_process(instance=instance, partition_key=name).success
            made = instance.get_latest_materialization_event(dg.AssetKey(["results", "analysis"]))
            assert made is not None
            assert made.asset_materialization.partition == name
            shown = made.asset_materialization.metadata
            assert shown["question"].value == figures()[name].question
            if name == "leaderboard":
                assert Path(shown["drawing"].value).read_text().startswith("<svg")
                assert shown["answer"].value in shown["preview"].value
            else:
                assert shown["answer"].value == "the study's scores do not suffice for it"
        for _ in range(2):
            assert job.execute_in_process(instance=instance).success
        event = instance.get_latest_materialization_event(dg.AssetKey(["results", "report"]))
    assert event is not None
    metadata = event.asset_materialization.metadata
    page = Path(metadata["page"].value)
    assert page.read_text().startswith("<!doctype html>")
    assert metadata["answer"].value in metadata["preview"].value
    assert metadata["mlflow"].value == "/finephrase/mlflow?experiment=finephrase%2Fsmall&finephrase.page=report.html"


@pytest.mark.slow
def test_a_damaged_warehouse_is_named_and_begun_again(tmp_path: Path) -> None:
    write_csv(tmp_path / "s.csv", study())
    (tmp_path / "warehouse.duckdb").write_bytes(b"not a database" * 100)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "finephrase_dagster.commands.main", "results", "import"),
            *("--scores", str(tmp_path / "s.csv"), "--name", "theirs"),
        ],
        env={**os.environ, "FINEPHRASE_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warning: " in done.stderr
    assert "warehouse.duckdb cannot be read" in done.stderr
    assert "No handlers" not in done.stderr


def test_the_documentation_lists_every_figure() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs" / "report.md").read_text(), re.MULTILINE)
    assert listed == list(figures())
