"""Traces: from a mixture's scores down to the documents behind them, and from a document up to the scores it is in.

A dataset's rows have the ids of their source documents, and `order.parquet` lists the windows of tokens that a student
saw, so both directions are exact and no index has to be kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import MANIFEST, Artifact, ArtifactMissing
from finephrase_dagster.artifacts.graph import current_facts, items
from finephrase_dagster.artifacts.key import CORPUS, DATASET, ItemKey, dataset_key
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.artifacts.recorded import failed_gates
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.categories import partial_words, unscored_tasks
from finephrase_dagster.study.component import Component

SAMPLE = 3  # documents of a dataset that are named
MOST_CHARACTERS = 300  # of a text that is shown
REJECTED = "__meta__/rejected.parquet"


class NothingToTrace(FinephraseError, exit_status=2):
    """A mixture, file or row does not exist."""


def trace_mixture(lineage: Lineage, mixture: str) -> dict[str, Any]:
    """Return a mixture's students with their scores, and its datasets with their recipes, sources and first documents.

    Raises:
        NothingToTrace: the study has no such mixture.
        ArtifactMissing: it has not been drawn.
    """
    study, lineage = lineage.study, lineage.snapshot()
    if mixture not in study.mixtures:
        raise NothingToTrace(f"the study {study.name} has no mixture {mixture!r}; it has {', '.join(study.mixtures)}")
    manifest, parts = lineage.mixture_manifest(mixture), lineage.parts(mixture)
    return {
        "mixture": mixture,
        "study": study.name,
        "folder": str(lineage.mixture(mixture).folder),
        "tokens": manifest["tokens"],
        "students": [_scores(lineage, run) for run, one in study.student_runs.items() if one.mixture == mixture],
        "datasets": [
            {
                **{name: drawn[name] for name in ("name", "share", "epochs", "documents", "documents_drawn", "tokens")},
                "origins": [
                    _origin(lineage, study.components(mixture)[name])
                    for name in parts[drawn["version"]].name.split(", ")
                ],
            }
            for drawn in manifest["components"]
        ],
    }


def trace_document(lineage: Lineage, file: Path, key: str) -> dict[str, Any]:
    """Return a row, its source document, and how often each student saw it, with the student's scores.

    Args:
        file: a data file of a corpus or synthetic dataset, or its folder.
        key: the row's id.

    Raises:
        NothingToTrace: the file is not part of a complete dataset, or has no row of this id.
    """
    lineage = lineage.snapshot()
    folder = _dataset_folder(file)
    row = _row([file] if file.is_file() else sorted(folder.glob("*.parquet")), key)
    if row is None and (rejected := _row([folder / REJECTED], key)) is None:
        raise NothingToTrace(f"{file} has no row with the id {key!r}. Ids are compared as text, exactly.")
    made = [item for item in items(lineage) if item.key.kind in (CORPUS, DATASET) and current_facts(item) is not None]
    datasets = [item for item in made if item.artifact().folder.resolve() == folder]
    return {
        "id": key,
        "file": str(file),
        "row": _shown(row) if row is not None else None,
        "rejected": None if row is not None else rejected,
        "items": [item.name for item in datasets],
        "source": next((_source(lineage, item.key, key) for item in datasets if item.key.kind is DATASET), None),
        "rephrased": [
            each for item in datasets if item.key.kind is CORPUS for each in _rephrased(lineage, item.key, key)
        ],
        "students": [each for item in datasets for each in _seen(lineage, item.key, key)],
    }


def _scores(lineage: Lineage, run: str) -> dict[str, Any]:
    """Return a student's folder, its scores, and what makes these partial; None for what does not exist."""
    checkpoint, scores = _complete(partial(lineage.checkpoint, run)), _complete(partial(lineage.scores, run))
    figures = scores.facts if scores else {}
    return {
        "run": run,
        "folder": str(checkpoint.folder) if checkpoint else None,
        "macro": figures.get("macro"),
        "micro": figures.get("micro"),
        "partial": (scores and partial_words(unscored_tasks(lineage.evaluation.tasks))) or None,
    }


def _complete(artifact: Callable[[], Artifact]) -> Artifact | None:
    """Return an artifact of the current recipe; None if it is not complete or its run was stopped early."""
    try:
        found = artifact()
        _ = found.facts
    except (ArtifactMissing, StoppedEarly):
        return None
    return found


def _origin(lineage: Lineage, component: Component) -> dict[str, Any]:
    """Return where a dataset lies and what it was made of, down to its first documents."""
    dataset, corpus = lineage.component(component), lineage.source(component.source)
    audit = lineage.component_audit(component)
    return {
        "item": dataset_key(component).name,
        "folder": str(dataset.folder),
        "prompt": component.prompt,
        "generator": component.generator,
        "model": component.generator and lineage.study.generators[component.generator].model,
        "audit_passed": audit.facts.get("passed") if audit else None,
        "failed_warnings": [*failed_gates(audit.manifest(), blocking=False).values()] if audit else [],
        "source": component.source,
        "source_folder": str(corpus.folder),
        "first_documents": _first_ids(dataset),
    }


