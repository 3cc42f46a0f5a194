"""The records of a WARC file as rows: a page's text and the record's headers, by their names, are the columns.

`conversion` records (WET) hold text as it is; of `response` records that hold a page, the main text is extracted.
Records of other types are no rows. Nothing here depends on time or on the pages before: DataTrove's extractor, which
gives a page up after a second and leaves out what it has seen in others, would not give the same rows again.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa

from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.document import CorpusError, Dropped, Row
from finephrase_dagster.corpora.table import missing_column

PAGES = ("text/html", "application/xhtml+xml")
_PROTOCOLS = ["HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/2", "HTTP/3"]
_TYPES = ("conversion", "response")
_HEADERS = ("WARC-", "Content-")

logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it has to say of a page is counted as a reason


def warc_rows(file: BinaryIO, columns: Columns, where: str, start: int) -> Iterator[Row]:
    """The rows behind the first `start`, which are read and not extracted.

    Raises:
        CorpusError: the file is cut off or no WARC file, a column can be none of a record's, or a row has text but
            no id.
    """
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    for name in columns.names:
        if name != "text" and not name.startswith(_HEADERS):
            raise missing_column(where, name, ["text", "the headers of its records, such as WARC-Record-ID"])
    records = number = 0
    # Arrow says when a compressed file was cut off; warcio takes what there is for the whole.
    stream: Any = io.BufferedReader(pa.CompressedInputStream(file, "gzip")) if where.endswith(".gz") else file
    try:
        # HTTP headers are parsed here: a response with broken ones would else end the whole file.
        for record in ArchiveIterator(stream, no_record_parse=True):
            block = record.raw_stream.read() if record.length is not None else b""
            if str(len(block)) != record.rec_headers.get_header("Content-Length"):
                raise CorpusError(f"{where}: is cut off or broken after {number} rows; replace the file")
            records += 1
            if record.rec_type not in _TYPES:
                continue
            number += 1
            if number > start:
                yield _row(record, block, columns, where, number)
        if not records:
            raise CorpusError(f"{where}: holds no record; replace the file")
    except ArchiveLoadFailed as error:
        flaw = str(error).strip().splitlines()[0]
        raise CorpusError(f"{where}: cannot be read ({flaw}); replace the file") from error


def _row(record: Any, block: bytes, columns: Columns, where: str, number: int) -> Row:
    headers = dict(record.rec_headers.headers)
    page = headers.get("WARC-Target-URI", where)
    text: str | None = block.decode("utf-8", "surrogateescape")
    if record.rec_type == "response":
        response = _response(record, block)
        status = (response.http_headers and response.http_headers.get_statuscode()) or ""
        if not status.startswith("2"):
            return Dropped(source=page, reason="no successful response")
        declared = response.http_headers.get_header("Content-Type") or ""
        if (headers.get("WARC-Identified-Payload-Type") or declared.split(";")[0].strip().lower()) not in PAGES:
            return Dropped(source=page, reason="no HTML page")
        text = _main_text(response.content_stream().read())
    return columns.row({**headers, "text": text}, page, number)


def _response(record: Any, block: bytes) -> Any:
    """The record with its HTTP headers apart from its content, if it has any."""
    from warcio.recordloader import ArcWarcRecord
    from warcio.statusandheaders import StatusAndHeadersParser, StatusAndHeadersParserException

    stream = io.BytesIO(block)
    try:
        http = StatusAndHeadersParser(_PROTOCOLS).parse(stream)
    except (EOFError, StatusAndHeadersParserException):
        http = None
    return ArcWarcRecord("warc", "response", record.rec_headers, stream, http, None, len(block))


def _main_text(page: bytes) -> str | None:
    from trafilatura import extract

    try:
        return extract(page, favor_precision=True, include_comments=False, deduplicate=False)
    except Exception:  # its parsers have many ways to fail on a broken page
        return None
