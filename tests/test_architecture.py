"""Who may import whom, and what a room may hold."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from finephrase_dagster.study.paths import REPOSITORY

PACKAGE = REPOSITORY / "finephrase_dagster"
TOPS = (PACKAGE, REPOSITORY / "assets", REPOSITORY / "resources")
OURS = ("finephrase_dagster", "assets", "resources")
LOOSE = {"definitions", "errors", "catalogue"}
LIBRARY = ("artifacts", "corpora", "generators", "rephrase", "audit", "train", "evaluate", "results", "plan", "pods")
BORROWS = {
    "errors": set(),
    "study": {"errors"},
    "artifacts": {"errors", "study"},
    "corpora": {"errors", "study", "artifacts"},
    "pods": {"errors", "study", "artifacts"},
    "audit": {"errors", "study", "artifacts", "corpora"},
    "evaluate": {"errors", "study", "artifacts"},
    "results": {"errors", "study", "artifacts", "evaluate", "audit"},
    "train": {"errors", "study", "artifacts", "corpora", "pods"},
    "rephrase": {"errors", "study", "artifacts", "corpora", "pods", "generators", "catalogue"},
    "generators": {"errors", "study", "artifacts", "corpora", "audit", "train"},
    "plan": {"errors", "study", "artifacts", "corpora", "results"},
    "catalogue": {"errors", "study", "artifacts", "corpora", "audit", "evaluate"},
}
"""What each room of the library may import besides itself."""


@cache
def modules() -> list[Path]:
    return sorted(path for top in TOPS for path in top.rglob("*.py"))


@cache
def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imported(path: Path) -> frozenset[str]:
    """All module names that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def ours(path: Path) -> set[str]:
    """The modules of this project that a file imports."""
    known = {module_name(other) for other in modules()}
    return {name for name in imported(path) if name in known and name != "finephrase_dagster"} - {module_name(path)}


def room(module: str) -> str:
    """The room of a module; a loose module is a room of its own."""
    top, *rest = module.split(".")
    return rest[0] if top == "finephrase_dagster" and rest else top


def test_at_most_three_modules_lie_loose() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} <= LOOSE


def test_study_holds_at_most_15_files() -> None:
    assert len(list((PACKAGE / "study").rglob("*.py"))) <= 15


@pytest.mark.parametrize("name", sorted(BORROWS))
def test_a_room_imports_only_what_it_may_borrow(name: str) -> None:
    for path in modules():
        if room(module_name(path)) == name:
            strangers = {room(other) for other in ours(path)} - BORROWS[name] - {name}
            assert not strangers, f"{path} imports {strangers}"


def test_no_arrow_between_rooms_runs_in_a_circle() -> None:
    arrows: dict[str, set[str]] = defaultdict(set)
    for path in modules():
        arrows[room(module_name(path))] |= {room(name) for name in ours(path)} - {room(module_name(path))}
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        pytest.fail(f"rooms import each other in a circle: {error.args[1]}")


def test_no_modules_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter({module_name(path): ours(path) for path in modules()}).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {error.args[1]}")


@pytest.mark.parametrize("name", ("errors", "study", *LIBRARY))
def test_the_library_never_imports_dagster_or_mlflow(name: str) -> None:
    for path in modules():
        if room(module_name(path)) == name:
            roots = {imported_name.split(".")[0] for imported_name in imported(path)}
            assert not roots & {"dagster", "dagster_duckdb", "dagster_k8s", "mlflow"}, path


def test_private_dagster_modules_are_imported_in_orchestration_alone() -> None:
    for path in modules():
        private = {name for name in imported(path) if name.startswith("dagster") and "._" in name}
        assert not private or room(module_name(path)) == "orchestration", f"{path} imports {private}"


def test_resources_import_the_library_and_never_assets() -> None:
    for path in (REPOSITORY / "resources").rglob("*.py"):
        assert not [name for name in ours(path) if room(name) == "assets"], path


def test_definitions_alone_imports_assets() -> None:
    importers = {path for path in PACKAGE.rglob("*.py") if any(room(name) == "assets" for name in ours(path))}
    assert importers == {PACKAGE / "definitions.py"}


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module_name(path))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_no_room_is_empty_and_none_is_called_after_nothing() -> None:
    for path in modules():
        assert path.stem not in ("helpers", "utils", "common", "misc"), path
    for name in ("study", *LIBRARY):
        assert len(list((PACKAGE / name).glob("*.py"))) > 1, name


def test_the_sources_are_plain_python_3_11() -> None:
    for path in modules():
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))
