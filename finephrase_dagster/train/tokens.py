"""Tokens: a dataset is tokenised once, for every mixture that uses it.

Each input file becomes three files. `NNNNN.ds` holds the documents' tokens one after another, little-endian, with an
end-of-text token after each document. `NNNNN.ds.index` holds the positions of the documents' ends (uint64). These two
are DataTrove's format, which nanotron reads as well. `NNNNN.documents.parquet` lists the documents' ids, pieces and
lengths in order; it is written last, so its presence shows that the other two are complete, and a killed run resumes
with the next file. Documents keep the order of their files, so that a window can be traced to its documents; mixture
and student shuffle whole windows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.corpora.quiet import quiet_datatrove
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.train.pieces import pieces, shuffle_words
from finephrase_dagster.train.tokenizer import TOKENIZER_FILE, load_tokenizer


class TokensError(FinephraseError):
    """A dataset cannot be tokenised, or its tokens cannot be read; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """The size of a tokenised dataset.

    Attributes:
        rows: rows in the input files.
        empty: rows without text, which give no document.
        dropped: rows that were left out because they fail a gate.
        documents: documents; a row of more than 100,000 characters gives several (`pieces.py`).
        tokens: all tokens, including the end-of-text token of each document.
        token_bytes: bytes per token on disk, 2 or 4.
    """

    rows: int
    empty: int
    documents: int
    tokens: int
    token_bytes: int
    dropped: int = 0


def tokenise(
    files: Sequence[Path],
    output: Path,
    *,
    tokenizer: Path,
    dataset: str,
    log: Callable[[str], None],
    without: IdSet | None = None,
    shuffled: bool = False,
) -> TokenFacts:
    """Tokenise a dataset's Parquet files with DataTrove's tokenizer step; a killed run resumes with the next file.

    Args:
        files: Parquet files with the columns `id` and `text`, in the dataset's order.
        output: an existing folder, used for this dataset and tokenizer alone.
        tokenizer: the folder of a Hugging Face fast tokenizer.
        log: receives one line per file.
        shuffled: whether the words of each document are shuffled; see `shuffle_words`.

    Raises:
        TokensError: no document has text, or a file has no such column or cannot be read.
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
    # A document that contains a special token's text is encoded as text, not as that token.
    step.tokenizer.encode_special_tokens = True
    rows = 0
    for number, file in enumerate(files):
        rows += _rows(file, dataset)
        name = f"{number:05d}"
        if not (output / f"{name}.documents.parquet").is_file():
            texts = _texts(file, dataset, without or IdSet(), shuffled=shuffled)
            documents = _tokenise_file(step, texts, work, output, name)
            log(f"{dataset}: tokenised {file.name}, {documents} documents ({number + 1} of {len(files)} files)")
    shutil.rmtree(work, ignore_errors=True)
    token_set = TokenSet(output) if files else None
    if token_set is None or not token_set.tokens:
        if rows and len(without or ()) == rows:
            raise TokensError(
                f"{dataset}: each of its {rows:,} rows fails a gate and is left out ('on_failure: drop_rows'); see the "
                "page of its audit, and improve the prompt or the generator"
            )
        raise TokensError(f"{dataset} has no text: {len(files)} files with {rows} rows; check its source")
    return TokenFacts(
        rows=rows,
        empty=rows - len(without or ()) - _with_text(output),
        documents=token_set.documents,
        tokens=token_set.tokens,
        token_bytes=step.token_size,
        dropped=len(without or ()),
    )


def _tokenise_file(step: Any, texts: Iterator[tuple[str, str]], work: Path, output: Path, name: str) -> int:
    documents: list[tuple[str, int]] = []
    with quiet_datatrove():
        step.run(_documents(texts, documents), rank=int(name))
    written = work / f"{name}_unshuffled.ds"
    ends = np.fromfile(f"{written}.index", dtype="<u8")
    for source, target in ((written, f"{name}.ds"), (Path(f"{written}.index"), f"{name}.ds.index")):
        with source.open("rb+") as handle:
            os.fsync(handle.fileno())
        source.rename(output / target)
    table = pa.table(
        {
            "id": pa.array([id for id, _ in documents], pa.string()),
            "piece": pa.array([piece for _, piece in documents], pa.uint32()),
            "tokens": pa.array(np.diff(ends, prepend=0), pa.uint64()),
        }
    )
    with atomic_write(output / f"{name}.documents.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return len(documents)


def _with_text(output: Path) -> int:
    """Return the number of rows that have tokens."""
    pieces_of = [pq.read_table(file, columns=["piece"])["piece"] for file in output.glob("*.documents.parquet")]
    return sum(pc.sum(pc.equal(column, 0)).as_py() or 0 for column in pieces_of)


def _rows(file: Path, dataset: str) -> int:
    try:
        metadata = pq.read_metadata(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise TokensError(
            f"{dataset}: {file} is not a readable Parquet file ({error}): materialize the dataset again"
        ) from error
    missing = {"id", "text"} - set(metadata.schema.to_arrow_schema().names)
    if missing:
        raise TokensError(
            f"{dataset}: {file} has no column {', '.join(sorted(missing))}: the columns id and text are required"
        )
    return metadata.num_rows


def _texts(file: Path, dataset: str, without: IdSet, *, shuffled: bool) -> Iterator[tuple[str, str]]:
    """Yield the ids and the texts of a file's documents in order."""
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1000, columns=["id", "text"]):
            for key, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
                if not (without and id_hash(str(key)) in without):
                    yield str(key), shuffle_words(text or "", str(key)) if shuffled else text or ""
    except (OSError, pa.ArrowInvalid) as error:
        raise TokensError(
            f"{dataset}: {file} cannot be read to its end ({error}): materialize the dataset again"
        ) from error


