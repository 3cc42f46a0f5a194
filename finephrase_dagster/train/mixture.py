"""A mixture: which windows of which datasets a student sees. No token is copied.

A window is `sequence` tokens at a multiple of `sequence` in a dataset's tokens. `windows.parquet` lists the drawn
windows (component, start), sorted, with one row for each time that a window is seen. It does not fix an order: the
order in which a student sees the windows comes from that student's data seed.
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
from finephrase_dagster.study.student import Mixture, window_pool
from finephrase_dagster.train.tokens import TokenSet

WINDOWS = "windows.parquet"


class MixtureError(FinephraseError):
    """A mixture cannot be drawn or read; the message names the component and what to change."""


@dataclass(frozen=True, kw_only=True)
class ComponentFacts:
    """One component's part of a mixture.

    Attributes:
        name: the dataset, as the study called it when the mixture was drawn.
        version: identifies the dataset in the files; see `mix`.
        weight: the requested share, 0 to 1.
        share: the actual share.
        windows_available: complete windows in the dataset; at most `sequence - 1` tokens are left over.
        windows_pool: the windows that are drawn from: all, unless the mixture sets its epochs.
        documents_drawn: documents of which a student sees at least a part.
        windows: windows drawn, including repetitions.
        tokens: tokens drawn, including repetitions.
        epochs: windows / windows_pool: how often a student sees these windows; below 1, it sees some of them.
    """

    name: str
    version: str
    weight: float
    share: float
    documents: int
    tokens_available: int
    windows_available: int
    windows_pool: int
    documents_drawn: int
    windows: int
    tokens: int
    epochs: float


@dataclass(frozen=True, kw_only=True)
class MixtureFacts:
    """A mixture's totals, and its components in the order of the study file."""

    sequence: int
    windows: int
    tokens: int
    components: tuple[ComponentFacts, ...]


@dataclass(frozen=True)
class Windows:
    """A mixture's windows: the names of the components, and per window the component's number and the start."""

    names: tuple[str, ...]
    component: np.ndarray
    start: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def mix(
    output: Path,
    *,
    mixture: Mixture,
    sequence: int,
    components: Mapping[str, Path],
    names: Mapping[str, str] | None = None,
) -> MixtureFacts:
    """Draw a mixture's windows and write `output/windows.parquet`.

    The windows of a component depend on its tokens, the mixture's seed and epochs and the number of its windows, but
    not on the other components: with the same seed, a smaller share is a subset of a larger one.

    Args:
        output: an existing folder.
        mixture: weights, budget, seed and epochs. Its components are versions of datasets, so that nothing depends on
            names.
        sequence: tokens per window.
        components: the folder of tokens of each component.
        names: what messages and facts call the components. Default: their versions.

    Raises:
        MixtureError: a component has no tokens, less than one window, a share of less than one window, or too few
            tokens for the mixture's epochs.
        TokensError: a component's tokens cannot be read.
    """
    total = mixture.tokens // sequence
    quotas = mixture.windows(sequence)
    facts, starts = [], []
    for version, weight in mixture.weights.items():
        name = (names or {}).get(version, version)
        if version not in components:
            raise MixtureError(f"component {name} has no tokens: tokenise it first")
        tokens = TokenSet(components[version])
        available, count = tokens.tokens // sequence, quotas[version]
        if not count:
            raise MixtureError(
                f"component {name} with weight {weight:.4g} gets no window of {sequence} tokens out of "
                f"{mixture.tokens}: raise the mixture's 'tokens' or the component's weight"
            )
        if not available:
            raise MixtureError(
                f"component {name} has {tokens.tokens} tokens, less than one window of {sequence}: give it more "
                "text, lower the study's 'sequence', or take it out of the mixture"
            )
        pool = window_pool(count, available, mixture.epochs)
        if pool > available:
            raise MixtureError(
                f"component {name} has {available} windows of {sequence} tokens. For {mixture.epochs:.4g} epochs, "
                f"{count} drawn windows need {pool} different ones: give it more text, lower its weight or 'tokens', "
                f"or give all mixtures that are compared {count / available:.4g} epochs"
            )
        starts.append(draw(available, count, seed=mixture.seed, name=version, pool=pool) * sequence)
        facts.append(
            ComponentFacts(
                name=name,
                version=version,
                weight=weight,
                share=count / total,
                documents=tokens.documents,
                tokens_available=tokens.tokens,
                windows_available=available,
                windows_pool=pool,
                documents_drawn=_documents_in(tokens, np.unique(starts[-1]), sequence),
                windows=count,
                tokens=count * sequence,
                epochs=count / pool,
            )
        )
    _write(output / WINDOWS, [fact.version for fact in facts], starts, sequence)
    return MixtureFacts(sequence=sequence, windows=total, tokens=total * sequence, components=tuple(facts))


def draw(available: int, count: int, *, seed: int, name: str, pool: int | None = None) -> np.ndarray:
    """Return the numbers of the drawn windows, sorted; shape (count,), int64.

    They are complete epochs and a random subset of one more, so the repetitions of two windows differ by 1 at most.

    Args:
        pool: how many different windows are drawn from, all of them by default; a smaller pool is a subset of a larger.
    """
    source = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    chosen = np.random.default_rng([seed, source]).permutation(available)[:pool]
    epochs, rest = divmod(count, len(chosen))
    return np.sort(np.concatenate([np.repeat(chosen, epochs), chosen[:rest]]))


def _documents_in(tokens: TokenSet, starts: np.ndarray, sequence: int) -> int:
    """Return how many documents have a token in one of some windows."""
    ends = tokens.document_ends
    marks = np.zeros(len(ends) + 1, np.int64)
    np.add.at(marks, np.searchsorted(ends, starts, side="right"), 1)
    np.add.at(marks, np.searchsorted(ends, starts + sequence - 1, side="right") + 1, -1)
    return int((np.cumsum(marks) > 0).sum())


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
    """Return the windows that `mix` wrote into a folder.

    Raises:
        MixtureError: the file is missing or unreadable, or its windows have another length.
    """
    path = mixture / WINDOWS
    if not path.is_file():
        raise MixtureError(f"{path} does not exist: draw the mixture first")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise MixtureError(f"{path} cannot be read ({error}): draw the mixture again") from error
    drawn = (table.schema.metadata or {}).get(b"sequence", b"?").decode()
    if drawn != str(sequence):
        raise MixtureError(f"{path} has windows of {drawn} tokens instead of {sequence}: draw the mixture again")
    column = table["component"].combine_chunks()
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return Windows(
        names=tuple(column.dictionary.to_pylist()),
        component=column.indices.to_numpy(),
        start=table["start"].to_numpy(),
    )
