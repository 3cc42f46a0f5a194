"""WARC files: the columns of a row are the text of a page and the headers of its record.

The text of `conversion` records (WET) is used as it is; from `response` records with an HTML page, the main text is
extracted. Other records are no rows, but a damaged part of a compressed file is one. Rows depend neither on time nor on
earlier pages, so that they are the same in every run. DataTrove's extractor gives up on a page after a second and omits
what other pages have too, so it is not used here.
"""

from __future__ import annotations

import codecs
import io
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.members import Damage, Members
from finephrase_dagster.corpora.table import missing_column

PAGES = ("text/html", "application/xhtml+xml")
LARGEST_PAGE = 64 << 20  # bytes, of a record and of the page that it holds compressed
_PIECE = 1 << 20  # bytes
_SHOWN = 200  # characters of a library's message
_PROTOCOLS = ["HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/2", "HTTP/3"]
_TYPES = ("conversion", "response")
_HEADERS = ("warc-", "content-")
_BLANK_LINES = 2  # after each record
_ENCODINGS = ("", "identity", "gzip", "x-gzip", "deflate")
_UNREADABLE = ("br", "zstd", "compress")  # encodings that are named where pages are counted

logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # rows without text are counted

Values = dict[str, Any]


def warc_rows(file: BinaryIO, names: Sequence[str], url: str, start: int) -> Iterator[tuple[str, str, Values | str]]:
    """Yield the page, the place and the columns of each row after the first `start` ones, or why it has none.

    Args:
        names: the columns: `text`, or a record's header in upper or lower case.
        start: the number of rows to skip; their text is not extracted.

    Raises:
        CorpusError: the file is not a WARC file, a record has a wrong length, or a column cannot exist; an uncompressed
            file is cut off.
    """
    for name in names:
        if name != "text" and not name.lower().startswith(_HEADERS):
            raise missing_column(url, name, ["text", "the headers of its records, such as WARC-Record-ID"])
    number = count = 0
    for found in _sound_records(file, url) if url.endswith(".gz") else _records(file, url):
        if not isinstance(found, Damage):
            count += 1
            if found[0].rec_type not in _TYPES:
                continue
        number += 1
        if number <= start:
            continue
        if isinstance(found, Damage):
            yield url, f"{url}: bytes {found.start:,} to {found.stop:,}", found.reason
            continue
        record, block = found
        headers = record.rec_headers
        page = headers.get_header("WARC-Target-URI") or url
        if isinstance(text := _text(record, block), Reason):
            yield page, f"{url}: row {number}", str(text)
        else:
            yield page, f"{url}: row {number}", {"text": text, **_named(headers, names)}
    if not count:
        raise CorpusError(f"{url}: has no sound record; replace the file")


class Reason(str):
    """Why a record has no text."""


def _named(headers: Any, names: Sequence[str]) -> Values:
    """Return the headers that are columns; their names are compared without case."""
    return {name: headers.get_header(name) for name in names if name != "text"}


def _sound_records(file: BinaryIO, url: str) -> Iterator[tuple[Any, bytes] | Damage]:
    """Yield the records of a compressed file, and what is damaged between them."""
    members = Members(file, largest=LARGEST_PAGE)
    while True:
        stretch = members.stretch()
        try:
            yield from _records(stretch, url)
        except CorpusError:
            if members.flaw is None or stretch.read(1):
                raise
        if (damage := members.skip_damage()) is None:
            return
        logging.getLogger(__name__).warning(
            f"{url}: {damage.reason}: bytes {damage.start:,} to {damage.stop:,} are left out; replace the file"
        )
        yield damage


