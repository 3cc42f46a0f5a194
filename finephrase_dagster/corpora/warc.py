"""WARC files: the columns of a row are the text of a page and the headers of its record.

The text of `conversion` records (WET) is used as it is; from `response` records with an HTML page, the main text is
extracted. Other records are no rows. Rows depend neither on time nor on earlier pages, so that they are the same in
every run. DataTrove's extractor gives up on a page after a second and omits what other pages have too, so it is not
used here.
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

logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # rows without text are counted


def warc_rows(file: BinaryIO, columns: Columns, where: str, start: int) -> Iterator[Row]:
    """Yield the rows after the first `start` ones, whose text is not extracted.

    Raises:
        CorpusError: the file is cut off or not a WARC file, a column cannot exist in a record, or a row has text but
            no id.
    """
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    for name in columns.names:
        if name != "text" and not name.startswith(_HEADERS):
            raise missing_column(where, name, ["text", "the headers of its records, such as WARC-Record-ID"])
    records = number = 0
    # Arrow notices when a compressed file is cut off; warcio does not.
    stream: Any = io.BufferedReader(pa.CompressedInputStream(file, "gzip")) if where.endswith(".gz") else file
    try:
        # HTTP headers are parsed below, so that a response with broken ones does not end the file.
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
            raise CorpusError(f"{where}: has no record; replace the file")
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
            return Dropped(source=page, reason="response is not successful")
        declared = response.http_headers.get_header("Content-Type") or ""
        if (headers.get("WARC-Identified-Payload-Type") or declared.split(";")[0].strip().lower()) not in PAGES:
            return Dropped(source=page, reason="not an HTML page")
        text = _main_text(response.content_stream().read())
    return columns.row({**headers, "text": text}, page, number)


def _response(record: Any, block: bytes) -> Any:
    """Return the record with its HTTP headers separated from its content."""
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
    except Exception:  # its parsers fail on broken pages in many ways
        return None