def _documents(texts: Iterator[tuple[str, str]], listed: list[tuple[str, int]]) -> Iterator[Any]:
    """Yield the pieces of documents in order, and append the id and the number of each piece to `listed`."""
    from datatrove.data import Document

    for key, text in texts:
        for number, piece in enumerate(pieces(text)):
            listed.append((key, number))
            yield Document(text=piece, id=key)


class TokenFile(NamedTuple):
    """One file of a token set: its path, the position of its first token in the set, and its number of tokens."""

    path: Path
    begin: int
    tokens: int


class TokenSet:
    """The tokens in a folder that `tokenise` wrote, read through memory maps.

    Positions count from the first token of the first file through all files.

    Raises:
        TokensError: the folder holds no tokens, or a file contradicts its index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = sorted(file.name.removesuffix(".documents.parquet") for file in folder.glob("*.documents.parquet"))
        if not names:
            raise TokensError(f"{folder} holds no tokens: tokenise the dataset first")
        indices = [_ends(folder / f"{name}.ds.index") for name in names]
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

    @property
    def token_bytes(self) -> int:
        """Bytes per token, 2 or 4."""
        return self._files[0].itemsize

    @property
    def files(self) -> list[TokenFile]:
        """The files that hold tokens, in order."""
        return [
            TokenFile(self.folder / f"{name}.ds", int(begin), len(tokens))
            for name, begin, tokens in zip(self._names, self._offsets, self._files, strict=False)
        ]

    @cached_property
    def document_ends(self) -> np.ndarray:
        """The position after each document's end-of-text token; shape (documents,), int64."""
        shifted = [ends + offset for ends, offset in zip(self._ends, self._offsets, strict=False)]
        return np.concatenate([np.empty(0, np.int64), *shifted])

    @cached_property
    def document_ids(self) -> pa.ChunkedArray:
        """The documents' ids, in order; strings."""
        files = [self.folder / f"{name}.documents.parquet" for name in self._names]
        return pa.concat_tables([pq.read_table(file, columns=["id"]) for file in files])["id"]

    def window(self, start: int, length: int) -> np.ndarray:
        """Return the tokens at start .. start + length; shape (length,), int64.

        Raises:
            IndexError: the window does not lie in the set.
        """
        if start < 0 or start + length > self.tokens:
            raise IndexError(
                f"window {start}..{start + length} is outside {self.folder}, which has {self.tokens} tokens"
            )
        parts = []
        file = int(np.searchsorted(self._offsets, start, side="right")) - 1
        while length > 0:
            begin = start - int(self._offsets[file])
            parts.append(self._files[file][begin : begin + length])
            start, length, file = start + len(parts[-1]), length - len(parts[-1]), file + 1
        return np.concatenate(parts).astype(np.int64)


def _ends(index: Path) -> np.ndarray:
    try:
        return np.fromfile(index, dtype="<u8").astype(np.int64)
    except FileNotFoundError as error:
        raise TokensError(f"{index} does not exist: delete its folder and tokenise again") from error


def _tokens(file: Path, tokens: int) -> np.ndarray:
    size = file.stat().st_size
    kinds = {2 * tokens: "<u2", 4 * tokens: "<u4"}
    if size not in kinds:
        raise TokensError(
            f"{file} has {size} bytes, which does not fit its {tokens} tokens: delete its folder and tokenise again"
        )
    return np.memmap(file, dtype=kinds[size], mode="r")
