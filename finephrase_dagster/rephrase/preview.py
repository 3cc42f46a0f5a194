"""A preview: a few documents rephrased, with each completion's form judged, before a dataset is paid for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from finephrase_dagster.audit.forms import form_flaw
from finephrase_dagster.corpora.document import Document
from finephrase_dagster.corpora.rows import read_rows
from finephrase_dagster.corpora.source import SourceReader
from finephrase_dagster.rephrase.dataset import read_dataset
from finephrase_dagster.rephrase.job import RephraseJob, execute
from finephrase_dagster.rephrase.side_by_side import CUT, PreviewRow


@dataclass(frozen=True, kw_only=True)
class PromptSummary:
    """Means over the completions of a prompt: the share with the right form, and tokens per document."""

    completed: int
    form: float | None
    prompt_tokens: float
    completion_tokens: float


def write_documents(source: SourceReader, documents: int, folder: Path) -> str:
    """Write the first documents of a source to a file that can be rephrased, and return its path."""
    path = folder / "documents.jsonl"
    rows = islice((row for row in source.rows() if isinstance(row, Document)), documents)
    path.write_text("".join(json.dumps({"id": row.id, "text": row.text}) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def preview_rows(job: RephraseJob, documents: int, **options: Any) -> list[PreviewRow]:
    """Rephrase the first documents of a job's input, and return them by document, then by prompt.

    Args:
        job: what to rephrase, into a folder that the caller deletes.
        options: further arguments of `execute`.

    Raises:
        FinephraseError: as `execute`.
    """
    execute(job, **options)
    made: dict[str, dict[str, Any]] = {}
    reasons: dict[str, dict[str, str]] = {}
    for name, target in job.targets.items():
        dataset = read_dataset(target.folder)
        made[name] = {row["id"]: row for row in dataset.rows}
        reasons[name] = {row["id"]: f"{row['status']}: {row['reason']}" for row in dataset.rejected().to_pylist()}
    return [
        _row(name, job.prompts[name].check, key, text, made[name].get(key), reasons[name].get(key))
        for key, text in _texts(job.files, documents).items()
        for name in job.targets
    ]


def _texts(files: Sequence[str], documents: int) -> dict[str, str]:
    """Return the texts of the first rows of files by id."""
    rows = (row.values or {} for file in files for row in read_rows(file, columns=("id", "text"), id_column="id"))
    return {str(row.get("id")): str(row.get("text") or "") for row in islice(rows, documents)}


def _row(
    prompt: str, check: str, key: str, source: str, made: Mapping[str, Any] | None, reason: str | None
) -> PreviewRow:
    if made is None:
        return PreviewRow(prompt=prompt, id=key, source=source, text=None, flaw=reason or "has no completion")
    flaw = CUT if made["finish_reason"] == "length" else form_flaw(check, made["text"])
    figures = {name: made[name] for name in ("prompt_tokens", "completion_tokens", "document_cut")}
    return PreviewRow(prompt=prompt, id=key, source=source, text=made["text"], flaw=flaw, **figures)


def summarize(rows: Sequence[PreviewRow]) -> dict[str, PromptSummary]:
    """Return the summary of each prompt."""
    summaries = {}
    for prompt in dict.fromkeys(row.prompt for row in rows):
        done = [row for row in rows if row.prompt == prompt and row.text is not None]
        count = max(1, len(done))
        summaries[prompt] = PromptSummary(
            completed=len(done),
            form=sum(row.flaw is None for row in done) / count if done else None,
            prompt_tokens=sum(row.prompt_tokens for row in done) / count,
            completion_tokens=sum(row.completion_tokens for row in done) / count,
        )
    return summaries
