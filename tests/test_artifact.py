"""Artifacts: complete or absent, with one writer at a time."""

from __future__ import annotations

import glob
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finephrase_dagster.artifacts.alias import plain_path
from finephrase_dagster.artifacts.artifact import (
    Artifact,
    ArtifactMissing,
    Contents,
    atomic_write,
    write_json,
)
from finephrase_dagster.artifacts.claim import FolderBusy
from finephrase_dagster.artifacts.key import DATASET, ItemKey


def artifact(root: Path, **recipe: object) -> Artifact:
    key = ItemKey(kind=DATASET, generator="tiny", source="readmes", prompt="faq")
    return Artifact(key=key, recipe=recipe or {"rows": "a"}, root=root)


def make(folder: Path) -> Contents:
    (folder / "part-0.txt").write_text("words")
    return Contents(files=[folder / "part-0.txt"], facts={"rows": 1})


def test_files_in_a_folder_whose_name_looks_like_a_pattern_are_found_through_its_alias(tmp_path: Path) -> None:
    for name in ("[a] model", "model*", "what?"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
        alias = plain_path(tmp_path / name)
        (found,) = glob.glob(f"{alias}/*.safetensors")  # noqa: PTH207 - as vLLM does
        assert Path(found).samefile(tmp_path / name / "model.safetensors")
        assert plain_path(tmp_path / name) == alias
    assert plain_path(tmp_path) == tmp_path


def test_an_artifact_is_complete_if_and_only_if_its_manifest_exists(tmp_path: Path) -> None:
    made = artifact(tmp_path)
    with made.claim() as folder:
        (folder / "part-0.txt").write_text("words")
        assert not made.complete
    made.publish([made.folder / "part-0.txt"], {"rows": 1})
    assert made.complete
    assert made.manifest()["files"][0]["path"] == "part-0.txt"
    assert made.manifest()["recipe"] == {"rows": "a"}


def test_the_error_for_a_missing_artifact_names_the_next_action(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing, match="synthetic/tiny__readmes/faq does not exist: materialize it first"):
        artifact(tmp_path).manifest()


def test_another_recipe_has_another_folder_and_leaves_the_first_unchanged(tmp_path: Path) -> None:
    first, second = artifact(tmp_path, temperature=1.0), artifact(tmp_path, temperature=0.7)
    first.materialize(make)
    assert not second.complete
    second.materialize(make)
    assert first.complete
    assert first.folder != second.folder


def test_a_complete_artifact_is_not_made_again(tmp_path: Path) -> None:
    calls: list[Path] = []

    def counted(folder: Path) -> Contents:
        calls.append(folder)
        return make(folder)

    made = artifact(tmp_path)
    assert made.materialize(counted) == made.materialize(counted)
    assert len(calls) == 1


def test_a_failure_leaves_no_manifest(tmp_path: Path) -> None:
    def fails(folder: Path) -> Contents:
        make(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        artifact(tmp_path).materialize(fails)
    assert not artifact(tmp_path).complete


def test_the_version_depends_on_the_content(tmp_path: Path) -> None:
    first, second = artifact(tmp_path / "a"), artifact(tmp_path / "b")
    first.materialize(make)

    def other_words(folder: Path) -> Contents:
        (folder / "part-0.txt").write_text("other words")
        return Contents(files=[folder / "part-0.txt"], facts={})

    second.materialize(other_words)
    assert first.fingerprint == second.fingerprint
    assert first.version != second.version


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fingerprint": "x"}', '{"fingerprint": "x", "version": "y"}'])
def test_a_manifest_of_another_recipe_is_refused(tmp_path: Path, text: str) -> None:
    made = artifact(tmp_path)
    (made.folder / "__meta__").mkdir(parents=True)
    (made.folder / "__meta__" / "manifest.json").write_text(text)
    with pytest.raises(ArtifactMissing, match="delete its folder"):
        made.manifest()


def _hold(root: Path, held: multiprocessing.synchronize.Event) -> None:
    with artifact(root).claim():
        held.set()
        time.sleep(60)


def test_a_second_writer_is_refused_and_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, held))
    holder.start()
    assert held.wait(30)
    with pytest.raises(FolderBusy, match="being written by another process"):
        artifact(tmp_path).materialize(make)
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join(30)
    assert artifact(tmp_path).materialize(make)["rows"] == 1


def test_a_file_is_complete_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    write_json(path, {"macro": 0.1})
    assert json.loads(path.read_text()) == {"macro": 0.1}
    assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_a_killed_writer_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path\n"
        "from finephrase_dagster.artifacts.artifact import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    made = artifact(tmp_path)
    made.folder.mkdir(parents=True)
    path = made.folder / "part-0.txt"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert not path.exists()
    assert list(made.folder.glob(".*.partial"))
    with made.claim():
        assert not list(made.folder.glob(".*.partial"))
