"""The work of a measurement: documents of the generator's own source, with its own prompts, sampling and lengths."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import plain, sha256_text
from finephrase_dagster.rephrase.job import RephraseJob, Target

MEMORY, MEMORY_BYTES = Path("/dev/shm"), 2**30
MOST_SHARDS = 64
"""Files of a corpus that the documents are taken from, evenly spread."""


def sample_documents(corpus: Artifact, count: int) -> pa.Table:
    """Return up to so many documents of a corpus, from the beginnings of files that are spread over it."""
    files = [corpus.folder / file["path"] for file in corpus.manifest()["files"]]
    chosen = files[:: -(-len(files) // MOST_SHARDS)] if files else []
    each = -(-count // max(1, len(chosen)))
    parts = []
    for path in chosen:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(each, columns=["id", "text"]), None)
            if batch is not None:
                parts.append(
                    pa.table(batch.to_pydict(), schema=pa.schema([("id", pa.string()), ("text", pa.string())]))
                )
    return pa.concat_tables(parts).slice(0, count) if parts else pa.table({"id": [], "text": []})


def work_folder(artifact: Path) -> Path:
    """Return a folder for the files of measurements, in memory where there is room: a slow disk is not measured.

    An interrupted sweep may leave it; the next one of the same artifact empties it.
    """
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
    return MEMORY / f"finephrase-sweep-{sha256_text(str(artifact.resolve()))[:16]}" if usable else artifact / "work"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Documents to warm an engine up and documents to measure, and the job that sends them."""

    job: RephraseJob
    warmup: pa.Table
    documents: pa.Table

    @classmethod
    def of(cls, job: RephraseJob, corpus: Artifact, *, documents: int, warmup: int) -> Workload:
        """Return the work that a job of a cell has on a part of its corpus.

        If the corpus has fewer documents, the warm-up gets at most a tenth of them.
        """
        rows = sample_documents(corpus, documents + warmup)
        few = min(warmup, max(1, len(rows) // 10))
        return cls(job=job, warmup=rows.slice(0, few), documents=rows.slice(few, documents))

    @property
    def requests(self) -> int:
        """The number of requests that are measured."""
        return len(self.documents) * len(self.job.prompts)

    def part(self, rows: pa.Table, folder: Path, concurrency: int) -> RephraseJob:
        """Return the job that sends some documents; what it writes goes into a folder that is emptied first.

        Each row is drawn once: rollouts are further requests of the same kind.
        """
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        pq.write_table(rows, folder / "documents.parquet")
        targets = {
            prompt: Target(folder=str(folder / prompt), recipe=_measured_recipe(target.recipe))
            for prompt, target in self.job.targets.items()
        }
        update = {"files": (str(folder / "documents.parquet"),), "targets": targets, "concurrency": concurrency}
        return self.job.model_copy(update=update)


def _measured_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in plain(recipe).items() if name != "rollouts"}, "rows": None}
