"""A corpus on disk: its figures, and that a resumed run writes the same bytes as an uninterrupted one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora_parts import files, listed, made, make_unreadable, write_fineweb
from finephrase_dagster.artifacts.fingerprint import sha256_text
from finephrase_dagster.corpora import shards as shards_module
from finephrase_dagster.corpora.document import CorpusError, Document, Dropped, Row
from finephrase_dagster.corpora.journal import BROKEN, JOURNAL
from finephrase_dagster.corpora.kinds.files import FilesSource
from finephrase_dagster.corpora.reader import ListedReader
from finephrase_dagster.corpora.shards import CorpusFacts, read_corpus, write_corpus
from finephrase_dagster.corpora.source import SourceReader, read_source


class Interrupted(Exception):
    """Stands for the end of a process."""


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def figures(facts: CorpusFacts) -> dict[str, object]:
    return {**facts.figures, "content": facts.content, "seconds": None}


def source_of(source: FilesSource) -> SourceReader:
    return read_source(source, "tried", requirements=Path("none"))


class Breaking(SourceReader):
    """A source whose reading ends after a number of rows."""

    def __init__(self, reader: SourceReader, after: int) -> None:
        self.__dict__ = reader.__dict__
        self._after = after

    def rows(self, *arguments: object) -> Iterator[Row]:
        for number, row in enumerate(super().rows(*arguments)):
            if number == self._after:
                raise Interrupted
            yield row


@settings(max_examples=25)
@given(order=st.permutations(range(7)), size=st.integers(1, 9))
def test_a_corpus_is_identified_by_its_documents_whatever_their_order_and_shards(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], size: int
) -> None:
    base = write_corpus(listed(made(7)), tmp_path_factory.mktemp("a"), shard_documents=3)
    folder = tmp_path_factory.mktemp("b")
    other = write_corpus(listed([made(7)[index] for index in order]), folder, shard_documents=size)
    assert other.content == base.content
    assert (other.tally.order == base.tally.order) == (list(order) == sorted(order))
    assert [document.id for document in read_corpus(folder)] == [f"d{index}" for index in order]
    assert len(other.shards) == -(-7 // size)


def test_the_figures_of_a_corpus_count_documents_and_dropped_rows(tmp_path: Path) -> None:
    rows = [*made(5), Dropped(source="made", reason="text is empty"), Dropped(source="made", reason="text is empty")]
    facts = write_corpus(listed(rows), tmp_path, shard_documents=2).figures
    assert [shard["path"] for shard in facts["files"]] == [f"shard-0000{index}.parquet" for index in range(3)]
    assert sorted(shards(tmp_path)) == [shard["path"] for shard in facts["files"]]
    for shard in facts["files"]:
        data = (tmp_path / shard["path"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert [shard["rows"] for shard in facts["files"]] == [2, 2, 1]
    assert (facts["rows"], facts["characters"], facts["text_bytes"]) == (5, 5 * 10, 5 * 13)
    assert facts["dropped"] == {"text is empty": 2}
    assert list(read_corpus(tmp_path)) == made(5)
    first = pq.read_table(tmp_path / "shard-00000.parquet").to_pylist()[0]
    assert first == {"id": "d0", "text": "Text 0 — ü", "sha256": sha256_text("Text 0 — ü"), "source": "made"}


def test_a_changed_text_or_id_changes_the_content(tmp_path: Path) -> None:
    contents = set()
    for index, changed in enumerate((made(2), [*made(1), Document(id="d1", text="other", source="made")],
                                     [*made(1), Document(id="d2", text="Text 1 — ü", source="made")])):  # fmt: skip
        folder = tmp_path / str(index)
        folder.mkdir()
        contents.add(write_corpus(listed(changed), folder, shard_documents=9).content)
    assert len(contents) == 3


def test_an_empty_corpus_is_refused_with_the_sources_name_and_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"source mine: has no documents \(1 x text is empty \(first: f\)\)"):
        write_corpus(listed([Dropped(source="f", reason="text is empty")], "mine"), tmp_path, shard_documents=2)
    with pytest.raises(CorpusError, match=r"has no documents \(no rows\)"):
        write_corpus(listed([], "mine"), tmp_path, shard_documents=2)
    with pytest.raises(CorpusError, match="no shards of a corpus"):
        list(read_corpus(tmp_path))


def test_a_writer_that_fails_leaves_no_half_shard(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        write_corpus(Breaking(listed(made(9)), 3), tmp_path, shard_documents=2)
    assert all(len(pq.read_table(path)) == 2 for path in tmp_path.glob("*.parquet"))
    assert {path.name for path in tmp_path.iterdir()} == {"shard-00000.parquet", JOURNAL}


def test_a_document_that_is_there_again_after_an_interruption_is_still_refused(tmp_path: Path) -> None:
    rows = [*made(5), made(1)[0]]
    with pytest.raises(Interrupted):
        write_corpus(Breaking(listed(rows), 4), tmp_path, shard_documents=2)
    with pytest.raises(CorpusError, match=r"source made: made: the id 'd0' appears twice"):
        write_corpus(listed(rows), tmp_path, shard_documents=2)


def various(number: int) -> Row:
    if number % 3 == 1:
        return Dropped(source="made", reason=f"reason {number % 2}")
    return Document(id=f"d{number}", text=f"Text {number // 5}", source="made", tokens=number if number % 2 else None)


@pytest.mark.slow
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_the_interruptions_the_corpus_is_that_of_a_writer_that_was_left_alone(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = [various(number) for number in range(data.draw(st.integers(1, 40)))]
    size = data.draw(st.integers(1, 12))
    limit = data.draw(st.none() | st.integers(1, 30))
    alone, broken = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("broken")
    expected = write_corpus(listed(rows, limit=limit), alone, shard_documents=size)
    for after in data.draw(st.lists(st.integers(0, 25), max_size=4)):
        try:
            write_corpus(Breaking(listed(rows, limit=limit), after), broken, shard_documents=size)
        except (Interrupted, CorpusError):
            continue
    facts = write_corpus(listed(rows, limit=limit), broken, shard_documents=size)
    assert figures(facts) == figures(expected)
    assert shards(broken) == shards(alone)


@pytest.mark.slow
@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 23), min_size=1, max_size=5), data=st.data())
def test_reading_files_resumes_at_the_next_row(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("source")
    total = write_fineweb(folder, [*sizes, 7], row_group=data.draw(st.integers(1, 12)))
    keep = {"int_score": {"min": 2}}
    source = files(folder, keep=keep, sample={"rate": 0.8, "seed": 2}, limit=data.draw(st.none() | st.just(9)))
    alone, broken = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("broken")
    size = data.draw(st.integers(1, 9))
    try:
        expected = write_corpus(source_of(source), alone, shard_documents=size)
    except CorpusError:
        return
    for after in data.draw(st.lists(st.integers(0, total), max_size=3)):
        try:
            write_corpus(Breaking(source_of(source), after), broken, shard_documents=size)
        except Interrupted:
            continue
    assert figures(write_corpus(source_of(source), broken, shard_documents=size)) == figures(expected)
    assert shards(broken) == shards(alone)


def interrupted(folder: Path, rows: list[Row], after: int = 7) -> Path:
    folder.mkdir(exist_ok=True)
    with pytest.raises(Interrupted):
        write_corpus(Breaking(listed(rows), after), folder, shard_documents=2)
    return folder


def test_earlier_files_are_not_read_again(tmp_path: Path) -> None:
    write_fineweb(tmp_path / "source", [20, 20, 20])
    source = files(tmp_path / "source")
    alone, folder = tmp_path / "alone", tmp_path / "corpus"
    alone.mkdir()
    folder.mkdir()
    expected = write_corpus(source_of(source), alone, shard_documents=5)
    with pytest.raises(Interrupted):
        write_corpus(Breaking(source_of(source), 47), folder, shard_documents=5)
    for path in sorted((tmp_path / "source").rglob("*.parquet"))[:2]:
        make_unreadable(path)
    kept = {name: (folder / name).stat().st_ino for name in shards(folder)}
    assert figures(write_corpus(source_of(source), folder, shard_documents=5)) == figures(expected)
    assert shards(folder) == shards(alone)
    assert len(kept) == 9
    assert {name: (folder / name).stat().st_ino for name in kept} == kept


def corrupt(journal: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    journal.write_bytes(b"".join(change(journal.read_bytes().splitlines(keepends=True))))


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [],
        lambda lines: [b"\0" * 100],
        lambda lines: [lines[0][:-5]],
        lambda lines: [b'{"of": "another"}\n', *lines[1:]],
        lambda lines: [lines[0].replace(b'"made"', b'"other"'), *lines[1:]],
        lambda lines: [lines[0], b"{}\n", *lines[2:]],
        lambda lines: [lines[0], b"[1]\n"],
        lambda lines: [lines[0], lines[1].replace(b'"rows"', b'"lines"'), *lines[2:]],
    ],
)
def test_a_journal_that_is_broken_or_foreign_is_set_aside(
    tmp_path: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    folder = interrupted(tmp_path / "corpus", list(made(9)))
    corrupt(folder / JOURNAL, change)
    before, said = (folder / JOURNAL).read_bytes(), []
    facts = write_corpus(listed(made(9)), folder, shard_documents=2, log=said.append)
    assert (folder / BROKEN).read_bytes() == before
    assert "renamed to" in said[0]
    assert list(read_corpus(folder)) == made(9)
    assert facts.rows == 9


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_line_that_was_cut_off_costs_one_shard(tmp_path: Path, cut: int) -> None:
    folder = interrupted(tmp_path / "corpus", list(made(9)))
    journal = folder / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-cut])
    said: list[str] = []
    write_corpus(listed(made(9)), folder, shard_documents=2, log=said.append)
    assert said == ["source made: resumes after 4 documents in 2 shards"]
    assert list(read_corpus(folder)) == made(9)
    assert not (folder / BROKEN).exists()


def test_shards_missing_from_the_journal_or_the_disk_are_written_again(tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "corpus", list(made(9)))
    shutil.copy(folder / "shard-00000.parquet", folder / "shard-00017.parquet")
    (folder / "shard-00001.parquet").unlink()
    (folder / "shard-00002.parquet").write_bytes(b"half")
    said: list[str] = []
    write_corpus(listed(made(9)), folder, shard_documents=2, log=said.append)
    assert said == ["source made: resumes after 2 documents in 1 shards"]
    assert list(read_corpus(folder)) == made(9)
    assert sorted(shards(folder)) == [f"shard-0000{index}.parquet" for index in range(5)]


def test_a_long_run_says_now_and_then_how_far_it_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "SECONDS_PER_MESSAGE", 0.0)
    said: list[str] = []
    facts = write_corpus(listed(made(2500)), tmp_path, shard_documents=1200, log=said.append)
    assert len(said) == 2
    assert re.fullmatch(r"source made: [\d,]+ documents, 0 rows dropped, [\d,]+ rows/s", said[1])
    assert facts.figures["seconds"] > 0


def test_another_shard_size_or_source_begins_anew(tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "corpus", list(made(9)))
    assert len(write_corpus(listed(made(9)), folder, shard_documents=4).shards) == 3
    assert json.loads((folder / BROKEN).read_text().splitlines()[0])["shard_documents"] == 2


def test_a_shard_whose_ids_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = interrupted(tmp_path / "corpus", list(made(9)))
    make_unreadable(folder / "shard-00001.parquet")
    with pytest.raises(CorpusError, match=r"shard-00001.parquet: cannot be read .*delete it and run again"):
        write_corpus(listed(made(9)), folder, shard_documents=2)
    (folder / "shard-00001.parquet").unlink()
    write_corpus(listed(made(9)), folder, shard_documents=2)
    assert list(read_corpus(folder)) == made(9)


def test_a_finished_corpus_written_again_is_the_same_and_reads_nothing(tmp_path: Path) -> None:
    write_fineweb(tmp_path / "source", [20])
    source, folder = files(tmp_path / "source", limit=12), tmp_path / "corpus"
    folder.mkdir()
    first = write_corpus(source_of(source), folder, shard_documents=5)
    make_unreadable(next((tmp_path / "source").rglob("*.parquet")))
    assert figures(write_corpus(source_of(source), folder, shard_documents=5)) == figures(first)


WRITER = """
import resource, sys
from pathlib import Path
from finephrase_dagster.corpora.shards import write_corpus
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.corpora.kinds.files import FilesSource
source = FilesSource.model_validate_json(sys.argv[1])
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
write_corpus(read_source(source, "tried", requirements=Path("none")), Path(sys.argv[2]), shard_documents=100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 3, 4, 8])
def test_a_killed_run_resumes(tmp_path: Path, moment: int) -> None:
    total = write_fineweb(tmp_path / "source", [700, 0, 1900, 1400], row_group=130)
    source = files(tmp_path / "source", sample={"rate": 0.9, "seed": 0})
    alone, folder = tmp_path / "alone", tmp_path / "corpus"
    alone.mkdir()
    folder.mkdir()
    expected = write_corpus(source_of(source), alone, shard_documents=100)
    kills = 0
    for _ in range(4):
        before = len(shards(folder))
        process = subprocess.Popen([sys.executable, "-c", WRITER, source.model_dump_json(), str(folder)])
        while process.poll() is None and len(list(folder.glob("shard-*"))) < before + moment:
            pass
        process.kill()
        kills += process.wait() != 0
    assert kills
    assert not (folder / BROKEN).exists()
    facts = write_corpus(source_of(source), folder, shard_documents=100)
    assert figures(facts) == figures(expected)
    assert facts.rows + sum(facts.tally.dropped.values()) == total
    assert shards(folder) == shards(alone)


