"""The layout of the project: who may import whom, what a room may hold, and that one fact has one place."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from finephrase_dagster.artifacts import key
from finephrase_dagster.study.paths import REPOSITORY

PACKAGE = REPOSITORY / "finephrase_dagster"
TOPS = (PACKAGE, REPOSITORY / "assets", REPOSITORY / "resources")
OURS = ("finephrase_dagster", "assets", "resources")
LOOSE = {"definitions", "errors", "catalogue"}
ROOMS = 20  # at most
LINES, FUNCTION_LINES = 400, 80  # of the longest file and the longest function
LIBRARY = (
    *("artifacts", "corpora", "generators", "rephrase", "audit", "train", "evaluate", "results", "plan", "pods"),
    *("release", "throughput", "production"),
)
BORROWS = {
    "errors": set(),
    "study": {"errors"},
    "artifacts": {"errors", "study"},
    "corpora": {"errors", "study", "artifacts"},
    "pods": {"errors", "study", "artifacts"},
    "audit": {"errors", "study", "artifacts", "corpora", "evaluate"},
    "evaluate": {"errors", "study", "artifacts", "corpora"},
    "results": {"errors", "study", "artifacts", "evaluate", "audit"},
    "train": {"errors", "study", "artifacts", "corpora", "pods"},
    "rephrase": {"errors", "study", "artifacts", "corpora", "pods", "generators", "catalogue", "audit"},
    "generators": {"errors", "study", "artifacts", "corpora", "audit", "train"},
    "production": {"errors", "study", "artifacts", "pods", "rephrase"},
    "release": {"errors", "study", "artifacts", "corpora", "audit", "train", "rephrase"},
    "throughput": {"errors", "study", "artifacts", "corpora", "generators", "rephrase"},
    "plan": {"errors", "study", "artifacts", "corpora", "evaluate", "results"},
    "catalogue": {"errors", "study", "artifacts", "corpora", "audit", "evaluate"},
}
"""The rooms that each room of the library may import."""
MOST = {"errors", "study", "catalogue", *LIBRARY}
BORROWS |= {
    "orchestration": MOST,
    "resources": MOST | {"orchestration"},
    "assets": MOST | {"orchestration", "resources"},
    "commands": MOST | {"orchestration", "resources", "definitions"},
    "definitions": MOST | {"orchestration", "resources", "assets"},
}
RECURRING = {
    "__init__": "every package",
    "audit": "the gates over a synthetic dataset",
    "catalogue": "what a study file may name",
    "checkpoint": "a student's weights, in two formats",
    "cluster": "a cluster of GPUs",
    "dataset": "a synthetic dataset",
    "early": "the early stop",
    "evaluation": "benchmark scores",
    "expand": "a study file written out in full",
    "hub": "the Hugging Face hub",
    "job": "one request that a stage carries to where it runs",
    "leaderboard": "a study's mixtures, compared by their scores",
    "materialize": "making what is missing or stale",
    "noise": "how far scores move with random seeds",
    "order": "the order in which a student reads its data",
    "plan": "the plan of a study",
    "preview": "a few documents with their completions",
    "progress": "how far something has come",
    "reader": "reading input rows",
    "release": "a study's datasets as one published dataset",
    "report": "the page of a study's answer and figures",
    "source": "a source of raw text",
    "student": "a student model",
    "sweep": "the throughput sweep of a generator",
    "tokenizer": "tokenizers",
    "tokens": "tokenized datasets",
    "trace": "from scores to documents, and back",
    "tracking": "MLflow",
    "trainer": "what trains a student",
    "warehouse": "the DuckDB file",
    "worker": "a process that rephrases",
}
"""The base names of files that occur in several rooms, each for the same idea."""
PATH_READERS = {
    "finephrase_dagster.corpora.inputs",
    "finephrase_dagster.rephrase.ledger",
    "finephrase_dagster.rephrase.object_folder",
    "finephrase_dagster.train.nanotron.trainer",
}
"""The modules that take paths and URLs of files apart; no name of an item or a cell is among them."""


@cache
def modules() -> list[Path]:
    """Return all source files of the library, the assets and the resources."""
    return sorted(path for top in TOPS for path in top.rglob("*.py"))


@cache
def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    """Return the syntax tree of a source file."""
    return ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 11))


@cache
def imported(path: Path) -> frozenset[str]:
    """Return the names of all modules that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def ours(path: Path) -> set[str]:
    """Return the modules of this project that a file imports."""
    known = {module_name(other) for other in modules()}
    return {name for name in imported(path) if name in known and name != "finephrase_dagster"} - {module_name(path)}


