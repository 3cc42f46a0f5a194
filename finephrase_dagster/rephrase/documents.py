"""The Python API of rephrasing: documents in, datasets out."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from finephrase_dagster.rephrase.dataset import FinishedDataset, read_dataset
from finephrase_dagster.rephrase.job import build_job, execute

Documents = str | Path | Sequence[str | Path | Mapping[str, Any]]


class RephraseOptions(TypedDict, total=False):
    """Options of `rephrase` that are also options of the command; see there."""

    model: str
    generator: str
    tokenizer: str
    context: int
    max_tokens: int
    temperature: float
    seed: int
    keep_raw: bool
    limit: int
    concurrency: int
    chunk_rows: int
    gpus: int
    gpu_hour_dollars: float


@overload
def rephrase(
    documents: Documents,
    *,
    prompt: str,
    output: str | Path,
    endpoint: str | Sequence[str] = (),
    log: Callable[[str], None] = ...,
    **options: Unpack[RephraseOptions],
) -> FinishedDataset: ...
@overload
def rephrase(
    documents: Documents,
    *,
    prompt: list[str],
    output: str | Path,
    endpoint: str | Sequence[str] = (),
    log: Callable[[str], None] = ...,
    **options: Unpack[RephraseOptions],
) -> dict[str, FinishedDataset]: ...
def rephrase(
    documents: Documents,
    *,
    prompt: str | list[str],
    output: str | Path,
    endpoint: str | Sequence[str] = (),
    log: Callable[[str], None] = lambda line: None,
    **options: Unpack[RephraseOptions],
) -> FinishedDataset | dict[str, FinishedDataset]:
    """Rephrase documents and return the dataset. Call it again with the same arguments to resume an interrupted run.

    Args:
        documents: a list of texts, of dictionaries with `id` and `text`, or of `Path`s; or the path or URL of one file.
            Files are JSONL (plain, .gz, .zst) or Parquet with the columns `id` and `text`. The ids of plain texts are
            their positions in the list: "0", "1" and so on.
        prompt: the name of a prompt, such as "faq", or a list of names, whose requests share each document's prefix.
        output: a folder or a URL; the dataset is written to `<output>/<prompt>`.
        endpoint: URLs of servers with OpenAI's API; the environment variable FINEPHRASE_API_KEY holds the key.
        log: receives lines on the progress, for example `print`.
        model: the name that the endpoint has for its model.
        generator: a generator of the study file (FINEPHRASE_STUDY), in place of `endpoint` and `model`.
        tokenizer: folder or hub name of the model's tokenizer, to cut long documents by tokens instead of bytes.
        context: maximum number of tokens of prompt and completion together; default: what the endpoint reports.
        max_tokens: maximum number of tokens of a completion; default: the generator's, or 2048.
        temperature: sampling temperature; default: the generator's, or the server's.
        seed: the seed from which each row and prompt gets its own; default: the generator's, or none.
        keep_raw: keep the completions before cleaning, too, in the column `raw`.
        limit: process only the first so many rows.
        concurrency: maximum number of requests in flight (256).
        chunk_rows: input rows per output file (5000).
        gpus, gpu_hour_dollars: used to compute the cost.

    Returns:
        The dataset; for a list of prompts, a dictionary of datasets by prompt.
    """
    with _input_files(documents) as files:
        job = build_job(
            files,
            prompts=[prompt] if isinstance(prompt, str) else prompt,
            output=str(output),
            endpoints=[endpoint] if isinstance(endpoint, str) else list(endpoint),
            log=log,
            **options,
        )
        execute(job, log=log)
    datasets = {name: read_dataset(target.folder) for name, target in job.targets.items()}
    return datasets[prompt] if isinstance(prompt, str) else datasets


@contextlib.contextmanager
def _input_files(documents: Documents) -> Iterator[list[str]]:
    """Yield the files that hold documents; those that are in memory are written to a temporary file."""
    if isinstance(documents, str | Path):
        yield [str(documents)]
        return
    files = [str(document) for document in documents if isinstance(document, Path)]
    rows = [
        {"id": str(position), "text": document} if isinstance(document, str) else dict(document)
        for position, document in enumerate(documents)
        if not isinstance(document, Path)
    ]
    with tempfile.TemporaryDirectory(prefix="finephrase-") as folder:
        if rows:
            file = Path(folder) / "documents.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files.append(str(file))
        yield files
