"""Other scores of one study: bits per byte, the mean of five checkpoints, and tasks that were held out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finephrase_dagster.commands.compare import print_comparisons
from finephrase_dagster.commands.leaderboard import print_rows
from finephrase_dagster.results.conclusion import conclude
from finephrase_dagster.results.evidence import Entry, Evidence
from finephrase_dagster.results.figures import figures
from finephrase_dagster.results.leaderboard import compose_leaderboard
from finephrase_dagster.results.noise import published_spread
from finephrase_dagster.results.report import draw
from finephrase_dagster.results.scored_runs import ScoredRun
from finephrase_dagster.results.verdict import NotComparable, compare
from test_verdict import arm, run

STEPS = (1, 2, 3, 4, 5, 6)


def scored(mixture: str, macro: float, bits: float, held: float, **changes: Any) -> list[ScoredRun]:
    """Return three runs; the last checkpoint of each is off, so that only the mean of five shows the score."""
    runs = []
    for shift in (-0.001, 0.0, 0.001):
        curve = {}
        for step in STEPS:
            noise = shift + (0.05 if step == STEPS[-1] and shift == 0 else 0)
            scores = {"macro": macro, "gsm8k": macro, "held_out": held, "micro": macro}
            curve[step] = {name: value + noise for name, value in scores.items()}
            curve[step] |= {f"{name}/bits_per_byte": bits + noise for name in scores}
        runs.append(run(mixture, 0, curve=curve, held_out=("drop", "piqa_cf"), **changes))
    return runs


RUNS = [
    *scored("raw", 0.10, 3.0, 0.30, mix_in={"web": 1.0}, original=True),
    *scored("faq", 0.20, 2.0, 0.20),
    *scored("math", 0.15, 4.0, 0.40),
]


def evidence_of(runs: list[ScoredRun]) -> Evidence:
    names = dict.fromkeys(one.mixture for one in runs)
    entries = [
        Entry(
            runs=tuple(one for one in runs if one.mixture == name),
            components={},
            synthetic=0.0 if name == "raw" else 0.5,
            datasets=(),
        )
        for name in names
    ]
    fields: dict[str, Any] = {"study": "demo", "external": False, "student": "nano", "other": {}, "datasets": ()}
    ordered = tuple(sorted(entries, key=lambda entry: -entry.macro))
    baseline = next(entry for entry in ordered if entry.mixture == "raw")
    verdicts = tuple(compare(runs, "raw"))
    fields |= dict.fromkeys(("times", "checks", "left_out"), ())
    return Evidence(entries=ordered, baseline=baseline, verdicts=verdicts, **fields)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("bits_per_byte/last5", {"faq": "beats", "math": "loses"}),
        ("last5", {"faq": "beats", "math": "beats"}),
        ("held_out/last5", {"faq": "loses", "math": "beats"}),
        ("gsm8k/bits_per_byte", {"faq": "beats", "math": "loses"}),
    ],
)
def test_fewer_bits_win_and_more_probability_wins(metric: str, words: dict[str, str]) -> None:
    verdicts = {verdict.arm.mixture: verdict for verdict in compare(RUNS, "raw", metric=metric)}
    assert {name: verdict.verdict for name, verdict in verdicts.items()} == words
    stated = verdicts["faq"].as_json()
    assert stated["lower_is_better"] == ("bits" in metric)
    assert (stated["difference"] < 0) == ("bits" in metric or "held_out" in metric)


def test_five_checkpoints_have_less_noise_than_the_last() -> None:
    last, five = (compare(RUNS, "raw", metric=metric)[0].noise for metric in ("macro", "macro/last5"))
    assert last is not None
    assert five is not None
    assert five.sd < last.sd / 3


def test_the_leaderboard_ranks_by_any_score() -> None:
    by_bits = compose_leaderboard(RUNS, "macro/bits_per_byte/last5")
    assert [row["mixture"] for row in by_bits.rows] == ["faq", "raw", "math"]
    assert [row["macro"] for row in by_bits.rows] == pytest.approx([2, 3, 4], abs=0.01)
    (faq, raw, math) = by_bits.rows
    assert faq["against_original"]["verdict"] == "beats"
    assert (math["verdict"], math["behind"] > 1.9) == ("loses", True)
    assert faq["p_best"] > 0.99
    assert faq["shrunk"] == pytest.approx(faq["macro"], abs=0.1)
    assert by_bits.early[0]["regret"]["0.5"] == 0
    assert [row["mixture"] for row in compose_leaderboard(RUNS, "held_out").rows] == ["math", "raw", "faq"]
    assert (raw["held_out_tasks"], raw["macro_interval"]) == (["drop", "piqa_cf"], None)


def test_the_report_says_whether_the_choice_holds_on_held_out_tasks() -> None:
    evidence = evidence_of(RUNS)
    found = {row["score"]: row for row in figures()["other_scores"].rows(evidence)}
    assert len(found) == 8
    assert found["macro/bits_per_byte/last5"]["gain"] == pytest.approx(1 / 3, abs=0.01)
    assert found["macro/bits_per_byte/last5"]["low"] > 0
    assert (found["held_out"]["better"], found["held_out"]["rank"], found["held_out"]["best"]) == (False, 3, "math")
    text = " ".join(conclude(evidence).remarks)
    assert "Held-out tasks (drop, piqa_cf), which did not choose it: the choice does not hold." in text
    drawn = draw("other_scores", evidence)
    assert drawn is not None
    assert "better than the baseline by 6 of 8 scores" in drawn.caption


def test_the_report_says_yes_if_any_mixture_beats_the_baseline() -> None:
    runs = [
        *arm("raw", [0.100, 0.101, 0.099], mix_in={"web": 1.0}, original=True),
        *arm("noisy", [0.110, 0.140, 0.131]),
        *arm("faq", [0.120, 0.121, 0.119]),
    ]
    conclusion = conclude(evidence_of(runs))
    assert conclusion.word == "beats"
    assert "Yes. One comparable mixture, faq, has a macro score of 0.1200: 0.0200 ahead of" in conclusion.answer
    text = " ".join(conclusion.remarks)
    assert "The highest comparable score is that of noisy (0.1270), which differs, within the noise, from" in text


def test_partial_means_are_marked_wherever_they_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [replace(one, unscored=("hellaswag_cf", "treb_qa")) for one in RUNS]
    words = "means over 10 of the 12 tasks that count. Not evaluated: hellaswag_cf, treb_qa."
    board = compose_leaderboard(runs)
    print_rows(board.rows, board.early)
    rows = [{**one.as_json(), "cost_to_decide": None} for one in compare(runs, "raw")]
    rows[0] |= {"p_value": 0.0004, "noise": {**rows[0]["noise"], "sd": 0.0000031}}
    print_comparisons(rows, "macro")
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count(words) == 2
    assert " < 0.001 3.1e-06 " in shown
    assert {"macro (partial)", "micro (partial)"} <= set(re.findall(r"m[ai]cro \(partial\)", shown))
    assert words in " ".join(conclude(evidence_of(runs)).remarks)
    assert {row["partial"] for row in compose_leaderboard(RUNS).rows} == {None}


def test_partial_means_are_not_compared_with_complete_ones() -> None:
    mixed = [replace(one, unscored=("treb_qa",)) if one.mixture == "faq" else one for one in RUNS]
    (faq,) = (one for one in compare(mixed, "raw") if one.arm.mixture == "faq")
    assert faq.mismatches == ("tasks without a score: treb_qa against none",)


def test_a_score_that_does_not_exist_is_explained() -> None:
    short = [replace(one, curve={1: {"macro": 0.1}}) for one in RUNS]
    for metric, words in (
        ("bits_per_byte", "Published scores have no bits per byte"),
        ("last5", "No run was evaluated at 5 checkpoints. Set evaluation.every"),
        ("poem", "Choose from macro; each may be followed by /bits_per_byte"),
    ):
        with pytest.raises(NotComparable, match=words):
            compare(short, "raw", metric=metric)
        with pytest.raises(NotComparable, match=words):
            compose_leaderboard(short, metric)


def test_published_noise_is_known_of_the_means_that_were_published() -> None:
    known = published_spread("1.7b", None, "macro/last5")
    assert known is not None
    assert known[0] == pytest.approx(0.00156)
    assert published_spread("1.7b", None, "macro/bits_per_byte") is None
    assert published_spread("1.7b", None, "macro", ["drop"]) is published_spread("1.7b", None, "RC", ["drop"]) is None
    assert published_spread("1.7b", None, "GK", ["drop"]) == published_spread("1.7b", None, "GK")


def test_items_add_their_noise_by_the_same_measure_and_checkpoints(tmp_path: Path) -> None:
    runs = []
    for number, one in enumerate(one for one in RUNS if one.mixture != "math"):
        folder = tmp_path / str(number)
        for step, place in [(6, folder), *((step, folder / "steps" / str(step)) for step in STEPS[1:-1])]:
            place.mkdir(parents=True)
            # Bits differ from item to item at the last checkpoint alone, probabilities not at all.
            bits = [2.0 + (item * number if step == 6 else 0) for item in range(6)]
            columns = {"task": ["gsm8k"] * 6, "subset": [""] * 6, "item": list("abcdef"), "query": list("abcdef")}
            table = pa.table({**columns, "prob_norm_token": [0.1] * 6, "bits_per_byte": bits})
            pq.write_table(table, place / "samples.parquet")
        runs.append(replace(one, samples=folder / "samples.parquet"))
    parts = {}
    for metric in ("gsm8k", "gsm8k/bits_per_byte", "gsm8k/bits_per_byte/last5"):
        (verdict,) = compare(runs, "raw", metric=metric)
        parts[metric] = verdict.as_json()["parts"]["items_sd"]
    assert parts["gsm8k"] == 0
    assert parts["gsm8k/bits_per_byte"] == pytest.approx(5 * parts["gsm8k/bits_per_byte/last5"])
    assert parts["gsm8k/bits_per_byte"] > 0
