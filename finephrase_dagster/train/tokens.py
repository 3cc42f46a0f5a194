"""Tokens: a dataset tokenised once, for every mixture that uses it.

Each input file becomes one `NNNNN.ds` (the documents' tokens one after another, little-endian, an
end-of-text token after each), one `NNNNN.ds.index` (the documents' ends in tokens, uint64) and one
`NNNNN.documents.parquet` (the documents' ids, pieces and lengths, in order). The first two are DataTrove's
format, which nanotron reads as well; the third is written last and says that the other two are whole,
so that a killed run goes on with the next file. Documents keep the order of their files: order in
training is the mixture's and the student's business (whole windows are shuffled there, as DataTrove shuffles
chunks), and a window can be traced to its documents.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.train.pieces import pieces
from finephrase_dagster.train.tokenizer import TOKENIZER_FILE, load_tokenizer


class TokensError(FinephraseError):
    """A dataset cannot be tokenised, or its tokens cannot be read; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """What a tokenised dataset holds.

    Attributes:
        rows: rows of the input files.
        empty: rows without text; they have no tokens and are no documents.
        documents: what has tokens; a row of more than 100,000 characters is several (`pieces.py`).
        tokens: all tokens, the end-of-text token of each document included.
        token_bytes: bytes a token takes on disk, 2 or 4.
    """

    rows: int
    empty: int
    documents: int
    tokens: int
    token_bytes: int


def tokenise(
    files: Sequence[Path], output: Path, *, tokenizer: Path, dataset: str, log: Callable[[str], None]
) -> TokenFacts:
    """Tokenises a dataset's Parquet files with DataTrove's tokenizer step; goes on where it was killed.

    Args:
        files: Parquet files with the columns `id` and `text`, in the dataset's order.
        output: an existing folder, used for this dataset and tokenizer alone.
        tokenizer: the folder of a Hugging Face fast tokenizer.
        dataset: the dataset's name, for messages.
        log: receives one line a file.

    Raises:
        TokensError: no document has text, or a file lacks a column or cannot be read.
        TokenizerError: the tokenizer is missing or has no end-of-text token.
    """
    from datatrove.pipeline.tokens import DocumentTokenizer

    work = output / "work"
    shutil.rmtree(work, ignore_errors=True)
    step = DocumentTokenizer(
        str(work),
        str(tokenizer / TOKENIZER_FILE),
        eos_token=str(load_tokenizer(tokenizer).eos_token),
        save_final_metadata=False,
        shuffle_documents=False,
    )
    # A document that spells out a special token has that text in it, not the token.
    step.tokenizer.encode_special_tokens = True
    rows = 0
    for number, file in enumerate(files):
        rows += _rows(file, dataset)
        name = f"{number:05d}"
        if not (output / f"{name}.documents.parquet").is_file():
            documents = _tokenise_file(step, file, work, output, name, dataset)
            log(f"{dataset}: tokenised {file.name}, {documents} documents ({number + 1} of {len(files)} files)")
    shutil.rmtree(work, ignore_errors=True)
    found = TokenSet(output) if files else None
    if found is None or not found.tokens:
        raise TokensError(f"{dataset} is empty: its {len(files)} files hold {rows} rows and no text; check its source")
    return TokenFacts(
        rows=rows,
        empty=rows - _with_text(output),
        documents=found.documents,
        tokens=found.tokens,
        token_bytes=step.token_size,
    )