def _records(stream: Any, url: str) -> Iterator[tuple[Any, bytes]]:
    """Yield the records of a file with their blocks, each after the next one was found where it must begin.

    Raises:
        CorpusError: the stream holds something else, or a record does not end where its length says, so that its block
            would be cut or hold another.
    """
    from warcio.archiveiterator import ArchiveIterator
    from warcio.exceptions import ArchiveLoadFailed

    class Strict(ArchiveIterator):
        def _consume_blanklines(self) -> tuple[bytes | None, int]:
            """Return the line after the blank ones, and the bytes of these; see warcio."""
            size = blank = 0
            while line := self.reader.readline():
                if line.strip():
                    break
                size, blank = size + len(line), blank + 1
            self.ends_well = blank >= _BLANK_LINES and (not line or line.startswith(b"WARC/"))
            return line or None, size

    count, last = 0, None
    # HTTP headers are parsed below, so that a response with broken ones does not end the file.
    records = Strict(stream, no_record_parse=True)
    while True:
        try:
            record = next(records, None)
        except ArchiveLoadFailed as error:
            flaw = str(error).strip().splitlines()[0][:_SHOWN]
            raise CorpusError(f"{url}: cannot be read ({flaw}); replace the file") from error
        finally:
            if last is not None and not records.ends_well:
                name = last[0].rec_headers.get_header("WARC-Record-ID")
                raise CorpusError(
                    f"{url}: record {count} ({name}) does not end where its Content-Length says; replace the file, or "
                    "correct the length"
                )
        if last is not None:
            yield last
        if record is None:
            break
        count += 1
        stated = record.rec_headers.get_header("Content-Length") or ""
        is_number = re.fullmatch("[0-9]{1,18}", stated) and record.length is not None
        size, block = _block(record) if is_number else (-1, b"")
        if not is_number or size != int(stated):
            raise CorpusError(f"{url}: is cut off or broken in record {count}; replace the file")
        last = record, block


def _block(record: Any) -> tuple[int, bytes]:
    """Return how many bytes a record has, which need not be what its length says, and the first of them."""
    block = record.raw_stream.read(LARGEST_PAGE + 1)
    size = len(block)
    while more := record.raw_stream.read(_PIECE):
        size += len(more)
    return size, block


def _text(record: Any, block: bytes) -> str | Reason | None:
    """Return the text of a record; None if none can be found in it."""
    if len(block) > LARGEST_PAGE:
        return Reason(f"record is larger than {LARGEST_PAGE >> 20} MiB")
    if record.rec_type == "conversion":
        return block.decode("utf-8", "surrogateescape")
    response = _response(record, block)
    status = (response.http_headers and response.http_headers.get_statuscode()) or ""
    if not status.startswith("2"):
        return Reason("response is not successful")
    declared = response.http_headers.get_header("Content-Type") or ""
    identified = record.rec_headers.get_header("WARC-Identified-Payload-Type")
    if (identified or declared.split(";")[0].strip().lower()) not in PAGES:
        return Reason("not an HTML page")
    encoding = (response.http_headers.get_header("Content-Encoding") or "").strip().lower()
    if encoding not in _ENCODINGS:
        if not response.raw_stream.read().lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
            return Reason(f"content encoding {encoding if encoding in _UNREADABLE else 'unknown'} cannot be read")
        response = _response(record, block)  # some crawlers store pages decoded, with the headers as they were sent
        response.http_headers.remove_header("Content-Encoding")
    page = response.content_stream().read(LARGEST_PAGE + 1)
    if len(page) > LARGEST_PAGE:
        return Reason(f"page is larger than {LARGEST_PAGE >> 20} MiB")
    if encoding and page.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        return Reason("content is not encoded as its headers say")
    return _main_text(_decoded(page, declared))


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


def _decoded(page: bytes, content_type: str) -> str | bytes:
    """Return a page as text by the charset of its HTTP headers; as bytes, for guessing, if that is absent or wrong."""
    charset = content_type.lower().partition("charset=")[2].split(";")[0].strip(" \t\"'")
    if page.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return page
    try:
        # Browsers read these two as their superset.
        text = page.decode("cp1252" if charset in ("iso-8859-1", "us-ascii") else charset) if charset else ""
    except (LookupError, ValueError):
        return page
    return text if "<" in text else page


def _main_text(page: str | bytes) -> str | None:
    from trafilatura import extract

    try:
        return extract(page, favor_precision=True, include_comments=False, deduplicate=False)
    except Exception:  # its parsers fail on broken pages in many ways
        return None
