"""How far the datasets of several prompts say the same about the same documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, combinations, islice
from pathlib import Path

import numpy as np

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.audit.dataset import open_dataset, read_chunks
from finephrase_dagster.audit.signatures import Signatures
from finephrase_dagster.corpora.column import SORTED_AT_ONCE

SIMILARITY = 0.5  # as in the gate `near_duplicates`
ROWS_AT_ONCE = 1_024
COMPARED = 10_000  # documents of a mixture whose completions with several prompts are compared
MOST = 0.05  # share of near-duplicates above which a prompt adds little to another one
REMEDY = "Leave one of the prompts out, or change its wording, so that it asks for another text."


@dataclass(frozen=True, kw_only=True)
class PromptOverlap:
    """What two datasets have in common.

    Attributes:
        documents: ids that both have.
        near_duplicates: share of these of which the completions are nearly the same.
        mean_similarity: of the completions of a document; see the gate `near_duplicates`.
    """

    first: str
    second: str
    documents: int
    near_duplicates: float
    mean_similarity: float

    @property
    def passed(self) -> bool:
        """Whether few enough completions are nearly the same; it is a warning, and blocks nothing."""
        return self.near_duplicates <= MOST


def overlaps(
    datasets: Mapping[str, str | Path], *, similarity: float = SIMILARITY, rows: int | None = None
) -> list[PromptOverlap]:
    """Compare the completions of the same documents in each pair of datasets.

    Args:
        datasets: a folder, or a Parquet or JSONL file with the columns `id` and `text`, by a name of your choice.
        similarity: share of equal word pairs above which two completions are near-duplicates.
        rows: read so many rows of each dataset. Default: all.

    Raises:
        AuditError: a dataset cannot be read.
    """
    if len(datasets) < 2:
        return []
    signatures = {name: _read(path, rows) for name, path in datasets.items()}
    return [_compare(pair, signatures, similarity) for pair in combinations(datasets, 2)]


def prompt_overlaps(lineage: Lineage, mixture: str) -> list[PromptOverlap]:
    """Return how far the prompts of one cell say the same in a mixture, over the first rows of their datasets."""
    by_cell: dict[str, dict[str, Path]] = {}
    for name, component in lineage.study.components(mixture).items():
        if component.cell is not None:
            by_cell.setdefault(component.cell, {})[name] = lineage.component(component).folder
    return [pair for datasets in by_cell.values() for pair in overlaps(datasets, rows=COMPARED)]


def _read(path: str | Path, rows: int | None) -> Signatures:
    dataset, signatures = open_dataset([path], check=None), Signatures()
    chunks = read_chunks(dataset, dataset.files)
    some = chain.from_iterable(chunks) if rows is None else islice(chain.from_iterable(chunks), rows)
    while chunk := list(islice(some, ROWS_AT_ONCE)):
        signatures.add(chunk)
    return signatures


def _compare(pair: tuple[str, str], signatures: Mapping[str, Signatures], similarity: float) -> PromptOverlap:
    first, second = (signatures[name] for name in pair)
    groups = max(len(first.id_hashes), len(second.id_hashes)) // SORTED_AT_ONCE + 1
    documents, alike, total = 0, 0, 0.0
    for mine, theirs in zip(first.id_hashes.groups(groups), second.id_hashes.groups(groups), strict=True):
        _, places, others = np.intersect1d(
            first.id_hashes.read()[mine], second.id_hashes.read()[theirs], return_indices=True
        )
        similarities = first.similarities(mine[places], theirs[others], second)
        documents += len(similarities)
        alike += int(np.count_nonzero(similarities >= similarity))
        total += float(similarities.sum())
    return PromptOverlap(
        first=pair[0],
        second=pair[1],
        documents=documents,
        near_duplicates=alike / max(documents, 1),
        mean_similarity=total / max(documents, 1),
    )
