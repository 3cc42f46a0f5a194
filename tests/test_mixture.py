"""Mixtures: shares, epochs, seeds, and windows that stay within their datasets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finephrase_dagster.study.student import Mixture, allocate
from finephrase_dagster.train.mixture import MixtureError, draw, mix, read_windows
from finephrase_dagster.train.tokens import TokenSet

SEQUENCE = 16


def token_set(folder: Path, tokens: int, first: int = 0) -> Path:
    """Write a folder in the tokeniser's format with the tokens first, first + 1, ... as one document."""
    folder.mkdir(parents=True)
    (first + np.arange(tokens)).astype("<u2").tofile(folder / "00000.ds")
    np.array([tokens], "<u8").tofile(folder / "00000.ds.index")
    pq.write_table(pa.table({"id": ["a"], "tokens": [tokens]}), folder / "00000.documents.parquet")
    return folder


weights = st.dictionaries(st.text("abcdef", min_size=1), st.floats(0.01, 100), min_size=1, max_size=6)


@given(weights=weights, windows=st.integers(0, 100_000))
def test_every_window_is_handed_out_and_no_share_is_off_by_one(weights: dict[str, float], windows: int) -> None:
    shares = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    counts = allocate(shares, windows)
    assert sum(counts.values()) == windows
    assert all(abs(counts[name] - share * windows) < 1 + 1e-6 for name, share in shares.items())
    if windows >= 1000:
        assert all(abs(counts[name] / windows - share) <= 0.001 + 1e-9 for name, share in shares.items())


@given(available=st.integers(1, 200), wanted=st.integers(0, 1000), seed=st.integers(0, 2**63))
def test_the_repetitions_of_two_windows_differ_by_one_at_most(available: int, wanted: int, seed: int) -> None:
    drawn = draw(available, wanted, seed=seed, name="a")
    counts = np.bincount(drawn, minlength=available)
    assert len(drawn) == wanted
    assert len(counts) == available
    assert set(counts) <= {wanted // available, -(-wanted // available)}
    assert (drawn == draw(available, wanted, seed=seed, name="a")).all()


@given(available=st.integers(2, 500), data=st.data(), seed=st.integers(0, 1000))
def test_a_smaller_share_is_a_subset_of_a_larger_one(available: int, data: st.DataObject, seed: int) -> None:
    larger = data.draw(st.integers(1, available))
    smaller = data.draw(st.integers(0, larger))
    chosen = set(draw(available, larger, seed=seed, name="a").tolist())
    assert set(draw(available, smaller, seed=seed, name="a").tolist()) <= chosen


def test_the_seed_and_the_name_choose_the_windows() -> None:
    base = draw(1000, 300, seed=1, name="a").tolist()
    assert draw(1000, 300, seed=2, name="a").tolist() != base
    assert draw(1000, 300, seed=1, name="b").tolist() != base


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(SEQUENCE, 40 * SEQUENCE), min_size=1, max_size=4),
    budget=st.integers(40, 400),
    seed=st.integers(0, 10),
)
def test_no_window_crosses_the_end_of_its_dataset_and_the_facts_are_exact(
    sizes: list[int], budget: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("mixture")
    folders = {f"d{number}": token_set(root / f"d{number}", size) for number, size in enumerate(sizes)}
    mixture = Mixture(
        components={name: number + 1.0 for number, name in enumerate(folders)}, tokens=budget * SEQUENCE, seed=seed
    )
    facts = mix(root, mixture=mixture, sequence=SEQUENCE, components=folders)
    first = (root / "windows.parquet").read_bytes()
    mix(root, mixture=mixture, sequence=SEQUENCE, components=folders)
    assert (root / "windows.parquet").read_bytes() == first

    windows = read_windows(root, sequence=SEQUENCE)
    assert len(windows) == facts.windows == budget
    assert facts.tokens == budget * SEQUENCE
    for number, fact in enumerate(facts.components):
        starts = windows.start[windows.component == windows.names.index(fact.name)]
        assert (starts % SEQUENCE == 0).all()
        assert starts.min() >= 0
        assert starts.max() + SEQUENCE <= sizes[number]
        assert len(starts) == fact.windows
        assert fact.tokens == len(starts) * SEQUENCE
        assert fact.tokens_available == sizes[number]
        assert fact.windows_available == sizes[number] // SEQUENCE
        assert fact.epochs == pytest.approx(len(starts) / (sizes[number] // SEQUENCE))
        assert fact.share == pytest.approx(len(starts) / budget)
        assert fact.documents == 1
    assert sum(fact.share for fact in facts.components) == pytest.approx(1)


def test_a_window_holds_the_tokens_at_the_position_in_its_row(tmp_path: Path) -> None:
    folders = {"low": token_set(tmp_path / "low", 200), "high": token_set(tmp_path / "high", 200, first=1000)}
    mix(
        tmp_path,
        mixture=Mixture(components={"low": 1, "high": 3}, tokens=8 * SEQUENCE, seed=0),
        sequence=SEQUENCE,
        components=folders,
    )
    windows = read_windows(tmp_path, sequence=SEQUENCE)
    seen = []
    for component, start in zip(windows.component, windows.start, strict=True):
        name = windows.names[component]
        tokens = TokenSet(folders[name]).window(int(start), SEQUENCE)
        assert tokens.tolist() == list(range(tokens[0], tokens[0] + SEQUENCE))
        assert (tokens[0] >= 1000) == (name == "high")
        seen.append(name)
    assert (seen.count("low"), seen.count("high")) == (2, 6)


def test_a_component_shorter_than_a_window_is_named_with_a_remedy(tmp_path: Path) -> None:
    folders = {"tiny": token_set(tmp_path / "tiny", SEQUENCE - 1), "big": token_set(tmp_path / "big", 999)}
    mixture = Mixture(components={"tiny": 1, "big": 1}, tokens=100 * SEQUENCE, seed=0)
    with pytest.raises(MixtureError, match=r"component tiny has 15 tokens.*sequence"):
        mix(tmp_path, mixture=mixture, sequence=SEQUENCE, components=folders)
    assert not (tmp_path / "windows.parquet").exists()


def test_a_component_without_a_window_or_without_tokens_is_named(tmp_path: Path) -> None:
    folders = {"a": token_set(tmp_path / "a", 999), "b": token_set(tmp_path / "b", 999)}
    for tokens, components in ((100 * SEQUENCE, {"a": 1.0, "b": 0.001}), (SEQUENCE - 1, {"b": 1.0})):
        mixture = Mixture(components=components, tokens=tokens, seed=0)
        with pytest.raises(MixtureError, match=r"component b .* no window.*raise"):
            mix(tmp_path, mixture=mixture, sequence=SEQUENCE, components=folders)
    mixture = Mixture(components={"c": 1.0}, tokens=10 * SEQUENCE, seed=0)
    with pytest.raises(MixtureError, match="component c has no tokens"):
        mix(tmp_path, mixture=mixture, sequence=SEQUENCE, components=folders)


def test_windows_of_another_sequence_length_are_refused(tmp_path: Path) -> None:
    folders = {"a": token_set(tmp_path / "a", 999)}
    with pytest.raises(MixtureError, match="draw the mixture first"):
        read_windows(tmp_path, sequence=SEQUENCE)
    mix(
        tmp_path,
        mixture=Mixture(components={"a": 1}, tokens=10 * SEQUENCE, seed=0),
        sequence=SEQUENCE,
        components=folders,
    )
    with pytest.raises(MixtureError, match="windows of 16 tokens instead of 32"):
        read_windows(tmp_path, sequence=32)
