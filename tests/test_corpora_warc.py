"""Web archives: a record's text and headers as a row, of WET files and of crawled pages."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from corpora_parts import documents, files, make_unreadable, read, reasons
from finephrase_dagster.artifacts.fingerprint import sha256_text
from finephrase_dagster.corpora import members, warc
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.members import Members
from finephrase_dagster.corpora.source import read_source

SENTENCES = "Rivers carry water from the mountains to the sea, and they shape the land on their way. " * 8
NUMBER, PAGE, KIND = "WARC-Record-ID", "WARC-Target-URI", "WARC-Identified-Payload-Type"


class Record(NamedTuple):
    """What is written into an archive."""

    kind: str
    content: bytes
    media: str = "text/html; charset=utf-8"
    status: str = "200 OK"
    protocol: str = "HTTP/1.1"
    headers: tuple[tuple[str, str], ...] = ()
    record_headers: tuple[tuple[str, str], ...] = ()


def page(text: str = SENTENCES, charset: str = "utf-8") -> bytes:
    menu = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/x'>Shop</a></li></ul></nav>"
    body = f"<article><h1>Rivers</h1><p>{text}</p></article>"
    return f"<html><head><title>T</title></head><body>{menu}{body}</body></html>".encode(charset)


def write_archive(path: Path, records: Sequence[Record]) -> Path:
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=path.suffix == ".gz")
        writer.write_record(writer.create_warcinfo_record(path.name, {"software": "test"}))
        for number, record in enumerate(records):
            http = None
            if record.kind == "response":
                http = StatusAndHeaders(
                    record.status, [("Content-Type", record.media), *record.headers], record.protocol
                )
            named = {NUMBER: f"<urn:uuid:{number:08d}>", **dict(record.record_headers)}
            made = writer.create_warc_record(
                f"https://example.org/{number}",
                record.kind,
                payload=BytesIO(record.content),
                length=len(record.content),
                warc_content_type="text/plain" if record.kind == "conversion" else "",
                http_headers=http,
                warc_headers_dict=named,
            )
            writer.write_record(made)
    return path


@pytest.mark.parametrize("name", ["crawl.warc.wet.gz", "crawl.wet.gz", "crawl.wet", "crawl.warc"])
def test_the_texts_of_a_wet_file_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    contents = ["Über Flüsse.\nZweite Zeile.\n".encode(), b"  \n", b"\xff\xfe", b"Last."]
    path = write_archive(tmp_path / name, [Record("conversion", content) for content in contents])
    rows = read(files(path, id_column=None))
    assert [(row.text, row.source) for row in documents(rows)] == [
        ("Über Flüsse.\nZweite Zeile.\n", "https://example.org/0"),
        ("Last.", "https://example.org/3"),
    ]
    assert [row.id for row in documents(rows)] == [sha256_text(row.text)[:32] for row in documents(rows)]
    assert reasons(rows) == ["text is empty", "text is not UTF-8"]


def test_the_two_archives_with_a_record_of_one_id_are_named(tmp_path: Path) -> None:
    paths = [write_archive(tmp_path / name, [Record("conversion", b"A text.")]) for name in ("a.wet", "b.wet")]
    with pytest.raises(CorpusError, match=r"/a.wet, row 1, and \S+/b.wet, row 1: the id '<urn:uuid:0+>' appears twice"):
        read(files(*paths, id_column=NUMBER))


def test_the_main_text_of_crawled_pages_is_extracted_and_other_rows_are_counted(tmp_path: Path) -> None:
    records = [
        Record("request", b"GET / HTTP/1.1\r\n\r\n"),
        Record("response", page()),
        Record("response", gzip.compress(page("Packed. " + SENTENCES)), headers=(("Content-Encoding", "gzip"),)),
        Record("response", page("Grüße. " + SENTENCES, "latin-1"), "text/html; charset=iso-8859-1"),
        Record("response", b"%PDF-1.7 ...", "application/pdf"),
        Record("response", page(), status="404 Not Found"),
        Record("response", b""),
        Record("response", page(), protocol="SPDY"),
        Record("response", b"<html><body></body></html>"),
        Record("response", page("Named. " + SENTENCES), "", record_headers=((KIND, "text/html"),)),
        Record("metadata", b"fetchTimeMs: 10"),
        Record("revisit", b""),
        Record("resource", b"a file"),
    ]  # fmt: skip
    path = write_archive(tmp_path / "crawl.warc.gz", records)
    rows = read(files(path, id_column=NUMBER))
    assert [(row.id, row.source) for row in documents(rows)] == [
        (f"<urn:uuid:{number:08d}>", f"https://example.org/{number}") for number in (1, 2, 3, 9)
    ]
    texts = [row.text for row in documents(rows)]
    assert all(SENTENCES.strip() in text and "Shop" not in text for text in texts)
    assert "Packed." in texts[1]
    assert "Grüße." in texts[2]
    assert Counter(reasons(rows)) == {"not an HTML page": 1, "response is not successful": 2, "text is missing": 2}


def test_a_records_headers_are_columns(tmp_path: Path) -> None:
    language = "WARC-Identified-Content-Language"
    records = [Record("conversion", b"No language.\n")]
    for found in ("eng", "deu", "eng,fra"):
        records.append(Record("conversion", f"Text {found}.".encode(), record_headers=((language, found),)))
    path = write_archive(tmp_path / "crawl.wet.gz", records)
    rows = read(files(path, id_column=PAGE, keep={language: {"values": ["eng"]}}))
    assert [(row.id, row.text) for row in documents(rows)] == [("https://example.org/1", "Text eng.")]
    assert reasons(rows) == [f"{language} not one of eng"] * 3
    for wrong in ({"text_column": "body"}, {"id_column": "id"}, {"keep": {"score": {"min": 1}}}):
        with pytest.raises(CorpusError, match=r"crawl.wet.gz: no column '\w+'; its columns are text, the headers"):
            read(files(path, **({"id_column": None} | wrong)))
    with pytest.raises(CorpusError, match=r"crawl.wet.gz: row 1 has no id in column 'WARC-Absent'"):
        read(files(path, id_column="WARC-Absent"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crawl.warc", "crawl.wet"])
def test_an_archive_that_is_not_packed_and_cut_off_is_refused_wherever(tmp_path: Path, name: str) -> None:
    kind = "conversion" if ".wet" in name else "response"
    path = write_archive(tmp_path / name, [Record(kind, page()) for _ in range(3)])
    whole, source = path.read_bytes(), files(path, id_column=NUMBER)
    assert len(read(source)) == 3
    # After any record, a file may end; of the blank lines behind it, none is needed.
    starts = [place for place in range(len(whole)) if whole.startswith(b"WARC/1.0", place)]
    ends = {place - lines for place in [*starts, len(whole)] for lines in range(5)}
    for length in sorted(set(range(1, len(whole), 7)) - ends):
        path.write_bytes(whole[:length])
        with pytest.raises(CorpusError, match=name.replace(".", r"\.")):
            read(source)


def packed(tmp_path: Path, pages: int) -> tuple[bytes, list[int]]:
    """Return an archive of some pages, and the places of its members; the first one holds no page."""
    records = [Record("response", page(f"Page {number}. {SENTENCES}")) for number in range(pages)]
    archive = write_archive(tmp_path / "whole.warc.gz", records).read_bytes()
    return archive, [place for place in range(len(archive)) if archive.startswith(b"\x1f\x8b\x08", place)]


def numbers_and_reasons(path: Path) -> tuple[list[int], list[str]]:
    """Return the numbers of the pages that are read, and the reasons of what is dropped."""
    rows = read(files(path, id_column=NUMBER))
    return [int(row.id[-9:-1]) for row in documents(rows)], reasons(rows)


DAMAGES = {
    "cut in its middle": (lambda member: member[: len(member) // 2], "part of the file is damaged"),
    "missing its last byte": (lambda member: member[:-1], "part of the file is damaged"),
    "overwritten by zeros": (lambda member: bytes(len(member)), "part of the file is damaged"),
    "with a hole of zeros": (lambda member: member[:40] + bytes(60) + member[100:], "part of the file is damaged"),
    "with another checksum": (lambda member: member[:-8] + b"none" + member[-4:], "part of the file is damaged"),
    "followed by other bytes": (lambda member: member + b"\x1f\x8b\x08 no member", "part of the file is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("number", range(3))
def test_a_damaged_part_of_a_packed_archive_is_counted_and_all_sound_records_are_kept(
    tmp_path: Path, number: int, damage: str
) -> None:
    archive, places = packed(tmp_path, 4)
    start, stop = places[number + 1], places[number + 2]
    spoil, reason = DAMAGES[damage]
    path = tmp_path / "a.warc.gz"
    path.write_bytes(archive[:start] + spoil(archive[start:stop]) + archive[stop:])
    lost = set() if damage.startswith("followed") else {number}
    assert numbers_and_reasons(path) == (sorted({*range(4)} - lost), [reason])


def test_what_follows_the_last_record_and_a_record_that_is_cut_off_are_told_apart(tmp_path: Path) -> None:
    archive, places = packed(tmp_path, 3)
    path = tmp_path / "a.warc.gz"
    for end in (b"\n", bytes(1 << 17), b"<html>an error page</html>"):
        path.write_bytes(archive + end)
        assert numbers_and_reasons(path) == ([0, 1, 2], ["other bytes follow the last record"])
    for length in (places[-1] + 1, places[-1] + 12, (places[-1] + len(archive)) // 2, len(archive) - 1):
        path.write_bytes(archive[:length])
        assert numbers_and_reasons(path) == ([0, 1], ["file is cut off"])


def test_records_after_the_damage_of_a_member_that_is_not_checked_before_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, places = packed(tmp_path, 4)
    monkeypatch.setattr(warc, "Members", lambda file, largest: Members(file, 1000))
    monkeypatch.setattr(members, "_FED", 512)
    first_two = gzip.compress(gzip.decompress(archive[: places[3]]), 0)
    path = tmp_path / "a.warc.gz"
    path.write_bytes(first_two[:-300] + archive[places[3] :])
    assert numbers_and_reasons(path) == ([0, 2, 3], ["part of the file is damaged"])


@given(stated=st.integers(0, 10**25).map(str) | st.text(st.characters(exclude_categories=("C", "Z")), max_size=9))
@example(stated="9000000000000000000")
@example(stated="9" * 5000)
@example(stated="0017")
@example(stated="\u0661\u0667")  # 17 in Arabic digits
def test_a_record_is_read_with_its_true_length_or_refused(
    tmp_path_factory: pytest.TempPathFactory, stated: str
) -> None:
    path = tmp_path_factory.mktemp("warc") / "a.wet"
    head = f"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: {stated}\r\n\r\n"
    path.write_bytes(f"{head}A text of a page.\r\n\r\n".encode())
    if stated.isascii() and stated.lstrip("0") == str(len("A text of a page.")):
        assert [row.text for row in documents(read(files(path, id_column=None)))] == ["A text of a page."]
        return
    with pytest.raises(CorpusError, match=r"a\.wet: "):
        read(files(path, id_column=None))


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-be", "utf-32", "no-such", "base64"])
def test_a_page_whose_charset_is_wrong_is_read_by_what_it_holds(tmp_path: Path, charset: str) -> None:
    named = f"text/html; charset={charset}"
    path = write_archive(tmp_path / "a.warc", [Record("response", page() + b" " * 3, named)])
    assert [SENTENCES.strip() in row.text for row in documents(read(files(path, id_column=NUMBER)))] == [True]


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"no archive at all\n")
    with pytest.raises(CorpusError, match=r"a\.warc: cannot be read .*; replace the file"):
        read(files(tmp_path / "a.warc", id_column=None))


def test_an_archive_compressed_as_one_stream_is_read_too(tmp_path: Path) -> None:
    plain = write_archive(tmp_path / "b.warc", [Record("conversion", b"one"), Record("conversion", b"two")])
    (tmp_path / "c.warc.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert [row.text for row in documents(read(files(tmp_path / "c.warc.gz", id_column=None)))] == ["one", "two"]


def test_reading_archives_resumes_at_the_next_row(tmp_path: Path) -> None:
    for name in "ab":
        records = [Record("response", page(f"{name}{n} {SENTENCES}")) for n in range(6)]
        records.insert(3, Record("request", b"GET / HTTP/1.1\r\n\r\n"))
        write_archive(tmp_path / f"{name}.warc.gz", records)
    source = files(tmp_path, id_column=None)
    rows = read(source)
    assert len(documents(rows)) == 12
    for after in range(1, 13):
        reader = read_source(source, "tried", requirements=tmp_path)
        stream = reader.rows()
        assert [next(stream) for _ in range(after)] == rows[:after]
        again = read_source(source, "tried", requirements=tmp_path)
        assert list(again.rows(reader.position())) == rows[after:]
    make_unreadable(tmp_path / "a.warc.gz")
    assert len(list(again.rows({"file": 1, "row": 0}))) == 6
