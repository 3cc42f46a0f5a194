"""Reading source text, and what a corpus on disk says of itself."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.corpora.document import CorpusError, Document, Dropped
from finephrase_dagster.corpora.embedded import listed_distributions
from finephrase_dagster.corpora.shards import read_corpus, write_corpus
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.study.fingerprint import sha256_text
from finephrase_dagster.study.source import EmbeddedSource, FilesSource, HubSource, Source

LIST = Path(__file__).parents[1] / "requirements" / "cpu.txt"


def read(source: Source, requirements: Path = LIST) -> list[Document | Dropped]:
    return list(read_source(source, "tried", requirements=requirements))


def documents(rows: Iterable[Document | Dropped]) -> list[Document]:
    return [row for row in rows if isinstance(row, Document)]


def reasons(rows: Iterable[Document | Dropped]) -> list[str]:
    return [row.reason for row in rows if isinstance(row, Dropped)]


def files(*paths: Path, id_column: str | None = "id", limit: int | None = None) -> FilesSource:
    return FilesSource(kind="files", paths=tuple(map(str, paths)), id_column=id_column, limit=limit)


def installed(*names: str) -> str:
    return "".join(f"{name}=={metadata.version(name)}\n" for name in names)


def test_package_readmes_are_the_long_descriptions_of_the_listed_distributions() -> None:
    rows = read(EmbeddedSource(kind="embedded", corpus="package_readmes"))
    kept = documents(rows)
    assert len(rows) == len(listed_distributions(LIST))
    assert len(kept) > 250
    assert set(reasons(rows)) <= {"no description", "under 200 characters"}
    by_id = {document.id: document for document in kept}
    assert "pydantic" in by_id["package_readmes/pydantic"].text.lower()
    assert all(len(document.text) >= 200 for document in kept)
    assert [document.id for document in kept] == sorted(by_id)


def test_a_distribution_that_the_list_does_not_name_changes_nothing(tmp_path: Path) -> None:
    short = tmp_path / "list.txt"
    short.write_text(f"# comment\n--find-links somewhere\n{installed('pytest', 'PyYAML')}\n")
    rows = read(EmbeddedSource(kind="embedded", corpus="package_readmes"), short)
    assert [row.id for row in documents(rows)] == ["package_readmes/pytest", "package_readmes/pyyaml"]


def test_a_line_whose_marker_does_not_hold_is_passed_over(tmp_path: Path) -> None:
    marked = tmp_path / "list.txt"
    marked.write_text(f"absent==1 ; python_version < '3'\n{installed('pytest')}")
    assert list(listed_distributions(marked)) == ["pytest"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no-such-distribution==1.0", r"no-such-distribution==1.0 is on .* not installed; run `make`"),
        ("pytest==0.1", r"pytest is installed at .*, not at 0.1 .*run `make`"),
        ("pytest>=1", r":1: 'pytest>=1' names no exact version"),
        ("pytest==1.*", r":1: 'pytest==1\.\*' names no exact version"),
        ("?", r":1: '\?' is not a requirement"),
        ("", r"lists none"),
    ],
)
def test_a_list_that_cannot_be_followed_is_refused_with_a_remedy(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"{line}\n")
    with pytest.raises(CorpusError, match=said):
        read(EmbeddedSource(kind="embedded", corpus="package_readmes"), path)


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"source tried: .*absent.txt: cannot be read"):
        read(EmbeddedSource(kind="embedded", corpus="package_readmes"), tmp_path / "absent.txt")


def test_the_language_reference_has_a_document_a_topic() -> None:
    kept = documents(read(EmbeddedSource(kind="embedded", corpus="language_reference")))
    assert len(kept) > 70
    assert "language_reference/lists" in {document.id for document in kept}
    assert kept == documents(read(EmbeddedSource(kind="embedded", corpus="language_reference")))


def test_a_limit_counts_documents_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": "" if i % 2 else f"text {i}"}) + "\n" for i in range(10)))
    rows = read(files(path, limit=3))
    assert [row.id for row in documents(rows)] == ["0", "2", "4"]
    assert reasons(rows) == ["empty text"] * 2


ROWS = [
    b'{"id": "a", "text": "first"}',
    b"",
    b'{"id": "b", "text": "  \\n"}',
    b'{"id": "c", "text": null}',
    b'{"id": "d", "text": 4}',
    b'{"id": "e", "text": "cut off',
    b'{"id": "f", "text": "\xff\xfe"}',
    b'{"id": "g", "text": "\\ud800"}',
    b'["not", "an object"]',
    b'{"id": "h"}',
    b'{"id": 7, "text": "Gr\xc3\xbc\xc3\x9fe", "media": "a column of its own"}',
]


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_every_line_of_a_jsonl_file_is_kept_or_counted(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    data = b"\n".join(ROWS) + b"\n"
    pack = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[ending]
    path.write_bytes(pack(data))
    rows = read(files(path))
    assert [(row.id, row.text) for row in documents(rows)] == [("a", "first"), ("7", "Grüße")]
    assert len(rows) == len(ROWS)
    assert sorted(reasons(rows)) == [
        "blank line", "empty text", "no text", "no text", "not a JSON object", "not valid JSON",
        "not valid JSON", "not valid JSON", "text is not a string",
    ]  # fmt: skip


def test_every_row_of_a_parquet_file_is_kept_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"key": [1, 2, 3, 4], "body": ["one", "", None, "four"], "other": [0, 0, 0, 0]})
    pq.write_table(table, path)
    source = FilesSource(kind="files", paths=(str(path),), text_column="body", id_column="key")
    rows = read(source)
    assert [(row.id, row.text) for row in documents(rows)] == [("1", "one"), ("4", "four")]
    assert reasons(rows) == ["empty text", "no text"]


def test_without_an_id_column_the_id_is_the_texts_hash_and_repetitions_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["one", "two", "one"]}), path)
    rows = read(files(path, id_column=None))
    assert [row.text for row in documents(rows)] == ["one", "two"]
    assert all(sha256_text(row.text).startswith(row.id) for row in documents(rows))
    assert reasons(rows) == ["repeated text"]


def test_files_are_read_in_the_order_of_the_patterns_and_each_once(tmp_path: Path) -> None:
    for name in "cab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "text": name}))
    rows = read(files(tmp_path / "c.jsonl", tmp_path / "*.jsonl"))
    assert [row.id for row in documents(rows)] == ["c", "a", "b"]


def test_a_duplicate_id_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "x", "text": "a"}\n{"id": "x", "text": "b"}\n')
    with pytest.raises(CorpusError, match=r"source tried: .*rows.jsonl: the id 'x' stands twice"):
        read(files(path))


def test_a_missing_id_is_refused_with_file_and_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "x", "text": "a"}\n{"id": null, "text": "b"}\n')
    with pytest.raises(CorpusError, match=r"rows.jsonl, row 2: no id in column 'id'"):
        read(files(path))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows{ending}"
    if ending == ".jsonl":
        path.write_text('{"body": "a", "id": "x"}\n')
    else:
        pq.write_table(pa.table({"body": ["a"], "id": ["x"]}), path)
    with pytest.raises(CorpusError, match=rf"rows\{ending}: no column 'text'; there are body, id"):
        read(files(path))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"nothing-\*.jsonl: no such file"):
        read(files(tmp_path / "nothing-*.jsonl"))
    (tmp_path / "table.csv").write_text("id,text\n")
    with pytest.raises(CorpusError, match=r"table.csv: neither .parquet nor"):
        read(files(tmp_path / "table.csv"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CorpusError, match=r"cut.parquet: cannot be read"):
        read(files(tmp_path / "cut.parquet"))
    lines = b"".join(b'{"id": "%d", "text": "b"}\n' % number for number in range(500))
    for name, packed in (("cut.jsonl.gz", gzip.compress(lines)), ("cut.jsonl.zst", zstandard.compress(lines))):
        (tmp_path / name).write_bytes(packed[:-20])
        with pytest.raises(CorpusError, match=rf"{name}: cannot be read \(.+\)"):
            read(files(tmp_path / name))


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_a_compressed_file_of_several_frames_is_read_to_its_end(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"rows.jsonl.{ending}"
    path.write_bytes(b"".join(pack(b'{"id": "%d", "text": "b"}\n' % number) for number in range(5)))
    assert [row.id for row in documents(read(files(path)))] == list("01234")


def test_a_hub_dataset_is_streamed_row_by_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "", "three"], "url": ["u1", "u2", "u3"]}), tmp_path / "train.parquet")
    source = HubSource(kind="hub", dataset=str(tmp_path), revision="main", id_column="url")
    rows = read(source)
    assert [(row.id, row.text) for row in documents(rows)] == [("u1", "one"), ("u3", "three")]
    assert reasons(rows) == ["empty text"]
    with pytest.raises(CorpusError, match=r"no column 'body'; there are text, url"):
        read(source.model_copy(update={"text_column": "body"}))


def test_a_dataset_that_cannot_be_opened_is_named_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    source = HubSource(kind="hub", dataset="nobody/no-such-dataset", revision="main")
    with pytest.raises(CorpusError, match=r"source tried: dataset nobody/no-such-dataset@main.*HF_HUB_OFFLINE"):
        read(source)


def made(count: int) -> list[Document]:
    return [Document(id=f"d{index}", text=f"Text {index} — ü", source="made") for index in range(count)]


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(7)), size=st.integers(1, 9))
def test_a_corpus_is_identified_by_its_documents_whatever_their_order_and_shards(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], size: int
) -> None:
    base = write_corpus(made(7), tmp_path_factory.mktemp("a"), shard_documents=3, name="made")
    folder = tmp_path_factory.mktemp("b")
    other = write_corpus([made(7)[index] for index in order], folder, shard_documents=size, name="made")
    assert other.content == base.content
    assert [document.id for document in read_corpus(folder)] == [f"d{index}" for index in order]
    assert len(other.files) == -(-7 // size)


def test_a_corpus_says_what_it_holds_and_what_was_dropped(tmp_path: Path) -> None:
    rows = [*made(5), Dropped(source="made", reason="empty text"), Dropped(source="made", reason="empty text")]
    facts = write_corpus(rows, tmp_path, shard_documents=2, name="made")
    assert [path.name for path in facts.files] == [f"shard-0000{index}.parquet" for index in range(3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in facts.files]
    assert (facts.rows, facts.characters, facts.bytes) == (5, 5 * 10, 5 * 13)
    assert facts.dropped == {"empty text": 2}
    assert list(read_corpus(tmp_path)) == made(5)
    first = pq.read_table(facts.files[0]).to_pylist()[0]
    assert first == {"id": "d0", "text": "Text 0 — ü", "sha256": sha256_text("Text 0 — ü"), "source": "made"}


def test_a_changed_text_or_id_changes_the_content(tmp_path: Path) -> None:
    contents = set()
    for index, changed in enumerate((made(2), [*made(1), Document(id="d1", text="other", source="made")],
                                     [*made(1), Document(id="d2", text="Text 1 — ü", source="made")])):  # fmt: skip
        folder = tmp_path / str(index)
        folder.mkdir()
        contents.add(write_corpus(changed, folder, shard_documents=9, name="made").content)
    assert len(contents) == 3


def test_shards_of_an_interrupted_writer_are_replaced(tmp_path: Path) -> None:
    write_corpus(made(9), tmp_path, shard_documents=2, name="made")
    write_corpus(made(3), tmp_path, shard_documents=2, name="made")
    assert list(read_corpus(tmp_path)) == made(3)


def test_a_writer_that_fails_leaves_no_half_shard(tmp_path: Path) -> None:
    def breaking() -> Iterable[Document]:
        yield from made(3)
        raise CorpusError("the source broke off")

    with pytest.raises(CorpusError, match="broke off"):
        write_corpus(breaking(), tmp_path, shard_documents=2, name="made")
    assert all(len(pq.read_table(path)) == 2 for path in tmp_path.iterdir())


def test_an_empty_corpus_is_refused_with_the_sources_name_and_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"source mine: holds no documents \(1 x empty text\)"):
        write_corpus([Dropped(source="f", reason="empty text")], tmp_path, shard_documents=2, name="mine")
    with pytest.raises(CorpusError, match="no rows at all"):
        write_corpus([], tmp_path, shard_documents=2, name="mine")
    with pytest.raises(CorpusError, match="no shards of a corpus"):
        list(read_corpus(tmp_path))
