"""Finished artifacts are verified: a torn, changed, emptied, missing or stray file, or an edited manifest, is named."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from finephrase_dagster.artifacts import folder as folders
from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.key import CORPUS, ItemKey
from finephrase_dagster.artifacts.verification import ArtifactDamaged, artifact_files, check_artifact, verify_folder
from finephrase_dagster.commands.main import app
from finephrase_dagster.rephrase.dataset import read_dataset
from finephrase_dagster.rephrase.location import folder_at
from rephrase_parts import LocalServer, documents, local_server

PART = "part-00000-00001.parquet"


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server() as one:
        one.context = 4096
        yield one


@pytest.fixture
def dataset(tmp_path: Path, server: LocalServer) -> Path:
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"id": n, "text": t}) for n, t in documents(12)))
    assert rephrase(tmp_path, server) == (0, "")
    server.requests.clear()
    return tmp_path / "out" / "faq"


def rephrase(folder: Path, server: LocalServer) -> tuple[int, str]:
    options = ["--input", str(folder / "in.jsonl"), "--prompt", "faq", "--output", str(folder / "out")]
    options += ["--chunk-rows", "5", "--endpoint", server.url, "--model", "tiny"]
    result = CliRunner().invoke(app, ["rephrase", *options])
    return result.exit_code, result.stderr


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    """Change a bit, and set the time of the file back."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def copy(path: Path) -> None:
    path.with_name("part-00009-00000.parquet").write_bytes(path.read_bytes())


def edit(path: Path) -> None:
    manifest = path.parent / "__meta__" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"completed": 12', '"completed": 13'))


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (tear, PART),
        (flip, PART),
        (empty, PART),
        (Path.unlink, PART),
        (copy, "part-00009-00000.parquet"),
        (edit, "__meta__/manifest.json"),
    ],
)
def test_a_finished_dataset_that_has_changed_is_refused_and_the_file_is_named(
    dataset: Path, tmp_path: Path, server: LocalServer, damage: Callable[[Path], None], file: str
) -> None:
    damage(dataset / PART)
    status, message = rephrase(tmp_path, server)
    assert status == 1
    assert file in message
    assert ("Delete" in message) or ("Move" in message) or ("Restore" in message)
    verified = CliRunner().invoke(app, ["verify", str(tmp_path / "out"), "--json"])
    assert verified.exit_code == 1
    [report] = json.loads(verified.stdout)["artifacts"]
    assert [flaw["file"] for flaw in report["flaws"]] == [file]
    assert server.requests == []
    if damage is copy:
        assert len(read_dataset(dataset).table()) == 12
    else:
        with pytest.raises(ArtifactDamaged):
            read_dataset(dataset)


def test_rejected_rows_are_verified_too(dataset: Path) -> None:
    flip(dataset / "__meta__" / "rejected.parquet")
    with pytest.raises(ArtifactDamaged, match=r"rejected\.parquet is damaged"):
        read_dataset(dataset)


def test_doing_what_the_message_says_redoes_the_rows_of_the_damaged_file_alone(
    dataset: Path, tmp_path: Path, server: LocalServer
) -> None:
    flip(dataset / PART)
    assert rephrase(tmp_path, server)[0] == 1
    (dataset / PART).unlink()
    (dataset / "__meta__" / "manifest.json").unlink()
    assert rephrase(tmp_path, server) == (0, "")
    assert len(server.requests) == 5
    assert CliRunner().invoke(app, ["verify", str(dataset)]).exit_code == 0


def test_a_file_is_hashed_once_and_again_after_a_change(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    hash_file = folders.sha256_file
    monkeypatch.setattr(folders, "sha256_file", lambda path: hashed.append(path.name) or hash_file(path))
    read_dataset(dataset)
    hashed.clear()
    read_dataset(dataset)
    assert hashed == []
    os.utime(dataset / PART)
    read_dataset(dataset)
    assert hashed == [PART]
    list(verify_folder(folder_at(dataset)))
    assert len(hashed) == 5  # on demand, all of them


def test_a_dataset_in_an_object_store_is_verified(dataset: Path) -> None:
    store, place = fsspec.filesystem("memory"), f"/verified-{dataset.parent.parent.name}"
    store.put(str(dataset), place, recursive=True)
    assert len(read_dataset(f"memory:/{place}").table()) == 12
    store.pipe(f"{place}/{PART}", b"PAR1")
    with pytest.raises(ArtifactDamaged, match=PART):
        read_dataset(f"memory:/{place}")


def corpus(root: Path) -> Artifact:
    def write(folder: Path) -> Contents:
        for number in range(2):
            (folder / f"shard-{number}.parquet").write_bytes(b"rows" * number)
        return Contents(files=folder.glob("*.parquet"), facts={"rows": 3})

    artifact = Artifact(key=ItemKey(kind=CORPUS, source="text"), recipe={"rows": "a"}, root=root)
    artifact.materialize(write)
    return artifact


def test_an_artifact_of_any_stage_is_verified_before_it_is_read(tmp_path: Path) -> None:
    artifact = corpus(tmp_path)
    assert [path.name for path in artifact_files(artifact)] == ["shard-0.parquet", "shard-1.parquet"]
    tear(artifact.folder / "shard-1.parquet".replace("1", "1"))
    with pytest.raises(ArtifactDamaged, match=r"shard-1\.parquet .*[Dd]elete this folder and run `finephrase mater"):
        check_artifact(artifact)


def test_a_folder_without_an_artifact_is_a_wrong_request(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no complete dataset" in result.stderr


def test_files_have_the_mode_that_the_umask_leaves(tmp_path: Path, server: LocalServer) -> None:
    before = os.umask(0o077)
    try:
        (tmp_path / "in.jsonl").write_text('{"id": "a", "text": "words"}\n')
        assert rephrase(tmp_path, server) == (0, "")
        corpus(tmp_path / "data")
    finally:
        os.umask(before)
    files = [path for name in ("out", "data") for path in (tmp_path / name).rglob("*")]
    assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in files} == {"0o600", "0o700"}
