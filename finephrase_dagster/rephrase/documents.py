"""The Python API of rephrasing: documents in, datasets out."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

from finephrase_dagster.corpora.document import CorpusError, row_id
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.rephrase.dataset import FinishedDataset, read_dataset
from finephrase_dagster.rephrase.job import build_job, execute
from finephrase_dagster.study.generator import Keep

Documents = str | Path | Sequence[str | Path | Mapping[str, Any]]


ROW = "{'id': ..., 'text': ...}"


class DocumentInvalid(FinephraseError, exit_status=2):
    """A document is not of a type that can be rephrased; the message names its position in the list."""


class RephraseOptions(TypedDict, total=False):
    """Options of `rephrase_documents` that are also options of the command; see there."""

    model: str
    generator: str
    tokenizer: str
    context: int
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    rollouts: int
    keep: Keep
    keep_raw: bool
    limit: int
    columns: tuple[str, str]
    concurrency: int | None
    chunk_rows: int
    gpus: int
    gpu_hour_dollars: float
    retry_failed: bool


@overload
def rephrase_documents(
    documents: Documents,
    *,
    prompt: str,
    output: str | Path,
    endpoint: str | Sequence[str] = (),
    log: Callable[[str], None] | None = ...,
    **options: Unpack[RephraseOptions],
) -> FinishedDataset: ...
@overload
def rephrase_documents(
    documents: Documents,
    *,
    prompt: list[str],
    output: str | Path,
    endpoint: str | Sequence[str] = (),
    log: Callable[[str], None] | None = ...,
    **options: Unpack[RephraseOptions],
) -> dict[str, FinishedDataset]: ...
def rephrase_documents(
    documents: Documents,
    *,
    prompt: str | list[str],
    output: str | Path,
    endpoint: str | Sequence[str] = (),
    log: Callable[[str], None] | None = None,
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
        log: receives lines on the progress, for example `print`; default: nothing is logged.
        model: the name that the endpoint has for its model.
        generator: a generator of the study file (FINEPHRASE_STUDY), in place of `endpoint` and `model`.
        tokenizer: folder or hub name of the model's tokenizer, to cut long documents by tokens instead of bytes.
        context: maximum number of tokens of prompt and completion together; default: what the endpoint reports.
        max_tokens: maximum number of tokens of a completion; default: the generator's, or 2048, at most half of
            the context.
        temperature: sampling temperature; default: the generator's, or the server's.
        top_p, top_k: draw from the likeliest tokens only; default: likewise.
        seed: the seed from which each row and prompt gets its own; default: the generator's, or none.
        keep_raw: keep the completions before cleaning, too, in the column `raw`.
        limit: process only the first so many rows.
        columns: the columns of ids and texts in files; default: `("id", "text")`.
        concurrency: maximum number of requests in flight; default: that of the generator's throughput sweep, or 256.
        chunk_rows: input rows per output file (5000).
        gpus, gpu_hour_dollars: used to compute the cost.
        retry_failed: send the failed rows of a complete dataset again.

    Returns:
        The dataset, whose `rows` and `table()` have the columns `id`, `prompt`, `text`, `finish_reason`,
        `prompt_tokens`, `completion_tokens`, `document_cut`, `document_sha256` and, with `keep_raw`, `raw`.
        `rejected()` has the rows without a completion: `id`, `status` and `reason`. For a list of prompts, a dictionary
        of datasets by prompt.
    """
    log = log or (lambda line: None)
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
    if isinstance(documents, Mapping) or not isinstance(documents, Iterable):
        raise DocumentInvalid(f"documents is {_kind(documents)}; write a list of texts or of {ROW}")
    documents = list(documents)
    files = [str(document) for document in documents if isinstance(document, Path)]
    rows = [_row(position, document) for position, document in enumerate(documents) if not isinstance(document, Path)]
    with tempfile.TemporaryDirectory(prefix="finephrase-") as folder:
        if rows:
            file = Path(folder) / "documents.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            files.append(str(file))
        yield files


def _row(position: int, document: object) -> dict[str, Any]:
    """Return a document of a list as a row of the input.

    Raises:
        DocumentInvalid: it is neither a text nor a dictionary with an id and a text.
    """
    where = f"documents[{position}]"
    if isinstance(document, str):
        return {"id": str(position), "text": document}
    if not isinstance(document, Mapping):
        raise DocumentInvalid(f"{where} is {_kind(document)}; write a text or {ROW}")
    if "text" not in document:
        raise DocumentInvalid(f"{where} has no 'text'; write {ROW}")
    if not isinstance(document["text"], str | None):
        raise DocumentInvalid(f"the text of {where} is {_kind(document['text'])}; write a string")
    try:
        return {"id": row_id(document.get("id"), "id", where), "text": document["text"]}
    except CorpusError as error:
        raise DocumentInvalid(str(error)) from error


def _kind(value: object) -> str:
    """Return the type of a value with its article, for messages."""
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
