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
from finephrase_dagster.corpora.object_store import file_system, reported
from finephrase_dagster.corpora.parquet import parquet_rows
from finephrase_dagster.corpora.table import FileRow

CODECS = {".gz": "gzip", ".zst": "zstd"}
_BEGINNINGS = {
    ".parquet": (b"PAR1", b"PARE"),
    ".gz": (b"\x1f\x8b",),
    ".zst": (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + low]) + b"\x2a\x4d\x18" for low in range(16))),
}
"""How files begin, by the ending of their names; a zstd file may begin with a frame that is skipped."""
_OTHERS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself; fetch the file with git lfs pull",
    b"<!doctype": "is a web page, perhaps an error page; download the file again",
    b"<html": "is a web page, perhaps an error page; download the file again",
    b"<?xml": "is XML, perhaps a store's error message; download the file again",
    b"\x1f\x8b": "is compressed with gzip; end its name with .gz",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; end its name with .zst",
    b"PAR1": "is a Parquet file; end its name with .parquet",
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"BZh": "is compressed with bzip2; pack it with gzip or zstd",
    b"\xfd7zXZ": "is compressed with xz; pack it with gzip or zstd",
    b"\xff\xfe": "row 1 begins with the byte-order mark of UTF-16; convert the file to UTF-8",
    b"\xfe\xff": "row 1 begins with the byte-order mark of UTF-16; convert the file to UTF-8",
}
"""What a file is that is not what its name says, by how it begins, in lower case where it is text."""
_STORE = "check that the store answers and that your credentials are accepted"
_TRAILING = "other bytes follow the compressed ones: pack it again with `gzip -dc FILE | gzip > NEW.gz`"
_REMEDIES = {
    "Frame requires too much memory": "it was packed with a long window: pack it again with "
    "`zstd -d --long=31 -c FILE | zstd -o NEW.zst`",
    "unknown compression method": _TRAILING,
    "incorrect header check": _TRAILING,
    "encrypted": "decrypt it first",
}
"""What to do about a file, by a part of the message of the library that cannot read it."""
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
        id_column: the column of the ids; whole numbers in it are kept exact, however large they are.
        start: the number of rows to skip.
        place: where to begin in a JSONL file; updated to the place of each row before it is yielded.

    Raises:
        CorpusError: the file cannot be read, or lacks a column.
    """
    stem = check_ending(url)
    with open_file(url) as file:
        if url.endswith(".parquet"):
            yield from parquet_rows(file, url, columns, id_column, start)
        else:
            yield from jsonl_rows(file, url, CODECS.get(url.removeprefix(stem)), id_column, start, place)


def check_ending(url: str) -> str:
    """Return the name of a Parquet or JSONL file without the ending of its compression.

    Raises:
        CorpusError: the file is neither, by its name.
    """
    stem = next((url.removesuffix(ending) for ending in CODECS if url.endswith(ending)), url)
    if not (url.endswith(".parquet") or stem.endswith(JSON_ENDINGS)):
        how = ""
        if url.endswith((".csv", ".tsv")):
            code = f'import duckdb; duckdb.read_csv("{url}").write_parquet("{url[:-4]}.parquet")'
            how = f", for example: python -c '{code}'"
        raise CorpusError(f"{url}: neither .parquet nor .jsonl (plain, .gz, .zst); convert it to one of them{how}")
    return stem


@contextlib.contextmanager
def open_file(url: str) -> Iterator[BinaryIO]:
    """Open a local path or a URL, and explain what goes wrong while it is read.

    Raises:
        CorpusError: the file does not exist or cannot be read, with the next step.
    """
    try:
        if "://" in url:
            store, path = file_system(url)
            with reported(url):
                file = store.open(path, "rb")
                _check_beginning(url, file)
            with file:
                yield file
        else:
            if not Path(url).is_file() and Path(url).exists():
                raise CorpusError(f"{url}: is not a regular file, and is read more than once; write it to a file first")
            with Path(url).open("rb") as file:
                _check_beginning(url, file)
                yield file
    except CorpusError:
        raise
    except FileNotFoundError as error:
        raise CorpusError(f"{url}: no such file or folder; correct the path") from error
    except (pa.ArrowException, EOFError, OSError, UnicodeDecodeError) as error:
        flaw = " ".join(str(error).split())
        remedy = next((remedy for part, remedy in _REMEDIES.items() if part in flaw), "replace the file")
        if "://" in url and isinstance(error, (TimeoutError, ConnectionError, PermissionError)):
            remedy = _STORE
        raise CorpusError(f"{url}: cannot be read ({flaw}); {remedy}") from error
    except Exception as error:  # the libraries of object stores raise errors of their own
        if "://" not in url:
            raise
        raise CorpusError(f"{url}: cannot be read ({error}); {_STORE}") from error


def _check_beginning(url: str, file: BinaryIO) -> None:
    """Refuse a file that is not what its name says.

    Raises:
        CorpusError: naming the file, and what it is.
    """
    head = file.read(64)
    file.seek(0)
    if not head:
        if url.endswith(tuple(_BEGINNINGS)):
            raise CorpusError(f"{url}: is empty; replace the file")
        return
    expected = next((begins for ending, begins in _BEGINNINGS.items() if url.endswith(ending)), None)
    if expected and head.startswith(expected):
        return
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for begin, flaw in _OTHERS.items():
        if head.startswith(begin) or start.startswith(begin):
            raise CorpusError(f"{url}: {flaw}")
    if expected:
        raise CorpusError(f"{url}: does not begin like a file with the ending of its name; replace the file")
