"""The recipes of CONTRIBUTING.md, carried out in a copy of the project as a contributor would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finephrase_dagster.study.paths import REPOSITORY

BLOCK = re.compile(r"```(?:python|markdown)\n(?:# |<!-- )(\S+)(?: -->)?\n(.*?)```", re.DOTALL)
FOLDERS = ("finephrase_dagster", "prompts", "studies", "requirements")


@pytest.mark.slow
def test_every_recipe_is_one_file_and_one_test_that_passes(tmp_path: Path) -> None:
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "workspace.yaml", tmp_path)
    (tmp_path / "tests").mkdir()
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipes = text[text.index("## Recipes") :].split("\n### ")[1:]
    for recipe in recipes:
        paths = [path for path, _ in BLOCK.findall(recipe)]
        assert len(paths) == 2, f"{recipe.splitlines()[0]}: {paths}"
        assert paths[1].startswith("tests/test_"), paths
        for path, content in BLOCK.findall(recipe):
            assert not (tmp_path / path).exists(), path
            (tmp_path / path).write_text(content, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(recipes)} passed" in done.stdout
