"""The files that paths and patterns name, here and in an object store, and that changes are noticed."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora_parts import documents, files, fineweb, read, write_fineweb
from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.fingerprint import canonical
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue
from finephrase_dagster.corpora import inputs
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.inputs import described, input_files
from finephrase_dagster.corpora.shards import write_corpus
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.spec import Study
from object_store import ObjectStore, object_store

TREE = ["b.parquet", "a.jsonl", "deep/er/c.wet.gz", "deep/d.jsonl.zst", "deep/e.warc", "x[1].jsonl"]
BESIDE = ["README.md", "deep/_SUCCESS", "deep/.hidden.parquet", "_delta/log.parquet", "t.csv"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (*TREE, *BESIDE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def names(root: Path | str, *patterns: str) -> list[str]:
    found = input_files(f"{root}/{pattern}" if pattern else str(root) for pattern in patterns)
    return [file.url.removeprefix(f"{root}/") for file in found]


def test_a_folder_stands_for_the_files_of_known_formats_in_it(tree: Path) -> None:
    assert names(tree, "") == sorted(TREE)
    assert names(tree, "deep") == sorted(name for name in TREE if name.startswith("deep/"))


def test_files_patterns_and_folders_give_each_file_once_and_sorted(tree: Path) -> None:
    assert names(tree, "b.parquet", "*.parquet", "*.jsonl", "b.parquet") == ["a.jsonl", "b.parquet", "x[1].jsonl"]
    assert names(tree, "x[1].jsonl") == ["x[1].jsonl"]
    assert names(tree, "deep/**/*.jsonl.*", "deep/*/c*") == ["deep/d.jsonl.zst", "deep/er/c.wet.gz"]
    assert names(tree, "deep/e*") == ["deep/e.warc", "deep/er/c.wet.gz"]


@pytest.mark.parametrize("number", [3, 101])
def test_a_recipe_changes_with_one_file_among_few_or_many(tmp_path: Path, number: int) -> None:
    for index in range(number):
        (tmp_path / f"{index:03d}.jsonl").write_text("{}")
    before = described(input_files([str(tmp_path)]))
    assert described(input_files([str(tmp_path)])) == before
    assert len(canonical(before)) < 200 * min(number, 10)
    os.utime(tmp_path / "001.jsonl", ns=(1, 1))
    assert described(input_files([str(tmp_path)])) != before


def test_a_corpus_is_stale_after_one_of_its_files_changed(lineage: Lineage, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1, "text": "one"}')
    source = {"kind": "files", "paths": (str(path),), "id_column": "id"}
    fields = lineage.study.model_dump()
    fields["sources"] = {**fields["sources"], "package_readmes": source}
    study = Study.model_validate(fields, context=catalogue())

    def corpus() -> Artifact:
        return Lineage(study=study, paths=lineage.paths).source("package_readmes")

    corpus().materialize(lambda folder: Contents(files=(), facts={}, version="0"))
    assert corpus().complete
    path.write_text('{"id": 1, "text": "two"}')
    assert not corpus().complete


@given(order=st.permutations(["b.parquet", "deep", "*.jsonl", "deep/e.warc"]))
def test_the_order_of_patterns_does_not_change_the_order_of_files(
    tmp_path_factory: pytest.TempPathFactory, order: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for name in TREE:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    assert names(root, *order) == sorted(TREE)


def test_a_pattern_without_files_of_a_known_format_is_refused_with_what_to_do(tree: Path) -> None:
    (tree / "empty").mkdir()
    for pattern in ("nothing.jsonl", "nothing-*.parquet", "empty"):
        with pytest.raises(StudyError, match=rf"/{pattern[:5]}.*: no such file, and no folder .*correct the path"):
            names(tree, pattern)
    for pattern in ("t.csv", "*.csv", "README.md"):
        with pytest.raises(StudyError, match=r"path .*: none of .parquet, .*; convert the file, or remove it"):
            names(tree, pattern)


@pytest.mark.parametrize("pattern", ["odd.jsonl", "*.jsonl", ""], ids=["named", "pattern", "folder"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_no_file_is_refused_and_not_passed_over(tree: Path, kind: str, pattern: str) -> None:
    odd = tree / "odd.jsonl"
    os.mkfifo(odd) if kind == "pipe" else odd.symlink_to(tree / "gone.jsonl")
    with pytest.raises(StudyError, match=r"odd.jsonl: is not a file but a pipe, a device or a broken link"):
        names(tree, pattern)


def test_a_change_of_a_file_shows(tree: Path) -> None:
    (before,) = input_files([str(tree / "a.jsonl")])
    (tree / "a.jsonl").write_text("a.json.")
    os.utime(tree / "a.jsonl", ns=(1, 1))
    (after,) = input_files([str(tree / "a.jsonl")])
    assert (before.url, before.size) == (after.url, after.size)
    assert before.stamp != after.stamp


def test_a_store_without_a_driver_or_of_no_known_kind_is_refused() -> None:
    for url in ("gs://bucket/rows.parquet", "nonsense://bucket/rows.parquet"):
        with pytest.raises(StudyError, match=rf"path {url}: "):
            input_files([url])


def test_a_store_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anybody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    with pytest.raises(StudyError, match=r"path s3://bucket/\*\.parquet: the store cannot be read .*credentials"):
        input_files(["s3://bucket/*.parquet"])
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_is_asked_without_credentials_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StudyError, match=r"path s3://bucket/rows.parquet: the store cannot be read .*credentials"):
        input_files(["s3://bucket/rows.parquet"])
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings of a store are not remembered."""
    monkeypatch.setattr(inputs, "REMEMBERED", 0.0)


