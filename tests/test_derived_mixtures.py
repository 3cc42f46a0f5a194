"""Derived mixtures: repetition-matched arms, A/A pairs and negative controls, from the study file to the verdict."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.commands.expand import expanded_text
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration.jobs import job_of
from finephrase_dagster.results.arms import arms, mismatches
from finephrase_dagster.results.checks import CONTROL, PAIR, check_arms
from finephrase_dagster.results.leaderboard import compose_leaderboard
from finephrase_dagster.results.scored_runs import read_runs
from finephrase_dagster.results.verdict import compare
from finephrase_dagster.results.warehouse import reading
from finephrase_dagster.study.file import StudyError, read_study
from finephrase_dagster.study.paths import Paths
from finephrase_dagster.study.spec import Study
from finephrase_dagster.study.student import SEED_SHIFT, Mixture, largest_epochs, window_pool
from finephrase_dagster.train.mixture import MixtureError, draw, mix, read_windows
from finephrase_dagster.train.pieces import shuffle_words
from installation import CELL, Installation, small_study
from test_mixture import SEQUENCE, token_set
from test_verdict import RAW, arm

DERIVED = {
    "matched": {"from": "raw", "match_epochs_of": "faq_and_raw"},
    "again": {"replicate_of": "faq_and_raw"},
    "shuffled": {"control_of": "faq_and_raw"},
}


def read(folder: Path, mixtures: dict[str, Any], **changes: Any) -> Study:
    """The small study with more mixtures and without decays."""
    fields = small_study()
    fields |= {"runs": [{"mixtures": ["*"], "students": ["nano"]}], **changes}
    fields["mixtures"] |= mixtures
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return read_study(path, catalogue())


# ---- the study file -------------------------------------------------------------------------------------------------


def test_one_line_takes_the_fields_of_another_mixture(tmp_path: Path) -> None:
    study = read(tmp_path, DERIVED)
    origin = study.mixtures["faq_and_raw"]
    for name in ("again", "shuffled"):
        assert study.mixtures[name].components == origin.components
        assert study.mixtures[name].tokens == origin.tokens
    assert study.mixtures["matched"].components == study.mixtures["raw"].components
    assert study.mixtures["matched"].match_epochs_of == "faq_and_raw"
    assert study.mixtures["again"].seed == SEED_SHIFT
    assert {component.shuffled for component in study.components("shuffled").values()} == {True}
    assert {component.shuffled for component in study.components("again").values()} == {False}
    seeds = {run.mixture: run.seeds.data for run in study.student_runs.values()}
    assert seeds == {"raw": 0, "faq_and_raw": 0, "matched": 0, "again": SEED_SHIFT, "shuffled": 0}


def test_an_expanded_study_expands_to_itself(tmp_path: Path) -> None:
    study = read(tmp_path, {**DERIVED, "smaller": {"from": "again", "tokens": 4096}})
    text = expanded_text(study)
    path = tmp_path / "expanded.yaml"
    path.write_text(text, encoding="utf-8")
    assert read_study(path, catalogue()) == study.with_all_runs()
    assert study.mixtures["smaller"].replicate_of is None
    assert study.mixtures["smaller"].tokens == 4096


@pytest.mark.parametrize(
    ("mixtures", "words"),
    [
        ({"a": {"from": "nothing"}}, r"mixtures.a.from: there is no 'nothing'"),
        ({"a": {"from": "b"}, "b": {"control_of": "a"}}, r"would be derived from itself"),
        (
            {"a": {"from": "raw", "match_epochs_of": "rew"}},
            r"mixtures.a.match_epochs_of: there is no 'rew'; did you mean raw",
        ),
        ({"a": {"from": "raw", "match_epochs_of": "a"}}, r"is the mixture itself"),
        (
            {"a": {"from": "raw", "match_epochs_of": "raw"}, "b": {"from": "raw", "match_epochs_of": "a"}},
            r"a takes its epochs from raw; name that mixture",
        ),
        ({"a": {"from": "raw", "epochs": 0.5}}, r"mixtures.a.epochs"),
        ({"a": {"from": "raw", "epochs": 4, "match_epochs_of": "raw"}}, r"cannot be combined with 'match_epochs_of'"),
        ({"a": {"control_of": "raw"}, "b": {"control_of": "a"}}, r"a is a control itself; name raw"),
    ],
)
def test_a_mistake_names_the_mixture_and_the_next_action(tmp_path: Path, mixtures: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        read(tmp_path, mixtures)


def test_a_replicate_with_the_same_seeds_and_epochs_with_nanotron_are_refused(tmp_path: Path) -> None:
    runs = [{"mixtures": ["*"], "students": ["nano"], "seeds": [{"data": 5, "model": 5}]}]
    with pytest.raises(StudyError, match=r"mixtures.again.replicate_of: .*give again an entry of 'runs'"):
        read(tmp_path, DERIVED, runs=runs)
    with pytest.raises(StudyError, match=r"mixtures.a.epochs: has no effect with 'trainer: nanotron'"):
        read(tmp_path, {"a": {"from": "raw", "epochs": 4}}, trainer="nanotron")


def test_shuffled_tokens_exist_for_controls_alone_and_matched_epochs_depend_on_the_other_mixture(
    tmp_path: Path,
) -> None:
    study = read(tmp_path, DERIVED)
    graph = {
        item.name: item
        for item in items(Lineage(study=study, paths=Paths(data=tmp_path, study=tmp_path / "study.yaml")))
    }
    shuffled = [name for name in graph if name.startswith("tokens/") and "shuffled_" in name]
    assert shuffled == ["tokens/shuffled_corpus_tokens/package_readmes", f"tokens/{CELL}_shuffled_tokens/faq"]
    assert set(shuffled) < set(graph["mixtures/mixture/shuffled"].needs)
    assert not set(shuffled) & set(graph["mixtures/mixture/again"].needs)
    only = read(tmp_path, {"a": {"components": {f"{CELL}/faq": 1}, "tokens": 8192, "match_epochs_of": "raw"}})
    graph = {
        item.name: item
        for item in items(Lineage(study=only, paths=Paths(data=tmp_path, study=tmp_path / "study.yaml")))
    }
    assert "tokens/corpus_tokens/package_readmes" in graph["mixtures/mixture/a"].needs


# ---- epochs ---------------------------------------------------------------------------------------------------------


@given(
    available=st.integers(1, 300),
    windows=st.integers(1, 2000),
    epochs=st.floats(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_drawn_windows_repeat_as_often_as_asked(available: int, windows: int, epochs: float, seed: int) -> None:
    pool = window_pool(windows, available, epochs)
    assert abs(windows / pool - epochs) <= max(epochs**2 / windows, epochs - windows) + 1e-9
    if pool > available:
        assert windows / available > epochs
        return
    drawn = draw(available, windows, seed=seed, name="a", pool=pool)
    counts = np.unique(drawn, return_counts=True)[1]
    assert len(drawn) == windows
    assert len(counts) == pool
    assert set(counts) <= {windows // pool, -(-windows // pool)}
    larger = set(draw(available, available, seed=seed, name="a", pool=min(available, pool + 5)).tolist())
    assert set(drawn.tolist()) <= larger


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    other=st.integers(1, 40),
    budget=st.integers(40, 400),
)
def test_a_matched_mixture_has_the_epochs_of_the_other_one(sizes: list[int], other: int, budget: int) -> None:
    reference = Mixture(components={"raw": 1.0}, tokens=budget * SEQUENCE)
    epochs = max(1.0, largest_epochs(reference, {"raw": other}, SEQUENCE))
    available = {f"d{number}": size for number, size in enumerate(sizes)}
    matched = Mixture(components=dict.fromkeys(available, 1.0), tokens=budget * SEQUENCE, epochs=epochs)
    for name, count in matched.windows(SEQUENCE).items():
        pool = window_pool(count, available[name], epochs)
        if pool <= available[name]:
            # No other whole number of windows is closer.
            assert abs(count - epochs * pool) <= max(epochs / 2, epochs - count) + 1e-9


def test_the_manifest_states_the_pool_and_the_documents_and_too_little_text_is_refused(tmp_path: Path) -> None:
    folder = token_set(tmp_path / "a", 100 * SEQUENCE)
    mixture = Mixture(components={"a": 1.0}, tokens=60 * SEQUENCE, epochs=3)
    (fact,) = mix(tmp_path, mixture=mixture, sequence=SEQUENCE, components={"a": folder}).components
    assert (fact.windows_available, fact.windows_pool, fact.windows, fact.epochs) == (100, 20, 60, 3.0)
    assert fact.documents_drawn == 1
    assert len(np.unique(read_windows(tmp_path, sequence=SEQUENCE).start)) == 20
    small = Mixture(components={"a": 1.0}, tokens=500 * SEQUENCE, epochs=2)
    with pytest.raises(MixtureError, match=r"has 100 windows .* need 250 different ones.* 5 epochs"):
        mix(tmp_path, mixture=small, sequence=SEQUENCE, components={"a": folder})


# ---- shuffled words -------------------------------------------------------------------------------------------------


@given(text=st.text("ab \n\té", max_size=80), key=st.text(max_size=5))
@pytest.mark.slow
def test_shuffling_keeps_the_words_and_the_white_space(text: str, key: str) -> None:
    shuffled = shuffle_words(text, key)
    assert shuffled == shuffle_words(text, key)
    assert Counter(shuffled.split()) == Counter(text.split())
    assert re.findall(r"\s+", shuffled) == re.findall(r"\s+", text)


def test_documents_are_shuffled_differently() -> None:
    text = " ".join(map(str, range(50)))
    assert len({shuffle_words(text, key) for key in ("a", "b")} | {text}) == 3


# ---- results --------------------------------------------------------------------------------------------------------


def outcome(pair: list[float], control: list[float]) -> dict[str, tuple[bool | None, str]]:
    runs = [
        *arm("faq", RAW),
        *arm("again", pair, replicate_of="faq"),
        *arm("shuffled", control, control_of="faq"),
    ]
    return {check.kind: (check.passed, check.text) for check in check_arms(arms(runs))}


def test_a_pair_must_come_out_alike_and_a_control_must_lose() -> None:
    good = outcome([0.101, 0.099, 0.1], [0.050, 0.051, 0.052])
    assert good[PAIR][0] is True
    assert good[CONTROL][0] is True
    bad = outcome([0.2, 0.201, 0.202], [0.1, 0.101, 0.102])
    assert bad[PAIR][0] is False
    assert "called different" in bad[PAIR][1]
    assert bad[CONTROL][0] is False
    assert "its other verdicts are doubtful" in bad[CONTROL][1]


def test_checks_are_not_ranked_and_without_noise_they_say_nothing() -> None:
    runs = [*arm("faq", RAW), *arm("again", [0.3, 0.31, 0.32], replicate_of="faq"), *arm("table", RAW)]
    rows = {row["mixture"]: row for row in compose_leaderboard(runs).rows}
    assert rows["again"]["rank_interval"] is None
    assert rows["again"]["check"]["passed"] is False
    assert rows["faq"]["comparable"] == 2
    assert [verdict.arm.mixture for verdict in compare(runs, "faq")] == ["table"]
    (check,) = check_arms(arms([*arm("faq", [0.1]), *arm("again", [0.3], replicate_of="faq")]))
    assert check.passed is None
    assert "second seed" in check.text


@pytest.mark.slow
def test_derived_arms_go_from_the_study_file_to_verdicts(own: Installation) -> None:
    fields = small_study()
    fields["mixtures"] |= DERIVED
    fields["runs"][0] = {"mixtures": ["raw", *DERIVED, "faq_and_raw"], "students": ["nano"]}
    own.write(fields)
    result, _ = own.materialize()
    assert result.complete, result.failed
    assert not [name for name in result.made if name.startswith(("synthetic", "audits", "tokens/corpus"))]
    lineage = own.lineage
    manifests = {name: lineage.mixture_manifest(name) for name in ("raw", "faq_and_raw", *DERIVED)}
    repeated = max(one["epochs"] for one in manifests["faq_and_raw"]["components"])
    (component,) = manifests["matched"]["components"]
    assert repeated > 4 > manifests["raw"]["components"][0]["epochs"]
    assert component["epochs"] == pytest.approx(repeated, rel=0.05)
    assert component["windows_pool"] < component["windows_available"]
    assert component["documents_drawn"] < component["documents"]
    assert lineage.mixture("again").version != lineage.mixture("faq_and_raw").version
    assert {one["version"] for one in manifests["shuffled"]["components"]}.isdisjoint(
        one["version"] for one in manifests["faq_and_raw"]["components"]
    )
    with own.instance() as instance:
        job = build_defs(lineage).resolve_job_def(job_of("results/verdicts"))
        assert job.execute_in_process(instance=instance).success
    with reading(own.paths.warehouse) as connection:
        judged = connection.execute("SELECT DISTINCT baseline, mixture FROM verdicts").fetchall()
        assert {("faq_and_raw", "again"), ("faq_and_raw", "shuffled")} < set(judged)
        found = {one.mixture: one for one in arms(read_runs(connection, ["small"])) if one.first.decay_from is None}
    assert (found["again"].origin, found["shuffled"].origin, found["matched"].origin) == ("faq_and_raw",) * 2 + (None,)
    assert [words.split(":")[0] for words in mismatches(found["raw"], found["faq_and_raw"])] == ["repetition"]
    assert not mismatches(found["matched"], found["faq_and_raw"])
    assert not mismatches(found["faq_and_raw"], found["shuffled"])
    assert {check.kind for check in check_arms(list(found.values()))} == {PAIR, CONTROL}
