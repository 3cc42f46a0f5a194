"""The leaderboard: comparable rows, where each stands among them, and the verdict against original text."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import studentized_range

from finephrase_dagster.results.analyses import analyses
from finephrase_dagster.results.analysis import between
from finephrase_dagster.results.leaderboard import compose_leaderboard
from finephrase_dagster.results.multiplicity import range_exceedance
from finephrase_dagster.results.noise import Replicates
from finephrase_dagster.results.scored_runs import ScoredRun
from finephrase_dagster.results.standing import standings
from test_verdict import arm

RUNS = [
    *arm("web", [0.100, 0.101, 0.099], mix_in={"web": 1.0}, original=True),
    *arm("faq", [0.120, 0.121, 0.119]),
    *arm("table", [0.1195, 0.1205, 0.1185], epochs=5.2),
    *arm("math", [0.090, 0.091, 0.089]),
    *arm("more_math", [0.095, 0.096, 0.094], mix_in={"web": 0.3}),
    *arm("longer", [0.15, 0.151], tokens=200),
    *arm("stopped", [0.9], complete=False),
]


def rows_of(runs: list[ScoredRun]) -> dict[str, dict[str, Any]]:
    return {row["mixture"]: row for row in compose_leaderboard(runs).rows}


def test_rows_of_equal_original_text_and_budget_are_comparable() -> None:
    rows = rows_of(RUNS)
    assert list(rows) == ["longer", "faq", "table", "web", "more_math", "math"]
    assert {name: row["comparable"] for name, row in rows.items()} == {
        "longer": 1,
        "faq": 3,
        "table": 3,
        "web": 1,
        "more_math": 1,
        "math": 3,
    }
    assert rows["table"]["epochs"] == 5.2
    assert rows["faq"]["mix_in"] == {"web": 0.5}


def test_each_row_has_a_verdict_against_the_best_comparable_one() -> None:
    rows = rows_of([row for row in RUNS if row.epochs == 1.0])
    assert {name: rows[name]["verdict"] for name in ("faq", "math", "web")} == {
        "faq": "best",
        "math": "loses",
        "web": "best",
    }
    assert rows["math"]["behind"] == pytest.approx(0.03)
    assert rows["faq"]["p_best"] > 0.9
    assert rows["math"]["rank_interval"] == (2, 2)
    assert rows["faq"]["noise"] == pytest.approx(0.001)


def test_a_mixture_that_repeats_its_text_more_is_not_ranked() -> None:
    assert rows_of(RUNS)["table"]["verdict"] == "undecided"


def test_without_a_second_seed_nothing_is_ranked() -> None:
    rows = rows_of([*arm("faq", [0.2]), *arm("table", [0.1])])
    assert {name: (row["verdict"], row["rank_interval"], row["noise"]) for name, row in rows.items()} == {
        "faq": ("undecided", None, None),
        "table": ("undecided", None, None),
    }
    (line,) = analyses()["comparable"].lines(list(rows.values()), [])
    assert line == "nano, 50 % web: faq, table"


@pytest.mark.slow
def test_the_answer_compares_with_original_text_that_matches() -> None:
    runs = [*RUNS, *arm("books", [0.14, 0.141, 0.139], mix_in={"books": 1.0}, original=True)]
    rows = compose_leaderboard(runs).rows
    lines = analyses()["answer"].lines(rows, [])
    assert len(lines) == 1
    assert "yes. The best mixture with rephrased text, faq (0.1200), is 0.0200 ahead of the original text" in lines[0]


RAW = arm("raw", [0.100, 0.101, 0.099], mix_in={"web": 1.0}, original=True)
NOISY = arm("noisy", [0.110, 0.140, 0.131])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ([0.120, 0.121, 0.119], "yes. A mixture with rephrased text, faq (0.1200), is 0.0200 ahead"),
        ([0.080, 0.081, 0.079], "undecided. The best mixture with rephrased text, noisy (0.1270), is 0.0270 ahead"),
    ],
)
def test_the_answer_is_yes_if_any_mixture_beats_the_original_text(other: list[float], words: str) -> None:
    (line,) = analyses()["answer"].lines(compose_leaderboard([*RAW, *NOISY, *arm("faq", other)]).rows, [])
    assert words in line
    assert ("The highest score, that of noisy (0.1270), is undecided (95 % interval -" in line) == ("yes" in line)


def test_the_answer_is_no_only_if_every_mixture_loses() -> None:
    lower = arm("faq", [0.080, 0.081, 0.079])
    (line,) = analyses()["answer"].lines(compose_leaderboard([*RAW, *lower]).rows, [])
    assert "nano, 100 tokens: no. The best mixture with rephrased text, faq" in line
    unsure = arm("unsure", [0.06, 0.09, 0.072])
    (line,) = analyses()["answer"].lines(compose_leaderboard([*RAW, *lower, *unsure]).rows, [])
    assert "undecided. A mixture with rephrased text, unsure (0.0740), is 0.0260 behind" in line
    assert "The highest score, that of faq (0.0800), is below it (95 % interval -" in line


def test_the_answer_names_what_makes_mixtures_comparable_that_are_repeated_differently() -> None:
    (line,) = analyses()["answer"].lines(compose_leaderboard([*RAW, *arm("faq", [0.12, 0.13], epochs=9.0)]).rows, [])
    assert "not comparable. The best mixture with rephrased text, faq" in line
    assert line.endswith("add to 'mixtures': raw_matched: {from: raw, match_epochs_of: faq}.")


def test_the_ends_of_an_interval_never_read_as_0() -> None:
    assert between((0.000036, 0.000663)) == "+0.00004 to +0.00066"
    assert between((-0.0123, 0.0)) == "-0.0123 to +0.0000"


def test_rows_without_a_macro_score_are_ranked_by_none() -> None:
    runs = arm("faq", [0.2, 0.21], curve={5: {"gsm8k": 0.1}})
    (row,) = compose_leaderboard(runs).rows
    assert (row["macro"], row["verdict"], row["tasks"]) == (None, None, {"gsm8k": 0.1})


def test_the_winner_of_many_equals_is_expected_to_fall_back() -> None:
    equal = [Replicates((0.1 + shift, 0.102 + shift, 0.098 + shift)) for shift in (-0.002, 0.0, 0.002)]
    placed = standings(equal, equal, None)
    assert placed is not None
    assert 0.1 <= placed[2].shrunk < 0.102
    assert all(standing.rank_interval == (1, 3) for standing in placed)
    assert sum(standing.p_best for standing in placed) == pytest.approx(1)


@pytest.mark.parametrize(("bound", "freedom", "groups"), [(3.5, 4.0, 3), (4.5, 16.0, 9), (2.8, 60.0, 2)])
def test_all_pairs_are_tukeys(bound: float, freedom: float, groups: int) -> None:
    expected = studentized_range.sf(bound, groups, freedom)
    assert range_exceedance(bound, freedom, groups) == pytest.approx(expected, abs=1e-4)
