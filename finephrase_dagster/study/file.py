"""The study file: YAML in, a frozen `Study` out, and errors that name the file, the field and what to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

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
from finephrase_dagster.study.loader import InvalidYaml, compose_yaml, load_yaml, read_bounded
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.spec import Study

PROMPTS = SHIPPED / "prompts"
STUDIES = SHIPPED / "studies"
REGISTRIES = {"generators": "generators.yaml", "sources": "sources.yaml", "students": "students.yaml"}
"""The registries: files with entries that every study may name, by the section of a study that they serve."""

MOST_LINES = 50  # of a message
DOCS = "docs/study-file.md"


class StudyError(FinephraseError, exit_status=2):
    """A study file, or a file that it depends on, is wrong; the message names the file, the field and what to do."""


def read_study(path: Path, catalogue: Catalogue) -> Study:
    """Read, expand and validate a study file.

    Args:
        catalogue: the names that it may use without defining them; see `finephrase_dagster.catalogue`.

    Raises:
        StudyError: there is no such file, it is not YAML, or fields are missing, unknown or contradictory.
    """
    fields = read_fields(path, "study", example="studies/demo.yaml")
    try:
        return expand_study(fields, catalogue, path.absolute().parent)
    except InvalidFields as error:
        known = partial(fields_at, Study, fields)
        raise file_error(path, error.problems, docs=DOCS, purposes=_purposes(), known=known) from error


def read_registries(folder: Path = STUDIES) -> dict[str, Registry]:
    """Read `generators.yaml`, `sources.yaml` and `students.yaml` of a folder.

    Raises:
        StudyError: one of them cannot be read, or an entry is not a name with fields.
    """
    return {
        section: Registry(path=folder / name, entries=read_registry(section, folder))
        for section, name in REGISTRIES.items()
    }


def read_registry(section: str, folder: Path = STUDIES) -> dict[str, Any]:
    """Return the entries of a registry, such as `generators`, by name. Not all fields must be there.

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
        kind: the kind of file, for messages.
        example: an example of such a file in the project, for messages.

    Raises:
        StudyError: the file cannot be read, is not YAML, or has no fields.
    """
    try:
        fields = load_yaml(read_bounded(path))
    except InvalidYaml as error:
        if error.line is None:
            raise StudyError(f"{path}: {error}") from error
        place = f"lines {error.began} to {error.line}" if error.began else f"line {error.line}"
        remedy = f"correct {place}" + (", or name another file with --study" if kind == "study" else "")
        raise StudyError(f"{path}:{error.line}: not valid YAML: {error}; {remedy}") from error
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that no file can have
        raise StudyError(_unreadable(path, kind, error)) from error
    if not isinstance(fields, dict) or not fields:
        raise StudyError(f"{path}: has no fields; see {example} for an example")
    return fields


def shipped_studies() -> list[Path]:
    """Return the study files in `studies/`, the demo first."""
    others = (*REGISTRIES.values(), "figures.yaml", "sweep.yaml")
    studies = [path for path in STUDIES.glob("*.yaml") if path.name not in others]
    return sorted(studies, key=lambda path: (path.stem != "demo", path.name))


def _unreadable(path: Path, kind: str, error: OSError | ValueError) -> str:
    """Return the message for a file that cannot be read as text."""
    match error:
        case FileNotFoundError():
            studies = ", ".join(str(other.relative_to(SHIPPED)) for other in shipped_studies())
            remedy = f"name one with --study or FINEPHRASE_STUDY, such as {studies}" if kind == "study" else "create it"
            return f"{path}: no such {kind} file; {remedy}"
        case IsADirectoryError():
            return f"{path}: is a folder; name a file in it"
        case UnicodeDecodeError():
            line = error.object.count(b"\n", 0, error.start) + 1
            return f"{path}:{line}: is not UTF-8; save the file as UTF-8"
    reason = getattr(error, "strerror", None) or error
    return f"{path}: cannot be read ({reason}); check the path and its permissions"


def file_error(
    path: Path,
    problems: list[Problem],
    *,
    docs: str | None = None,
    purposes: Mapping[str, str] | None = None,
    known: Callable[[FieldPath], Mapping[str, FieldInfo]] = lambda path: {},
) -> StudyError:
    """Return the error for a file with these problems; see `problem_lines`."""
    found = problem_lines(problems, docs=docs, purposes=purposes, known=known, line_of=_lines_of(path))
    if len(found) == 1:
        ((line, message),) = found
        return StudyError(f"{path}:{line}: {message}" if line else f"{path}: {message}")
    found.sort(key=lambda one: one[0] or 0)
    lines = [f"line {line}: {message}" if line else message for line, message in found[:MOST_LINES]]
    more = [f"and {len(found) - MOST_LINES:,} more"] if len(found) > MOST_LINES else []
    text = "\n".join(f"  {line}" for line in [*lines, *more])
    return StudyError(f"{path} has {len(found):,} problems:\n{text}")


def _lines_of(path: Path) -> Callable[[FieldPath], int | None]:
    """Return a function that finds the line of a field, or else of what should contain it, in a file."""
    try:
        root = compose_yaml(read_bounded(path))
    except (InvalidYaml, OSError, ValueError):  # the file has changed since
        root = None

    def line_of(field: FieldPath) -> int | None:
        node, line = root, None
        for part in field:
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == str(part)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                found = [(node.value[part], node.value[part])]
            else:
                break
            if not found:
                break
            key, node = found[0]
            line = key.start_mark.line + 1
        return line

    return line_of


@cache
def _purposes() -> dict[str, str]:
    """Return what each field of a study file is for."""
    fields = {name: str(field.description) for name, field in Study.model_fields.items()}
    return {**fields, "mixture_grids": "many mixtures in few lines", "defaults": "fields that entries have in common"}