def _tokenise_file(step: Any, file: Path, work: Path, output: Path, name: str, dataset: str) -> int:
    found: list[tuple[str, int]] = []
    with _quiet_datatrove():
        step.run(_documents(file, dataset, found), rank=int(name))
    written = work / f"{name}_unshuffled.ds"
    ends = np.fromfile(f"{written}.index", dtype="<u8")
    for source, target in ((written, f"{name}.ds"), (Path(f"{written}.index"), f"{name}.ds.index")):
        with source.open("rb+") as handle:
            os.fsync(handle.fileno())
        source.rename(output / target)
    table = pa.table(
        {
            "id": pa.array([name for name, _ in found], pa.string()),
            "piece": pa.array([piece for _, piece in found], pa.uint32()),
            "tokens": pa.array(np.diff(ends, prepend=0), pa.uint64()),
        }
    )
    with atomic_write(output / f"{name}.documents.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return len(found)


def _with_text(output: Path) -> int:
    """The rows that have tokens."""
    pieces_of = [pq.read_table(file, columns=["piece"])["piece"] for file in output.glob("*.documents.parquet")]
    return sum(pc.sum(pc.equal(column, 0)).as_py() or 0 for column in pieces_of)


def _rows(file: Path, dataset: str) -> int:
    try:
        metadata = pq.read_metadata(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise TokensError(
            f"{dataset}: {file} is not a readable Parquet file ({error}): make the dataset again"
        ) from error
    missing = {"id", "text"} - set(metadata.schema.to_arrow_schema().names)
    if missing:
        raise TokensError(
            f"{dataset}: {file} has no column {', '.join(sorted(missing))}: columns id and text are needed"
        )
    return metadata.num_rows


def _documents(file: Path, dataset: str, found: list[tuple[str, int]]) -> Iterator[Any]:
    """The file's documents that have text, in pieces, in order; each one's id and piece is appended to `found`."""
    from datatrove.data import Document

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1000, columns=["id", "text"]):
            for key, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                for number, piece in enumerate(pieces(text or "")):
                    found.append((str(key), number))
                    yield Document(text=piece, id=str(key))
    except (OSError, pa.ArrowInvalid) as error:
        raise TokensError(f"{dataset}: {file} cannot be read to its end ({error}): make the dataset again") from error


@contextlib.contextmanager
def _quiet_datatrove() -> Iterator[None]:
    """DataTrove tells the terminal about every file; here `log` does."""
    from loguru import logger

    logger.disable("datatrove")
    try:
        yield
    finally:
        logger.enable("datatrove")


class TokenSet:
    """A folder that `tokenise` wrote, read through memory maps.

    Positions count from the set's first token through all its files.

    Raises:
        TokensError: the folder holds no tokens, or a file and its index contradict each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = sorted(file.name.removesuffix(".documents.parquet") for file in folder.glob("*.documents.parquet"))
        if not names:
            raise TokensError(f"{folder} holds no tokens: tokenise the dataset first")
        indices = [np.fromfile(folder / f"{name}.ds.index", dtype="<u8").astype(np.int64) for name in names]
        kept = [(name, ends) for name, ends in zip(names, indices, strict=True) if len(ends)]
        self._names = [name for name, _ in kept]
        self._files = [_tokens(folder / f"{name}.ds", int(ends[-1])) for name, ends in kept]
        self._ends = [ends for _, ends in kept]
        self._offsets = np.concatenate([[0], np.cumsum([len(file) for file in self._files], dtype=np.int64)])

    @property
    def tokens(self) -> int:
        return int(self._offsets[-1])

    @property
    def documents(self) -> int:
        return sum(len(ends) for ends in self._ends)

    def begin(self, file: str) -> int:
        """The position of the first token of a file, which is named without its `.ds`."""
        return int(self._offsets[self._names.index(file)])

    @cached_property
    def document_ends(self) -> np.ndarray:
        """The position after each document's end-of-text token; shape (documents,), int64."""
        shifted = [ends + offset for ends, offset in zip(self._ends, self._offsets, strict=False)]
        return np.concatenate([np.empty(0, np.int64), *shifted])

    @cached_property
    def document_ids(self) -> pa.ChunkedArray:
        """The documents' ids, in their order; strings."""
        files = [self.folder / f"{name}.documents.parquet" for name in self._names]
        return pa.concat_tables([pq.read_table(file, columns=["id"]) for file in files])["id"]

    def window(self, start: int, length: int) -> np.ndarray:
        """The tokens at start .. start + length; shape (length,), int64.

        Raises:
            IndexError: the window leaves the set.
        """
        if start < 0 or start + length > self.tokens:
            raise IndexError(f"window {start}..{start + length} leaves {self.folder}, which has {self.tokens} tokens")
        parts = []
        file = int(np.searchsorted(self._offsets, start, side="right")) - 1
        while length > 0:
            begin = start - int(self._offsets[file])
            parts.append(self._files[file][begin : begin + length])
            start, length, file = start + len(parts[-1]), length - len(parts[-1]), file + 1
        return np.concatenate(parts).astype(np.int64)


def _tokens(file: Path, tokens: int) -> np.ndarray:
    size = file.stat().st_size
    kinds = {2 * tokens: "<u2", 4 * tokens: "<u4"}
    if size not in kinds:
        raise TokensError(
            f"{file} has {size} bytes, which {tokens} tokens do not take: delete its folder, tokenise again"
        )
    return np.memmap(file, dtype=kinds[size], mode="r")
