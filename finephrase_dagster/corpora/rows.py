"""The rows of Parquet and JSONL files, on this machine or in an object store: the only code that parses these formats.

`read_rows` yields every row as it is in the file. What a row means is decided elsewhere: `corpora/columns.py` makes
documents of a source's rows, `rephrase/reader.py` makes requests of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.jsonl import Place, jsonl_rows
from finephrase_dagster.corpora.parquet import parquet_rows
from finephrase_dagster.corpora.table import FileRow

CODECS = {".gz": "gzip", ".zst": "zstd"}
JSON_ENDINGS = (".jsonl", ".ndjson", ".json")


def read_rows(
    url: str,
    *,
    columns: Sequence[str] | None = None,
    id_column: str | None = None,
    start: int = 0,
    place: Place | None = None,
) -> Iterator[FileRow]:
    """Yield the rows of a Parquet or JSONL (plain, .gz, .zst) file, in order.

    Args:
        url: a path, or a URL that fsspec knows.
        columns: the columns that a Parquet file must have and that are read; a dot leads into a struct. Default: all.
        id_column: the column whose whole numbers are kept exact, however large they are.
        start: the number of rows to skip.
        place: where to begin in a JSONL file; updated to the place of each row before it is yielded.

    Raises:
        CorpusError: the file cannot be read, or lacks a column.
    """
    stem = check_ending(url)
    with open_file(url) as file:
        if url.endswith(".parquet"):
            yield from parquet_rows(file, url, columns, start)
        else:
            yield from jsonl_rows(file, CODECS.get(url.removeprefix(stem)), id_column, start, place)


def check_ending(url: str) -> str:
    """Return the name of a Parquet or JSONL file without the ending of its compression.

    Raises:
        CorpusError: the file is neither, by its name.
    """
    stem = next((url.removesuffix(ending) for ending in CODECS if url.endswith(ending)), url)
    if not (url.endswith(".parquet") or stem.endswith(JSON_ENDINGS)):
        raise CorpusError(f"{url}: neither .parquet nor .jsonl (plain, .gz, .zst); convert it to one of them")
    return stem


@contextlib.contextmanager
def open_file(url: str) -> Iterator[BinaryIO]:
    """Open a local path or a URL, and explain what goes wrong while it is read.

    Raises:
        CorpusError: the file does not exist or cannot be read, with the next step.
    """
    try:
        if "://" in url:
            import fsspec

            with fsspec.open(url, "rb") as file:
                yield file
        else:
            with Path(url).open("rb") as file:
                yield file
    except CorpusError:
        raise
    except FileNotFoundError as error:
        raise CorpusError(f"{url}: no such file; correct the path") from error
    except (pa.ArrowException, EOFError, OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{url}: cannot be read ({' '.join(str(error).split())}); replace the file") from error
    except Exception as error:  # the libraries of object stores raise errors of their own
        if "://" not in url:
            raise
        raise CorpusError(
            f"{url}: cannot be read ({error}); check that the store answers and that your credentials are accepted, "
            "then run again"
        ) from error
