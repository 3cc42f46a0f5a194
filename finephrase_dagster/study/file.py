"""The study file: YAML in, a frozen `Study` out, and errors that name the file, the field and what to write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.catalogue import Catalogue, Registry
from finephrase_dagster.study.expand import expand_study
from finephrase_dagster.study.fields import (
    NAME_ADAPTER,
    NAME_RULE,
    FieldPath,
    InvalidFields,
    Problem,
    describe,
    fields_at,
    problem_lines,
)
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.spec import Study

PROMPTS = SHIPPED / "prompts"
STUDIES = SHIPPED / "studies"
REGISTRIES = {"generators": "generators.yaml", "sources": "sources.yaml"}
"""The registries: files with entries that every study may name, by the section of a study that they serve."""

LARGEST_FILE = 8 * 2**20  # bytes
LARGEST_TREE = 1_000_000  # values, counted each time that an alias repeats them
DEEPEST = 20
MOST_LINES = 50  # of a message
DOCS = "docs/study-file.md"

_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class StudyError(FinephraseError, exit_status=2):
    """A study file, or a file that it depends on, is wrong; the message names the file, the field and what to do."""


class _Loader(yaml.SafeLoader):
    """A safe loader for YAML 1.2's core schema that reads every key as a text and refuses a key that is repeated.

    PyYAML itself follows YAML 1.1, where `no` is false, 010 is 8, 10:00 is 600 and 1e9 is a text. Here the first is
    a text, the second is refused, the third is a text and the fourth a number; 10_000 stays a number. Explicit tags
    such as `!!set` are refused.
    """

    merged = 0
    """Fields that merge keys (`<<`) have copied so far."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(
                problem=f"the tag {event.tag!r} cannot be used here; remove it", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(
                    problem="a name must be plain text; write 'name:'", problem_mark=key.start_mark
                )
            if key.tag == _MERGE:
                continue
            if key.value in seen:
                problem = f"{key.value!r} is defined twice; names must be unique"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
            key.tag = _TEXT
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge the fields of `<<` into a mapping, each name once, so that repeated merges do not multiply."""
        for key, value in node.value:
            if key.tag == _MERGE:
                for part in value.value if isinstance(value, yaml.SequenceNode) else (value,):
                    if isinstance(part, yaml.MappingNode):
                        self.flatten_mapping(part)
                        self.merged += len(part.value)
                if self.merged > LARGEST_TREE:
                    raise yaml.MarkedYAMLError(
                        problem=f"merge keys (<<) copy more than {LARGEST_TREE:,} fields; use fewer",
                        problem_mark=key.start_mark,
                    )
        super().flatten_mapping(node)
        node.value = list({key.value: (key, value) for key, value in node.value}.values())

    def construct_scalar_value(self, node: yaml.ScalarNode) -> Any:
        """Return a number, a truth value or null as YAML 1.2 reads it; 20e9 tokens are a whole number."""
        text = str(node.value)
        match node.tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                if re.match(r"[-+]?0[0-9_]", text):
                    problem = f"{describe(text)} begins with 0; write the number without it, or a text in quotes"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
                return int(text, 0)
        value = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        return int(value) if "e" in text.lower() and value.is_integer() else value

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{describe(node.value)} looks like a {kind} but is none; put it in quotes if it is a text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


_Loader.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form})$"), _first)
    if _tag != "merge":
        _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_scalar_value)
_Loader.add_constructor(_MERGE, lambda _, node: node.value)  # `<<` as a value is a text


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
        return expand_study(fields, catalogue)
    except InvalidFields as error:
        known = partial(fields_at, Study, fields)
        raise file_error(path, error.problems, docs=DOCS, purposes=_purposes(), known=known) from error


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
    """Return the entries of a registry, `generators` or `sources`, by name. Not all fields must be there.

    Raises:
        StudyError: the file cannot be read, or an entry is not a name with fields.
    """
    path = folder / REGISTRIES[section]
    entries = read_fields(path, "registry", example=f"studies/{path.name}")
    problems = []
    for name, entry in entries.items():
        try:
            NAME_ADAPTER.validate_python(name)
        except ValidationError:
            problems.append(Problem((name,), f"is not a valid name; use {NAME_RULE}"))
        if not isinstance(entry, dict):
            problems.append(Problem((name,), f"is {describe(entry)}; write its fields indented below it"))
    if problems:
        raise file_error(path, problems)
    return entries


def read_fields(path: Path, kind: str, *, example: str) -> dict[str, Any]:
    """Return the fields of a YAML file.

    Args:
        path: the file.
        kind: the kind of file, for messages.
        example: an example of such a file in the project, for messages.

    Raises:
        StudyError: the file cannot be read, is not YAML, or has no fields.
    """
    text = _text(path, kind)
    try:
        fields = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        remedy = f"correct line {line + 1}" + (", or name another file with --study" if kind == "study" else "")
        raise StudyError(f"{path}:{line + 1}: not valid YAML: {problem}; {remedy}") from error
    except RecursionError as error:
        raise StudyError(f"{path}: is nested more than {DEEPEST} levels deep; write it flatter") from error
    if not isinstance(fields, dict) or not fields:
        raise StudyError(f"{path}: has no fields; see {example} for an example")
    if flaw := _overgrown(fields):
        raise StudyError(f"{path}: {flaw}")
    return fields


def _text(path: Path, kind: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise StudyError(f"{path}: is larger than {LARGEST_FILE // 2**20} MiB, too large for a {kind} file")
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        studies = ", ".join(
            str(other.relative_to(SHIPPED))
            for other in sorted(STUDIES.glob("*.yaml"))
            if other.name not in (*REGISTRIES.values(), "figures.yaml")
        )
        remedy = f"name one with --study or FINEPHRASE_STUDY, such as {studies}" if kind == "study" else "create it"
        raise StudyError(f"{path}: no such {kind} file; {remedy}") from error
    except IsADirectoryError as error:
        raise StudyError(f"{path}: is a folder; name a file in it") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{path}:{line}: is not UTF-8; save the file as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"{path}: cannot be read ({reason}); check the path and its permissions") from error


def _overgrown(fields: dict[str, Any]) -> str | None:
    """Return why fields are too large to work on, which aliases make of a small file; None if they are not."""
    waiting: list[tuple[Any, int]] = [(fields, 0)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
        count += len(inner)
        if depth > DEEPEST:
            return f"is nested more than {DEEPEST} levels deep, perhaps by an alias of itself; write it flatter"
        if count > LARGEST_TREE:
            return f"has more than {LARGEST_TREE:,} values; use fewer aliases"
        waiting += [(one, depth + 1) for one in inner]
    return None


def file_error(
    path: Path,
    problems: list[Problem],
    *,
    docs: str | None = None,
    purposes: Mapping[str, str] | None = None,
    known: Callable[[FieldPath], Iterable[str]] = lambda path: (),
) -> StudyError:
    """Return the error for a file with these problems; see `problem_lines`."""
    lines = problem_lines(problems, docs=docs, purposes=purposes, known=known)
    if len(lines) == 1:
        return StudyError(f"{path}: {lines[0]}")
    more = [f"and {len(lines) - MOST_LINES:,} more"] if len(lines) > MOST_LINES else []
    text = "\n".join(f"  {line}" for line in [*lines[:MOST_LINES], *more])
    return StudyError(f"{path} has {len(lines):,} problems:\n{text}")


@cache
def _purposes() -> dict[str, str]:
    """Return what each field of a study file is for."""
    fields = {name: str(field.description) for name, field in Study.model_fields.items()}
    return {**fields, "mixture_grids": "many mixtures in few lines", "defaults": "fields that entries have in common"}
