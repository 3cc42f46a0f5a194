"""The study file: YAML in, a frozen `Study` out, and errors that name file, field and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.catalogue import Catalogue, Registry
from finephrase_dagster.study.expand import full_study
from finephrase_dagster.study.fields import Name
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.problems import NAME, InvalidFields, Problem, shown, told
from finephrase_dagster.study.spec import Study

PROMPTS = SHIPPED / "prompts"
STUDIES = SHIPPED / "studies"
REGISTRIES = {"generators": "generators.yaml", "sources": "sources.yaml"}
"""The files that hold what every study may name, by the section of a study that they serve."""

LARGEST_FILE = 8 * 2**20  # bytes
LARGEST_TREE = 1_000_000  # values, each as often as aliases repeat it
DEEPEST = 20
MOST_LINES = 50  # of a message

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class StudyError(FinephraseError, exit_status=2):
    """A study file, or another that a person wrote for it, is wrong; the message names file, field and remedy."""


class _Loader(yaml.SafeLoader):
    """A safe loader to whom every key is a text, and which refuses one that stands twice.

    YAML reads the name 1_7 as a number and `on` as true, and lets the later of two equal keys win.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a name is no plain text; write 'name:'", problem_mark=key.start_mark
                )
            if key.tag == _MERGE:
                continue
            if key.value in seen:
                problem = f"{key.value!r} is defined twice; names are unique"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
            key.tag = _TEXT
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            # such as a date that does not exist, or a tag that says another type than the value has
            kind = node.tag.rpartition(":")[2]
            problem = (
                f"{shown(node.value)} looks like a value of type {kind} and is none; put it in quotes if it is a text"
            )
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def read_study(path: Path, catalogue: Catalogue) -> Study:
    """Read, expand and validate a study file.

    Args:
        path: the file.
        catalogue: the names that it may use without defining them; see `finephrase_dagster.catalogue`.

    Raises:
        StudyError: there is no such file, it is not YAML, or fields are missing, unknown or contradictory.
    """
    fields = read_fields(path, "study", example="studies/demo.yaml")
    try:
        return full_study(fields, catalogue)
    except InvalidFields as error:
        raise wrong_file("study", path, error.problems) from error


def read_registries(folder: Path = STUDIES) -> dict[str, Registry]:
    """Read `generators.yaml` and `sources.yaml` of a folder.

    Raises:
        StudyError: one of them cannot be read, or an entry is not a name with fields.
    """
    return {
        section: Registry(path=folder / name, entries=read_registry(section, folder))
        for section, name in REGISTRIES.items()
    }


def read_registry(section: str, folder: Path = STUDIES) -> dict[str, Any]:
    """The entries of a registry, `generators` or `sources`, by name; fields that a study must say are not in them.

    Raises:
        StudyError: it cannot be read, or an entry is not a name with fields.
    """
    path = folder / REGISTRIES[section]
    entries = read_fields(path, "registry", example=f"studies/{path.name}")
    wrong = []
    for name, entry in entries.items():
        try:
            _NAME.validate_python(name)
        except ValidationError:
            wrong.append(Problem((name,), f"is no name; write {NAME}"))
        if not isinstance(entry, dict):
            wrong.append(Problem((name,), f"is {shown(entry)}; write its fields, a line each, indented below it"))
    if wrong:
        raise wrong_file("registry", path, wrong)
    return entries


def read_fields(path: Path, kind: str, *, example: str) -> dict[str, Any]:
    """The fields of a YAML file.

    Args:
        path: the file.
        kind: what it is, for messages.
        example: a file of the project that shows what belongs there.

    Raises:
        StudyError: it cannot be read, is not YAML, or holds no fields.
    """
    text = _text(path, kind)
    try:
        fields = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise StudyError(f"{kind} {path}:{line + 1}: not valid YAML: {problem}") from error
    except RecursionError as error:
        raise StudyError(f"{kind} {path}: is nested more than {DEEPEST} levels deep; write it flatter") from error
    if not isinstance(fields, dict) or not fields:
        raise StudyError(f"{kind} {path}: holds no fields; {example} shows what belongs there")
    if flaw := _overgrown(fields):
        raise StudyError(f"{kind} {path}: {flaw}")
    return fields


def _text(path: Path, kind: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise StudyError(f"{kind} {path}: is larger than {LARGEST_FILE // 2**20} MiB; name the right file")
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        known = ", ".join(
            str(other.relative_to(SHIPPED))
            for other in sorted(STUDIES.glob("*.yaml"))
            if other.name not in (*REGISTRIES.values(), "figures.yaml")
        )
        remedy = (
            f"the project has {known}. Name one: FINEPHRASE_STUDY or --study" if kind == "study" else "put it there"
        )
        raise StudyError(f"{kind} {path}: no such file; {remedy}") from error
    except IsADirectoryError as error:
        raise StudyError(f"{kind} {path}: is a folder; name the file in it") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{kind} {path}:{line}: cannot be read as UTF-8; save the file as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"{kind} {path}: cannot be read ({reason}); make it a file that you may read") from error


def _overgrown(fields: dict[str, Any]) -> str | None:
    """Why fields cannot be worked on; aliases make small files endless."""
    waiting: list[tuple[Any, int]] = [(fields, 0)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
        count += len(inner)
        if depth > DEEPEST:
            return f"is nested more than {DEEPEST} levels deep, perhaps by an alias of itself; write it flatter"
        if count > LARGEST_TREE:
            return f"holds more than {LARGEST_TREE:,} values; use fewer aliases"
        waiting += [(one, depth + 1) for one in inner]
    return None


def wrong_file(kind: str, path: Path, problems: list[Problem]) -> StudyError:
    """What is raised of a file with these mistakes."""
    lines = told(problems)
    more = [f"and {len(lines) - MOST_LINES:,} more"] if len(lines) > MOST_LINES else []
    text = "\n".join(f"  {line}" for line in [*lines[:MOST_LINES], *more])
    return StudyError(f"{kind} {path} is wrong in {len(lines):,} place{'s' * (len(lines) > 1)}:\n{text}")
