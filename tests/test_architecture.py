"""Who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from finephrase_dagster.study.places import REPOSITORY

PACKAGE = REPOSITORY / "finephrase_dagster"
ROOMS = ("corpora", "generators", "rephrase", "audit", "train", "evaluate", "results", "pods")
# A room may import `study`, itself, and what stands here.
BORROWS = {"generators": {"train", "corpora", "audit", "rephrase"}, "train": {"pods"}}


def modules() -> list[Path]:
    return sorted(
        path for top in (PACKAGE, REPOSITORY / "assets", REPOSITORY / "resources") for path in top.rglob("*.py")
    )


def imported(path: Path) -> set[str]:
    """All module names that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
    return names


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] in ("finephrase_dagster", "assets", "resources")}


@pytest.mark.parametrize("path", sorted((PACKAGE / "study").rglob("*.py")), ids=lambda path: path.name)
def test_study_imports_nothing_of_ours(path: Path) -> None:
    assert {name for name in ours(imported(path)) if not name.startswith("finephrase_dagster.study")} == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_study_and_what_it_may_borrow(room: str) -> None:
    allowed = {"study", room, *BORROWS.get(room, set())}
    for path in (PACKAGE / room).rglob("*.py"):
        rooms = {name.split(".")[1] if "." in name else name for name in ours(imported(path))}
        assert rooms <= allowed, f"{path} imports {rooms - allowed}"


@pytest.mark.parametrize("room", ("study", *ROOMS))
def test_the_library_never_imports_dagster_or_mlflow(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & {"dagster", "dagster_duckdb", "dagster_k8s", "mlflow"}, path


def test_resources_import_the_library_and_never_assets() -> None:
    for path in (REPOSITORY / "resources").rglob("*.py"):
        assert not [name for name in ours(imported(path)) if name.startswith("assets")], path


def test_definitions_alone_imports_assets() -> None:
    importers = {path for path in PACKAGE.rglob("*.py") if any(n.split(".")[0] == "assets" for n in imported(path))}
    assert importers == {PACKAGE / "definitions.py"}


def test_no_room_is_empty_and_none_is_called_after_nothing() -> None:
    for folder in (PACKAGE, REPOSITORY / "assets", REPOSITORY / "resources"):
        assert not [path for path in folder.rglob("*.py") if path.stem in ("helpers", "utils", "common", "misc")]
    for room in ("study", *ROOMS):
        assert len(list((PACKAGE / room).glob("*.py"))) > 1, room


def test_the_sources_are_plain_python_3_11() -> None:
    for path in modules():
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