@pytest.mark.slow
def test_a_full_disk_stops_the_writer_and_costs_no_finished_shard(tmp_path: Path) -> None:
    source_folder, folder, alone = tmp_path / "source", tmp_path / "corpus", tmp_path / "alone"
    for path in (source_folder, folder, alone):
        path.mkdir()
    with (source_folder / "rows.jsonl").open("w") as file:
        for number in range(300):
            # The third shard does not pass the limit on what a file may hold.
            text = os.urandom(600 if number >= 200 else 60).hex()
            file.write(json.dumps({"id": number, "text": text}) + "\n")
    source = files(source_folder)
    command = [sys.executable, "-c", WRITER, source.model_dump_json(), str(folder), "60000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == [JOURNAL, "shard-00000.parquet", "shard-00001.parquet"]
    expected = write_corpus(source_of(source), alone, shard_documents=100)
    assert figures(write_corpus(source_of(source), folder, shard_documents=100)) == figures(expected)
    assert shards(folder) == shards(alone)


@pytest.mark.slow
def test_the_memory_of_a_writer_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    def rows(count: int) -> Iterator[Document]:
        for number in range(count):
            yield Document(id=f"d{number}", text=f"{number} " * 5_000, source="made")

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        write_corpus(SourceReader(ListedReader(lambda: rows(count), "m"), "m"), folder, shard_documents=2_000)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    few = peak(2_000)
    assert peak(6_000) < few + 60_000  # kilobytes; the texts hold over 100,000 more