def put(store: ObjectStore, root: str, name: str, content: bytes) -> None:
    with store.files.open(f"{root}/{name}", "wb") as file:
        file.write(content)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_stores_files_are_found_as_those_of_this_machine(store: ObjectStore) -> None:
    root = f"{store.bucket}/tree"
    for name in (*(name for name in TREE if "[" not in name), *BESIDE):
        put(store, root, name, name.encode())
    plain = sorted(name for name in TREE if "[" not in name)
    assert names(root, "") == plain
    assert names(root, "*.jsonl", "deep", "b.parquet") == plain
    assert names(root, "deep/**/*.jsonl.*", "a.jsonl") == ["a.jsonl", "deep/d.jsonl.zst"]
    with pytest.raises(StudyError, match=r"no such file"):
        names(root, "nothing")
    with pytest.raises(StudyError, match=r"none of .parquet"):
        names(root, "t.csv")
    before = input_files([root])
    assert input_files([root]) == before
    put(store, root, "a.jsonl", b"a.json.")
    after = input_files([root])
    assert [(old.url, old.size) for old in before] == [(new.url, new.size) for new in after]
    assert [old.url for old, new in zip(before, after, strict=True) if old != new] == [f"{root}/a.jsonl"]


@pytest.mark.slow
def test_a_stores_listing_holds_for_a_while(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"{store.bucket}/held"
    put(store, root, "a.jsonl", b"a")
    before = input_files([root])
    put(store, root, "a.jsonl", b"other")
    assert input_files([root]) == before
    monkeypatch.setattr(inputs, "REMEMBERED", 0.0)
    assert input_files([root]) != before


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_corpus_from_a_store_is_that_from_this_machine(store: ObjectStore, tmp_path: Path) -> None:
    here, root = tmp_path / "here", f"{store.bucket}/rows"
    write_fineweb(here, [30, 50])
    lines = "".join(json.dumps(row) + "\n" for row in fineweb(range(80, 100)).to_pylist())
    (here / "rows.jsonl").write_text(lines)

    (here / "more.jsonl.gz").write_bytes(
        gzip.compress(b"".join(json.dumps(row).encode() + b"\n" for row in fineweb(range(100, 110)).to_pylist()))
    )
    store.files.put(f"{here}/", f"{root}/", recursive=True)
    found = {}
    for name, path in (("a", str(here)), ("b", root)):
        folder = tmp_path / name
        folder.mkdir()
        source = files(path, keep={"int_score": {"min": 1}}, token_column="token_count")
        facts = write_corpus(read_source(source, "tried", requirements=here), folder, shard_documents=20)
        found[name] = (facts.content, facts.tally.order, facts.tally.dropped, facts.tally.tokens)
    assert found["a"] == found["b"]
    assert len(documents(read(files(root)))) == 110


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_reading_a_store_resumes_at_the_next_row(store: ObjectStore, tmp_path: Path) -> None:
    here, root = tmp_path / "here", f"{store.bucket}/resumed"
    write_fineweb(here, [30, 50])
    store.files.put(f"{here}/", f"{root}/", recursive=True)
    source = files(root)
    rows = read(source)
    for after in (1, 29, 30, 31, 45, 80):
        reader = read_source(source, "tried", requirements=here)
        stream = reader.rows()
        assert [next(stream) for _ in range(after)] == rows[:after]
        again = read_source(source, "tried", requirements=here)
        assert again.identity == reader.identity
        assert list(again.rows(reader.position())) == rows[after:]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
def test_a_file_that_a_store_lost_meanwhile_is_named(store: ObjectStore, tmp_path: Path) -> None:
    root = f"{store.bucket}/lost"
    put(store, root, "a.jsonl", b'{"id": 1, "text": "one"}\n')
    reader = read_source(files(root), "tried", requirements=tmp_path)
    store.files.rm(f"{root}/a.jsonl")
    with pytest.raises(CorpusError, match=r"source tried: s3://.*/a.jsonl: no such file"):
        list(reader.rows())
    with pytest.raises(CorpusError, match=r"source tried: path s3://.*: no such file"):
        read(files(root))
