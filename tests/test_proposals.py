"""Proposals: what the surrogate learns from scores of a known truth, and mixtures that a study file takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.commands.main import app
from finephrase_dagster.results.evidence import Evidence, NoEvidence, read_evidence
from finephrase_dagster.results.external import import_study
from finephrase_dagster.results.proposals import propose, simplex
from finephrase_dagster.results.surrogate import Observation, Surrogate, final_scores
from finephrase_dagster.results.warehouse import reading
from finephrase_dagster.study.file import read_study
from finephrase_dagster.study.paths import REPOSITORY
from installation import Installation
from test_published_study import score_rows, write_csv

BASE, TABLE, OTHER = "fw_edu_hq", "table_smollm2_1.7b_hq", "faq_smollm2_1.7b_hq"
SD, STEPS = 0.001, (2000, 4000, 6000, 8000)


def truth(share: float) -> float:
    """Return the final score by the share of TABLE: it is highest at 0.6."""
    return 0.18 - 0.1 * (share - 0.6) ** 2


def climb(run: str, final: float, draw: np.random.Generator, steps: Sequence[int] = STEPS) -> list[Any]:
    return [(run, "42", step, final * (step / STEPS[-1]) ** 0.3 + draw.normal(0, SD)) for step in steps]


def evidence_of(folder: Path, points: Sequence[Any]) -> Evidence:
    import_study(folder / "warehouse.duckdb", "theirs", {"scores": write_csv(folder / "s.csv", score_rows(points))})
    with reading(folder / "warehouse.duckdb") as connection:
        return read_evidence(connection, "theirs")


def mixed(share: float) -> str:
    return f"mix-{1 - share:.2f}-{BASE}-{share:.2f}-{TABLE}"


def swept(folder: Path, shares: Sequence[float], seed: int = 0) -> Evidence:
    draw = np.random.default_rng(seed)
    points = [point for share in shares for point in climb(mixed(share), truth(share), draw)]
    points += climb(f"{mixed(shares[0])}-seed-2", truth(shares[0]), draw)
    return evidence_of(folder, points)


def test_proposals_find_the_best_share_of_a_known_truth(tmp_path: Path) -> None:
    shares = [0.05, 0.2, 0.95]
    for number in range(3):
        first = propose(swept(tmp_path, shares, seed=number), count=1).proposals[0]
        shares.append(first.weights.get(TABLE, 0.0))
    assert max(map(truth, shares)) >= truth(0.6) - 0.002, shares  # 0.05 to 0.95 in steps would need 12 mixtures


def test_intervals_cover_scores_of_mixtures_that_were_never_trained() -> None:
    draw, inside, widths = np.random.default_rng(1), [], []
    for _ in range(20):
        effects = draw.normal(0.15, 0.02, 3)
        mixtures = [dict(zip("abc", draw.dirichlet(np.ones(3)), strict=True)) for _ in range(12)]
        finals = [float(effects @ list(one.values())) for one in mixtures]
        observed = [
            Observation(weights=one, curve={step: final + draw.normal(0, SD) for step in STEPS}, runs=1)
            for one, final in zip(mixtures[:8], finals, strict=False)
        ]
        mean, covariance = Surrogate.fit(observed, SD**2).predict(mixtures[8:])
        width = 1.96 * np.sqrt(np.diag(covariance))
        inside += list(np.abs(mean - finals[8:]) <= width)
        widths.append(width.mean())
    assert np.mean(inside) >= 0.85
    assert np.mean(widths) < 0.02  # the mixtures spread over about 0.04


def test_earlier_steps_say_more_about_the_final_score_than_the_last_alone() -> None:
    draw, alone, together = np.random.default_rng(2), [], []
    for _ in range(20):
        finals = draw.normal(0.15, 0.01, 10)
        curves = [{step: float(final + draw.normal(0, SD)) for step in range(500, 10_500, 500)} for final in finals]
        observed = [Observation(weights={"a": 1}, curve=curve, runs=1) for curve in curves]
        scores, variances = final_scores(observed, SD**2)
        alone.append(np.mean((np.array([curve[10_000] for curve in curves]) - finals) ** 2))
        together.append(np.mean((scores - finals) ** 2))
        assert (variances < SD**2).all()
    assert np.mean(together) < 0.7 * np.mean(alone)


def test_an_unfinished_run_counts_with_a_larger_variance() -> None:
    draw = np.random.default_rng(3)
    curves = [{step: final * step**0.3 + draw.normal(0, SD) for step in STEPS} for final in (0.01, 0.012, 0.014)]
    curves.append({step: 0.013 * step**0.3 for step in STEPS[:2]})
    scores, variances = final_scores([Observation(weights={"a": 1}, curve=one, runs=1) for one in curves], SD**2)
    assert scores[3] == pytest.approx(0.013 * STEPS[-1] ** 0.3, abs=0.004)
    assert variances[3] > 1.2 * variances[0]


def test_each_proposal_is_new_and_its_chances_are_consistent(tmp_path: Path) -> None:
    result = propose(swept(tmp_path, [0.2, 0.5, 0.9]), count=4)
    weights = [tuple(sorted(one.weights.items())) for one in result.proposals]
    assert len(set(weights)) == 4
    assert not {(BASE, 0.5), (TABLE, 0.5)} <= {part for one in weights for part in one}
    for one in result.proposals:
        assert sum(one.weights.values()) == pytest.approx(1)
        assert one.interval[0] < one.score < one.interval[1]
        assert 0 <= one.chance_visible <= one.chance_better <= 1
        assert one.expected_gain >= max(0.0, one.score - result.best_score) - 1e-12


def test_the_grid_of_shares_covers_every_mixture_of_up_to_three_components() -> None:
    pair = list(simplex(["a", "b"]))
    assert len(pair) == 2 + 19
    four = list(simplex(["a", "b", "c", "d"]))
    assert len(four) == 4 + 6 * 9 + 4 * 36
    assert all(sum(one.values()) == pytest.approx(1) and len(one) <= 3 for one in four)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([mixed(0.2), mixed(0.5)], "has 2 scored mixtures"),
        ([BASE, TABLE, OTHER], "have a component in common"),
        ([f"{mixed(share)}-9.9b" for share in (0.2, 0.5, 0.8)], "the noise of seeds is unknown"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(runs: Sequence[str], words: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    evidence = evidence_of(tmp_path, [point for run in runs for point in climb(run, 0.15, draw)])
    with pytest.raises(NoEvidence, match=words):
        propose(evidence)


def test_a_study_file_takes_the_proposals_under_mixtures(tmp_path: Path) -> None:
    draw, faq = np.random.default_rng(0), "rephraser__package_readmes/faq"
    names = [f"mix-{1 - share:.1f}-package_readmes-{share:.1f}-{faq}-1.7b" for share in (0.2, 0.5, 0.8)]
    result = propose(evidence_of(tmp_path, [point for name in names for point in climb(name, 0.15, draw)]), count=2)
    demo = (REPOSITORY / "studies" / "demo.yaml").read_text(encoding="utf-8")
    pasted = demo.replace("\nmixtures:\n", f"\nmixtures:\n{result.as_yaml(80_000)}")
    (tmp_path / "pasted.yaml").write_text(pasted, encoding="utf-8")
    study = read_study(tmp_path / "pasted.yaml", catalogue())
    for one in result.proposals:
        assert dict(study.mixtures[one.name].components) == one.weights


@pytest.mark.slow
def test_a_study_of_two_mixtures_is_told_what_is_missing(
    finished: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_DATA", str(finished.paths.data))
    monkeypatch.setenv("FINEPHRASE_STUDY", str(finished.study))
    refused = CliRunner().invoke(app, ["results", "propose"])
    assert refused.exit_code == 2
    assert "has 2 scored mixtures of known components with the student nano; proposals need 3" in refused.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "is empty"), ("one: 3\n", "one must list components"), ("one: {a: -1}\n", "positive shares")],
)
def test_candidates_that_are_no_mixtures_are_refused(
    content: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINEPHRASE_DATA", str(tmp_path))
    swept(tmp_path, [0.2, 0.5, 0.9])
    (tmp_path / "c.yaml").write_text(content)
    arguments = ["results", "propose", "--name", "theirs", "--candidates", str(tmp_path / "c.yaml")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert words in refused.stderr
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"mine": {BASE: 1, TABLE: 3}}))
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["proposals"][0]["name"] == "mine"
