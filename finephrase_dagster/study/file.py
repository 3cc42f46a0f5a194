"""The study file: YAML in, a frozen `Study` out, and errors that name file, field and remedy."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finephrase_dagster.study.places import REPOSITORY
from finephrase_dagster.study.spec import Study


class StudyError(ValueError):
    """A study file is wrong; the message names file, field and remedy."""


class _UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key written twice, which YAML would let the later one win."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, Hashable) and key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"{key!r} is defined twice; names are unique", problem_mark=key_node.start_mark
            )
        if isinstance(key, Hashable):
            seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_study(path: Path) -> Study:
    """Reads and validates a study file.

    Raises:
        StudyError: no such file, not YAML, or fields that are missing, unknown or contradictory.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        others = sorted(str(other.relative_to(REPOSITORY)) for other in (REPOSITORY / "studies").glob("*.yaml"))
        raise StudyError(
            f"study {path}: no such file; the project has {', '.join(others)}. Name one: FINEPHRASE_STUDY"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"study {path}: cannot be read: {error}") from error
    try:
        fields = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise StudyError(f"study {path}{where}: not valid YAML: {problem}") from error
    if not isinstance(fields, dict):
        raise StudyError(f"study {path}: holds no fields; studies/demo.yaml shows what a study says")
    try:
        return Study.model_validate(fields)
    except ValidationError as error:
        raise StudyError(_explained(path, error)) from error


def _explained(path: Path, error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        remedy = {
            "missing": "is missing; add it",
            "extra_forbidden": "is not a field here; remove it or correct its name",
        }.get(problem["type"], message)
        lines.append(f"  {field}: {remedy}" if field else f"  {remedy}")
    return f"study {path} is wrong in {len(lines)} place{'s' * (len(lines) > 1)}:\n" + "\n".join(lines)