def _first_ids(dataset: Artifact) -> list[str]:
    for file in sorted(dataset.folder.glob("*.parquet")):
        ids = next(pq.ParquetFile(file).iter_batches(SAMPLE, columns=["id"]), None)
        if ids is not None and len(ids):
            return [f"{file}#{key}" for key in ids["id"].to_pylist()]
    return []


def _dataset_folder(file: Path) -> Path:
    """Return the folder of the complete dataset that a file belongs to."""
    if not file.exists():
        raise NothingToTrace(f"{file} does not exist. Name a data file, or its folder, as FILE#ID.")
    folder = file if file.is_dir() else file.parent
    if not (folder / MANIFEST).is_file():
        raise NothingToTrace(
            f"{folder} is not a complete dataset or corpus: it has no {MANIFEST}. Name a file of one; for a "
            "document of a study's source, that is the folder that 'finephrase show sources/corpus/SOURCE' prints."
        )
    return folder.resolve()


def _row(files: list[Path], key: str) -> dict[str, Any] | None:
    """Return the row with an id; None if none of the files has it."""
    for file in files:
        if not file.is_file():
            continue
        try:
            rows = pq.read_table(file, filters=[("id", "=", key)]).to_pylist()
        except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise NothingToTrace(f"{file} is not a data file with a column 'id' ({error})") from error
        if rows:
            return rows[0]
    return None


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its text shortened."""
    text = row.get("text") or ""
    return row | {
        "text": text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ...",
        "characters": len(text),
    }


def _source(lineage: Lineage, key: ItemKey, row: str) -> dict[str, Any] | None:
    """Return the document that a row of a synthetic dataset was made from."""
    assert key.source
    corpus = lineage.source(key.source)
    for file in sorted(corpus.folder.glob("*.parquet")):
        if (found := _row([file], row)) is not None:
            return {"item": ItemKey(kind=CORPUS, source=key.source).name, "file": str(file), "row": _shown(found)}
    return None


def _rephrased(lineage: Lineage, corpus: ItemKey, key: str) -> Iterator[dict[str, Any]]:
    """Yield what each synthetic dataset made of a document of a corpus."""
    for item in items(lineage):
        if item.key.kind is DATASET and item.key.source == corpus.source and current_facts(item) is not None:
            folder = item.artifact().folder
            for file in sorted(folder.glob("*.parquet")):
                if (row := _row([file], key)) is not None:
                    yield {"item": item.name, "file": str(file), "finish_reason": row.get("finish_reason")}
            if (rejected := _row([folder / REJECTED], key)) is not None:
                yield {"item": item.name, "file": str(folder / REJECTED), "finish_reason": rejected["reason"]}


@dataclass(frozen=True)
class _Places:
    """Where the pieces of a document lie in a dataset's tokens: from `begins` to before `ends`, shape (pieces,)."""

    begins: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, tokens: Path, key: str) -> _Places:
        files = sorted(tokens.glob("*.documents.parquet"))
        table = pa.concat_tables([pq.read_table(file, columns=["id", "tokens"]) for file in files])
        ends = np.cumsum(table["tokens"].to_numpy(), dtype=np.int64)
        at = np.flatnonzero(pc.equal(table["id"], key).to_numpy())
        return cls(begins=ends[at] - table["tokens"].to_numpy()[at].astype(np.int64), ends=ends[at])

    def windows(self, starts: np.ndarray, length: int) -> int:
        """Return how many windows, given by their first tokens, hold a token of the document."""
        touched = np.zeros(len(starts), dtype=bool)
        for begin, end in zip(self.begins, self.ends, strict=True):
            touched |= (starts < end) & (starts + length > begin)
        return int(touched.sum())


def _seen(lineage: Lineage, key: ItemKey, row: str) -> Iterator[dict[str, Any]]:
    """Yield, per student, in how many windows it saw a document, and its scores; nothing for one that did not."""
    for component in lineage.study.tokenized:
        if dataset_key(replace(component, shuffled=False)) != key:
            continue
        if (tokens := _complete(partial(lineage.tokens, component))) is None:
            continue
        version, places = tokens.version, _Places.of(tokens.folder, row)
        for run, one in lineage.study.student_runs.items():
            found = _scores(lineage, run)
            if found["folder"] is None:
                continue
            seen = pq.read_table(Path(found["folder"]) / "order.parquet", filters=[("component", "=", version)])
            length = int((seen.schema.metadata or {}).get(b"tokens", 0))
            if count := places.windows(seen["start"].to_numpy(), length):
                yield {"mixture": one.mixture, **found, "windows": count, "shuffled": component.shuffled}