def room(module: str) -> str:
    """Return the room of a module; a loose module is its own room."""
    top, *rest = module.split(".")
    return rest[0] if top == "finephrase_dagster" and rest else top


def test_at_most_three_modules_lie_loose() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} <= LOOSE


def test_there_are_at_most_20_rooms() -> None:
    assert len({room(module_name(path)) for path in modules()} - LOOSE) <= ROOMS


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
            assert not roots & {"dagster", "dagster_k8s", "mlflow"}, path


def test_private_dagster_modules_are_imported_in_orchestration_alone() -> None:
    for path in modules():
        private = {name for name in imported(path) if name.startswith("dagster") and "._" in name}
        assert not private or room(module_name(path)) == "orchestration", f"{path} imports {private}"


def test_definitions_alone_imports_assets() -> None:
    importers = {path for path in PACKAGE.rglob("*.py") if any(room(name) == "assets" for name in ours(path))}
    assert importers == {PACKAGE / "definitions.py"}


def test_no_two_public_classes_share_a_name() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        for node in parsed(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module_name(path))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_no_room_is_empty_and_none_is_called_after_nothing() -> None:
    for path in modules():
        assert path.stem not in ("helpers", "utils", "common", "misc"), path
    for name in ("study", *LIBRARY):
        assert len(list((PACKAGE / name).glob("*.py"))) > 1, name


def test_a_file_name_recurs_only_for_the_same_idea() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for path in modules():
        if path.parent.name != "figures":  # a figure is called after what it shows
            homes[path.stem].add(module_name(path))
    assert {name: places for name, places in homes.items() if len(places) > 1 and name not in RECURRING} == {}


def test_files_and_functions_stay_short() -> None:
    for path in modules():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES, path
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < FUNCTION_LINES, f"{path}: {node.name}"


def strings(path: Path) -> dict[int, str]:
    """Return the string constants of a file by line, documentation aside."""
    nodes = list(ast.walk(parsed(path)))
    documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return {
        node.lineno: node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    }


def test_the_path_of_an_asset_is_written_in_the_table_of_kinds_alone() -> None:
    kinds = [value for value in vars(key).values() if isinstance(value, key.Kind)]
    asset = re.compile("|".join("/".join(kind.path).replace("{cell}", r"\S*") for kind in kinds))
    for path in modules():
        for line, text in strings(path).items():
            assert not asset.fullmatch(text), f"{path}:{line} writes {text!r}: take it from artifacts/key.py"


def test_nobody_parses_the_name_of_an_item_or_a_cell() -> None:
    separators = {"/", "__", "_audit", "_tokens"}
    parsers = {"split", "rsplit", "partition", "rpartition", "removeprefix", "removesuffix"}
    for path in modules():
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in parsers:
                arguments = {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
                assert not arguments & separators or module_name(path) in PATH_READERS, (
                    f"{path}:{node.lineno} takes a name apart: use the fields of ItemKey or Component"
                )


def test_the_sources_are_plain_python_3_11() -> None:
    for path in modules():
        parsed(path)


def test_no_test_is_named_after_bytes_which_may_hold_the_time(request: pytest.FixtureRequest) -> None:
    """Two processes that collect in different seconds must find tests of the same names."""
    for item in request.session.items:
        call = getattr(item, "callspec", None)
        for value in call.params.values() if call else ():
            assert not isinstance(value, bytes) or len(value) < 12 or ascii(value)[2:-1] not in item.nodeid, item.nodeid
