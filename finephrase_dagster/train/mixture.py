"""A mixture: which windows of which datasets a student sees. No token is copied.

A window is `sequence` tokens at a multiple of `sequence` in a dataset's tokens. `windows.parquet` lists
the drawn windows (component, start), sorted, one row each time a window is seen. It is a multiset: the
order in which a student sees it comes from that student's data seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.student import Mixture
from finephrase_dagster.train.tokens import TokenSet

WINDOWS = "windows.parquet"


class MixtureError(FinephraseError):
    """A mixture cannot be drawn or read; the message names component and remedy."""


@dataclass(frozen=True, kw_only=True)
class ComponentFacts:
    """One component's part of a mixture.

    Attributes:
        name: the dataset.
        weight: the share asked for, 0 to 1.
        share: the share it has.
        documents: documents in the dataset.
        tokens_available: tokens in the dataset.
        windows_available: whole windows in the dataset; at most `sequence - 1` tokens are left over.
        windows: windows drawn, repetitions counted.
        tokens: tokens drawn, repetitions counted.
        epochs: windows / windows_available: how often a student sees the dataset; under 1 it is a subset.
    """

    name: str
    weight: float
    share: float
    documents: int
    tokens_available: int
    windows_available: int
    windows: int
    tokens: int
    epochs: float


@dataclass(frozen=True, kw_only=True)
class MixtureFacts:
    """A mixture's totals and its components, in the study's order."""

    sequence: int
    windows: int
    tokens: int
    components: tuple[ComponentFacts, ...]


@dataclass(frozen=True)
class Windows:
    """A mixture's windows: names of the components, and per window the component's number and its start."""

    names: tuple[str, ...]
    component: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def mix(output: Path, *, mixture: Mixture, sequence: int, components: Mapping[str, Path]) -> MixtureFacts:
    """Draws a mixture's windows and writes `output/windows.parquet`.

    The draw of a component depends on its tokens, the mixture's seed and the number of its windows, and
    on no other component: under one seed a smaller share is a subset of a larger one.

    Args:
        output: an existing folder.
        mixture: weights, budget and seed.
        sequence: tokens a window.
        components: the folder of tokens of each component.

    Raises:
        MixtureError: the budget is under one window, or a component has, or is given, less than one.
        TokensError: a component's tokens cannot be read.
    """
    total = mixture.tokens // sequence
    quotas = mixture.windows(sequence)
    facts, starts = [], []
    for name, weight in mixture.weights.items():
        if name not in components:
            raise MixtureError(f"component {name} has no tokens: tokenise it first")
        tokens = TokenSet(components[name])
        available, wanted = tokens.tokens // sequence, quotas[name]
        if not wanted:
            raise MixtureError(
                f"component {name} with weight {weight:.4g} gets no window of {sequence} tokens out of "
                f"{mixture.tokens}: raise the mixture's 'tokens' or the component's weight"
            )
        if not available:
            raise MixtureError(
                f"component {name} has {tokens.tokens} tokens, less than one window of {sequence}: give it more "
                "text, lower the study's 'sequence', or take it out of the mixture"
            )
        starts.append(draw(available, wanted, seed=mixture.seed, name=name) * sequence)
        facts.append(
            ComponentFacts(
                name=name,
                weight=weight,
                share=wanted / total,
                documents=tokens.documents,
                tokens_available=tokens.tokens,
                windows_available=available,
                windows=wanted,
                tokens=wanted * sequence,
                epochs=wanted / available,
            )
        )
    _write(output / WINDOWS, [fact.name for fact in facts], starts, sequence)
    return MixtureFacts(sequence=sequence, windows=total, tokens=total * sequence, components=tuple(facts))


def draw(available: int, wanted: int, *, seed: int, name: str) -> np.ndarray:
    """Numbers of the drawn windows, sorted; shape (wanted,), int64.

    Whole epochs come first, then a random subset: no window is drawn twice more than another.
    """
    source = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    epochs, rest = divmod(wanted, available)
    part = np.random.default_rng([seed, source]).permutation(available)[:rest]
    return np.sort(np.concatenate([np.repeat(np.arange(available, dtype=np.int64), epochs), part]))


def _write(path: Path, names: list[str], starts: list[np.ndarray], sequence: int) -> None:
    component = np.repeat(np.arange(len(names), dtype=np.int32), [len(part) for part in starts])
    table = pa.table(
        {
            "component": pa.DictionaryArray.from_arrays(pa.array(component), pa.array(names, pa.string())),
            "start": pa.array(np.concatenate(starts), pa.int64()),
        }
    ).replace_schema_metadata({"sequence": str(sequence)})
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_windows(mixture: Path, *, sequence: int) -> Windows:
    """Reads the windows that `mix` wrote into a folder, in its order.

    Raises:
        MixtureError: there are none, or they were drawn for another sequence length.
    """
    path = mixture / WINDOWS
    if not path.is_file():
        raise MixtureError(f"{path} is not there: draw the mixture first")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise MixtureError(f"{path} cannot be read ({error}): draw the mixture again") from error
    drawn = (table.schema.metadata or {}).get(b"sequence", b"?").decode()
    if drawn != str(sequence):
        raise MixtureError(f"{path} has windows of {drawn} tokens, {sequence} are wanted: draw the mixture again")
    column = table["component"].combine_chunks()
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return Windows(
        names=tuple(column.dictionary.to_pylist()),
        component=column.indices.to_numpy(),
        start=table["start"].to_numpy(),
    )
