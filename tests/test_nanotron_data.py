"""The folders of links that nanotron reads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finephrase_dagster.train.job import TrainingError
from finephrase_dagster.train.mixture import Windows
from finephrase_dagster.train.nanotron.data import link_data, token_bytes, weights_of
from finephrase_dagster.train.tokens import TokensError, TokenSet

SEQUENCE = 9


def write_tokens(folder: Path, sizes: list[int], *, dtype: str = "<u2") -> Path:
    """Write token files of these sizes, with one document each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        np.arange(size).astype(dtype).tofile(folder / f"{number:05d}.ds")
        np.array([size] if size else [], "<u8").tofile(folder / f"{number:05d}.ds.index")
        ids = pa.table({"id": pa.array([f"{folder.name}-{number}"] if size else [], pa.string())})
        pq.write_table(ids, folder / f"{number:05d}.documents.parquet")
    return folder


def link(root: Path, folder: Path, *, sequences: int, before: int = 0, seed: int = 1) -> list[Path]:
    """Link one component's files and return the targets of the links, in the order of their names."""
    link_data(
        root / "linked",
        components={"web": folder},
        weights={"web": 1.0},
        sequences=sequences,
        read_before={"web": before},
        sequence=SEQUENCE,
        seed=seed,
    )
    return [path.resolve() for path in sorted((root / "linked" / "web").iterdir())]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5).filter(lambda sizes: max(sizes) > SEQUENCE),
    sequences=st.integers(1, 60),
    before=st.integers(0, 30),
)
def test_the_links_suffice_and_the_repetitions_of_two_files_differ_by_one_at_most(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], sequences: int, before: int
) -> None:
    root = tmp_path_factory.mktemp("data")
    folder = write_tokens(root / "tokens", sizes)
    linked = link(root, folder, sequences=sequences, before=before)
    held = sum(path.stat().st_size // 2 // (SEQUENCE + 1) for path in linked)
    assert held > sequences + before
    assert len(set(Counter(linked).values())) == 1
    assert all(path.stat().st_size // 2 > SEQUENCE for path in linked)
    longer = link(root, folder, sequences=sequences + 20, before=before)
    assert longer[: len(linked)] == linked


def test_the_seed_orders_the_files_of_each_epoch(tmp_path: Path) -> None:
    folder = write_tokens(tmp_path / "tokens", [20] * 12)
    one = link(tmp_path, folder, sequences=40)
    assert one[:12] != one[12:24]
    assert sorted(one[:12]) == sorted(one[12:24])
    assert link(tmp_path, folder, sequences=40) == one
    assert link(tmp_path, folder, sequences=40, seed=2) != one


def test_a_component_too_short_for_one_sequence_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_tokens(tmp_path / "tokens", [SEQUENCE])
    with pytest.raises(TrainingError, match="no file of web holds 10 tokens: give it more text"):
        link(tmp_path, folder, sequences=1)


def test_weights_are_the_shares_of_the_drawn_windows() -> None:
    component = np.array([0, 1, 1, 1], np.int32)
    windows = Windows(names=("a", "b"), component=component, start=np.zeros(4, np.int64))
    assert weights_of(windows) == {"a": 0.25, "b": 0.75}


def test_components_of_different_tokenizers_are_refused(tmp_path: Path) -> None:
    small = write_tokens(tmp_path / "small", [20])
    large = write_tokens(tmp_path / "large", [20], dtype="<u4")
    assert (token_bytes({"a": small}), token_bytes({"b": large})) == (2, 4)
    with pytest.raises(TokensError, match=r"differ \(a 2, b 4\): tokenise all components with one tokenizer"):
        token_bytes({"a": small, "b": large})


def test_tokens_that_are_missing_or_contradict_their_index_are_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(TokensError, match="holds no tokens"):
        TokenSet(tmp_path / "nothing")
    folder = write_tokens(tmp_path / "tokens", [20])
    (folder / "00000.ds").write_bytes(b"123")
    with pytest.raises(TokensError, match="has 3 bytes, which does not fit its 20 tokens"):
        TokenSet(folder)
    (folder / "00000.ds.index").unlink()
    with pytest.raises(TokensError, match="index does not exist"):
        TokenSet(folder)
