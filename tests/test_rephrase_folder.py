"""A dataset's folder, on a disk and in an object store: atomic files, journals that survive a crash, one writer."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs

from finephrase_dagster.artifacts.claim import LOCK, FolderBusy
from finephrase_dagster.artifacts.folder import (
    Folder,
    FolderUnusable,
    Journal,
    LocalFolder,
)
from finephrase_dagster.artifacts.processes import this_machine, this_process
from finephrase_dagster.rephrase import lock
from finephrase_dagster.rephrase.location import LocationInvalid, folder_at
from finephrase_dagster.rephrase.object_folder import ObjectFolder
from object_store import ObjectStore, object_store

KINDS = ("disk", pytest.param("store", marks=pytest.mark.slow))
ANOTHER_MACHINE = "elsewhere 1 pid:[1]"


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    with object_store() as running:
        yield running


@pytest.fixture
def in_store(store: ObjectStore) -> ObjectFolder:
    made = folder_at(f"{store.bucket}/{uuid.uuid4().hex}/faq")
    assert isinstance(made, ObjectFolder)
    return made


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return folder_at(tmp_path / "faq") if request.param == "disk" else request.getfixturevalue("in_store")


def started(folder: Folder, *lines: str) -> subprocess.Popen[str]:
    program = (
        "from finephrase_dagster.rephrase.location import folder_at",
        f"folder = folder_at({str(folder)!r})",
        *lines,
    )
    return subprocess.Popen([sys.executable, "-c", "\n".join(program)], stdout=subprocess.PIPE, text=True)


@contextlib.contextmanager
def another(folder: Folder, *lines: str) -> Iterator[subprocess.Popen[str]]:
    """Yield another process that has done something with the same folder and said so; kill it at the end."""
    process = started(folder, *lines, "print('done', flush=True)", "import time; time.sleep(600)")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def claimed_by(folder: ObjectFolder, holder: bytes) -> None:
    folder.put(LOCK, holder)


def lock_of(where: str, *, process: str = "1@1.0") -> bytes:
    said = {"token": "its own", "machine": where, "process": process, "beats": 1}
    return json.dumps(said).encode()


def test_a_file_has_its_last_content_until_it_is_removed(folder: Folder) -> None:
    with folder.claim():
        for content in (b"first", b"", b"second"):
            folder.write("__meta__/manifest.json", content)
            assert folder.read("__meta__/manifest.json") == content
        folder.write("__meta__/chunks/part-1.parquet", b"of a chunk")
        assert folder.read("__meta__/chunks/part-1.parquet") == b"of a chunk"
        folder.remove("__meta__/manifest.json")
        folder.remove("__meta__/manifest.json")
    for missing in ("__meta__/manifest.json", "__meta__/chunks", "never"):
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            folder.read(missing)


@pytest.mark.slow
def test_a_reader_never_sees_a_partial_file(folder: Folder) -> None:
    size = 1_000_000
    with folder.claim():
        folder.write("part.parquet", b"a" * size)
    with started(folder, f"for n in range(40): folder.write('part.parquet', (b'b', b'a')[n % 2] * {size})") as writer:
        while writer.poll() is None:
            content = folder.read("part.parquet")
            assert len(content) == size
            assert len(set(content)) == 1
    assert writer.returncode == 0


def test_names_are_the_matching_files_of_one_level(folder: Folder) -> None:
    assert folder.names("part-*.parquet") == []
    assert folder.names("__meta__/chunks/*") == []
    files = (
        "part-2.parquet",
        "part-1.parquet",
        "__meta__/recipe.json",
        "__meta__/chunks/part-1.parquet",
        "__meta__/chunks/note",
    )
    with folder.claim():
        for name in files:
            folder.write(name, b"content")
        assert folder.names("part-*.parquet") == ["part-1.parquet", "part-2.parquet"]
        assert folder.names("__meta__/chunks/*.parquet") == ["__meta__/chunks/part-1.parquet"]
        assert folder.names("__meta__/chunks/*") == ["__meta__/chunks/note", "__meta__/chunks/part-1.parquet"]
        assert folder.names("__meta__/recipe.json") == ["__meta__/recipe.json"]
        assert folder.names("__meta__/manifest.json") == []
        assert folder.names("*") == ["part-1.parquet", "part-2.parquet"]
        assert folder.folders() == ["__meta__"]


def test_neighbouring_folders_do_not_see_each_other(folder: Folder) -> None:
    beside = folder_at(f"{folder}2")
    with folder.claim(), beside.claim():
        beside.write("part-1.parquet", b"content")
        beside.journal("part-2").append(b"record\n")
        assert folder.names("*.parquet") == []
        assert folder.journals() == []


@pytest.mark.slow
def test_a_journal_survives_its_killed_process_and_is_continued(folder: Folder) -> None:
    adding = (
        "claim = folder.claim(); claim.__enter__()",
        "journal = folder.journal('part-00000-00000')",
        "for n in range(3): journal.append(b'%d\\n' % n); journal.sync()",
        "journal.append(b'3\\n')",
    )
    with another(folder, *adding) as process:
        process.kill()
        process.wait()
        with folder.claim():
            assert folder.journals() == ["part-00000-00000"]
            journal = folder.journal("part-00000-00000")
            kept = b"0\n1\n2\n"
            if isinstance(folder, LocalFolder):
                kept += b"3\n"  # a disk keeps also what was not synced; a store, what was uploaded
            assert journal.read() == kept
            journal.append(b"more\n")
            assert journal.read() == kept + b"more\n"
            journal.close()
            again = folder.journal("part-00000-00000")
            assert again.read() == kept + b"more\n"
            folder.journal("part-00000-00001").append(b"of another\n")
            assert again.read() == kept + b"more\n"
            again.remove()
            again.sync()
            assert "part-00000-00000" not in folder.journals()
            assert folder.names("__meta__/journals/part-00000-00000*") == []


@pytest.mark.slow
def test_a_journal_of_many_uploads_is_read_in_order_and_removed_completely(in_store: ObjectFolder) -> None:
    records = [b"%d\n" % number for number in range(40)]
    journal = in_store.journal("part")
    for record in records:
        journal.append(record)
        journal.sync()
        journal.sync()
    assert len(in_store.names("__meta__/journals/*")) == len(records)
    left = in_store.journal("part")
    assert left.read() == b"".join(records)
    left.remove()
    assert in_store.names("__meta__/journals/*") == []


def test_records_that_could_not_be_uploaded_are_uploaded_once_the_store_is_back(store: ObjectStore) -> None:
    bucket = f"{store.bucket}-late"
    late = folder_at(f"{bucket}/faq")
    journal = late.journal("part")
    journal.append(b"first\n")
    with pytest.raises(FolderUnusable, match="bucket does not exist"):
        journal.sync()
    journal.append(b"second\n")
    store.files.mkdir(bucket)
    journal.sync()
    assert late.journal("part").read() == b"first\nsecond\n"


def test_a_journal_whose_removal_was_interrupted_is_gone(in_store: ObjectFolder) -> None:
    for name in ("part-1", "part-2"):
        journal = in_store.journal(name)
        for record in (b"1\n", b"2\n", b"3\n"):
            journal.append(record)
            journal.sync()
    in_store.remove("__meta__/journals/part-1.00000")
    assert in_store.journals() == ["part-2"]
    with in_store.claim():
        assert in_store.names("__meta__/journals/part-1*") == []
        assert in_store.journal("part-2").read() == b"1\n2\n3\n"


def test_a_folder_has_one_writer_at_a_time(folder: Folder) -> None:
    second = folder_at(str(folder))
    with folder.claim():
        with pytest.raises(FolderBusy, match="another process"), second.claim():
            pass
        folder.write("file", b"content")
    with second.claim():
        second.write("file", b"of the second")
        with pytest.raises(FolderBusy), folder.claim():
            pass
    with folder.claim():
        assert folder.read("file") == b"of the second"
    assert not isinstance(folder, ObjectFolder) or folder.names(LOCK) == []


def test_another_process_is_refused_until_it_is_killed(folder: Folder) -> None:
    with another(folder, "claim = folder.claim(); claim.__enter__()") as process:
        with pytest.raises(FolderBusy), folder.claim():
            pass
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but its parent has not taken note
        with folder.claim():
            folder.write("file", b"content")
    assert folder.read("file") == b"content"


@pytest.mark.parametrize("before", [None, "the lock of a dead process"])
def test_only_one_of_many_concurrent_claims_succeeds(folder: Folder, before: str | None) -> None:
    if before and isinstance(folder, ObjectFolder):
        claimed_by(folder, lock_of(this_machine(), process=f"{2**22 + 1}@1.0"))

    def claim(number: int) -> int | None:
        claim = folder_at(str(folder)).claim()
        try:
            claim.__enter__()
        except FolderBusy:
            return None
        held.append(claim)
        return number

    held: list[contextlib.AbstractContextManager[None]] = []
    with ThreadPoolExecutor(8) as threads:
        assert len([one for one in threads.map(claim, range(8)) if one is not None]) == 1
    held[0].__exit__(None, None, None)


def test_a_file_is_replaced_only_as_long_as_nobody_else_replaced_it(in_store: ObjectFolder) -> None:
    in_store.put("file", b"first")
    tag = in_store.tag("file")
    in_store.replace("file", b"second", tag)
    with pytest.raises(FileExistsError):
        in_store.replace("file", b"third", tag)
    assert in_store.read("file") == b"second"
    tag = in_store.tag("file")
    in_store.delete(["file"])
    with pytest.raises(FileExistsError):
        in_store.replace("file", b"fourth", tag)
    assert in_store.tag("file") is None


def test_the_store_refuses_to_create_an_existing_file(in_store: ObjectFolder) -> None:
    in_store.put("file", b"first", mode="create")
    with pytest.raises(FileExistsError):
        in_store.put("file", b"second", mode="create")
    assert in_store.read("file") == b"first"


@pytest.mark.parametrize("silent_seconds", [0, 50])
@pytest.mark.parametrize("owner", [ANOTHER_MACHINE, None, "damaged"])
def test_a_lock_of_another_machine_is_respected_for_a_minute(
    in_store: ObjectFolder, owner: str | None, silent_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectFolder, "age", lambda self, name: silent_seconds)
    claimed_by(in_store, holder := lock_of(owner) if owner == ANOTHER_MACHINE else b"[1, 2]" if owner else b"")
    with pytest.raises(FolderBusy), in_store.claim():
        pass
    assert in_store.read(LOCK) == holder


@pytest.mark.parametrize(
    "holder",
    [
        lock_of(ANOTHER_MACHINE),
        lock_of(this_machine(), process=f"{os.getpid()}@0.5"),
        lock_of(this_machine(), process=f"{2**22 + 1}@1.0"),
        b"",
        b"[1, 2]",
    ],
    ids=["silent for a minute", "its number is another's", "it has ended", "empty", "damaged"],
)
def test_the_lock_of_a_dead_process_is_taken_over(
    in_store: ObjectFolder, holder: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ObjectFolder, "age", lambda self, name: 61.0)
    claimed_by(in_store, holder)
    with in_store.claim():
        assert json.loads(in_store.read(LOCK))["process"] == this_process()
        with pytest.raises(FolderBusy), folder_at(str(in_store)).claim():
            pass
    assert in_store.names(LOCK) == []


def test_an_owner_refreshes_its_lock(in_store: ObjectFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    with in_store.claim():
        first = json.loads(in_store.read(LOCK))
        while (last := json.loads(in_store.read(LOCK)))["beats"] == first["beats"]:
            time.sleep(0.01)
        assert {**last, "beats": 0} == {**first, "beats": 0}


def test_an_owner_whose_lock_was_taken_over_writes_no_more(
    in_store: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.02)
    with in_store.claim():
        in_store.write("file", b"content")
        journal = in_store.journal("part")
        other = lock_of(ANOTHER_MACHINE)
        deadline = time.monotonic() + 60
        with pytest.raises(FolderBusy):
            while time.monotonic() < deadline:
                claimed_by(in_store, other)  # again, for a beat that had read its own lock may write it once more
                in_store.write("file", b"content")
        refused(in_store, journal)
    assert in_store.read(LOCK) == other
    assert in_store.read("file") == b"content"


def test_an_owner_that_was_silent_for_too_long_checks_its_lock_before_it_writes(
    in_store: ObjectFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_store.claim():
        monkeypatch.setattr(lock, "SILENT_SECONDS", 0)
        in_store.write("file", b"content")
        journal = in_store.journal("part")
        claimed_by(in_store, other := lock_of(ANOTHER_MACHINE))
        refused(in_store, journal)
    assert in_store.read(LOCK) == other
    assert in_store.read("file") == b"content"


def refused(folder: Folder, journal: Journal) -> None:
    journal.append(b"record\n")
    for change in (
        journal.sync,
        lambda: folder.write("file", b"changed"),
        lambda: folder.remove("file"),
        lambda: folder.journal("part").remove(),
    ):
        with pytest.raises(FolderBusy):
            change()
    assert folder.names("__meta__/journals/*") == []


def test_a_missing_bucket_is_named(store: ObjectStore) -> None:
    away = folder_at("s3://no-such-bucket/faq")
    with pytest.raises(FileNotFoundError):
        away.read("__meta__/manifest.json")
    assert away.names("part-*.parquet") == []
    with pytest.raises(FolderUnusable, match=r"s3://no-such-bucket/faq: .*bucket does not exist"), away.claim():
        pass


@pytest.mark.slow
def test_an_unreachable_store_is_named(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    away = folder_at(f"{store.bucket}/faq")
    with pytest.raises(FolderUnusable, match=r"/faq: Could not connect .*127\.0\.0\.1:9.*run the command again"):
        away.read("__meta__/manifest.json")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_location_is_a_folder_on_a_disk_or_in_a_store_that_is_known(tmp_path: Path) -> None:
    for place in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        made = folder_at(place)
        assert isinstance(made, LocalFolder)
        assert made.path == tmp_path
    assert isinstance(folder_at("memory://faq"), ObjectFolder)
    with pytest.raises(LocationInvalid, match="nowhere"):
        folder_at("nowhere://bucket/faq")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "faq"):
        with pytest.raises(LocationInvalid, match="file is a file; name a folder"):
            folder_at(place)


def test_a_file_is_moved_from_a_folder_below_once(folder: Folder) -> None:
    with folder.claim():
        below = folder.below("__meta__/tasks/00003")
        with below.claim():
            below.write("part-1.parquet", b"rows")
        for _ in range(2):
            folder.take(below, "part-1.parquet")
        assert (folder.read("part-1.parquet"), below.names("part-*")) == (b"rows", [])
        below.clear()
        assert below.names("*") == []


def test_a_folder_can_be_written_without_a_lock_long_after_it_was_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_at(f"memory://claimed/{uuid.uuid4().hex}")
    with folder.claim():
        folder.write("before", b"1")
    later = time.time() + 10 * lock.SILENT_SECONDS
    monkeypatch.setattr(lock.time, "time", lambda: later)
    folder.write("after", b"2")
    assert folder.read("after") == b"2"
