"""The catalogue: every name that a study file may use without defining it, and every gate with its settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from finephrase_dagster.study.fields import InvalidFields, Problem, describe, no_such_name
from finephrase_dagster.study.source import SourceSpec


@dataclass(frozen=True, kw_only=True)
class Registry:
    """A file of generators or of sources that every study may name."""

    path: Path
    entries: Mapping[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The names that a study file may use without defining them; `finephrase_dagster.catalogue` assembles it.

    Attributes:
        registries: the registries by the section of a study that they serve: `generators` and `sources`.
        prompts: the names of all prompt files.
        source_kinds: the class of each kind of source.
        gates: each gate's settings with their defaults. Every gate has the setting `threshold`; one that is at most
            1 by default is a share.
        tasks: each benchmark's category; None for a benchmark that is evaluated but counts for no mean.
    """

    registries: Mapping[str, Registry]
    prompts: tuple[str, ...]
    source_kinds: Mapping[str, type[SourceSpec]]
    gates: Mapping[str, Mapping[str, float]]
    tasks: Mapping[str, str | None]

    @property
    def counted_tasks(self) -> tuple[str, ...]:
        """The benchmarks that make up the macro score."""
        return tuple(task for task, category in self.tasks.items() if category is not None)


def catalogue_of(info: ValidationInfo) -> Catalogue:
    """Return the catalogue that a study is validated with.

    Raises:
        TypeError: there is none.
    """
    if not isinstance(info.context, Catalogue):
        raise TypeError("a study is validated with its catalogue: Study.model_validate(fields, context=catalogue)")
    return info.context


def _complete_gates(section: Any, info: ValidationInfo) -> Any:
    """Return the settings of every gate: those of a study's section `gates`, over the gates' own defaults.

    Raises:
        InvalidFields: an unknown gate or setting, or a value that it cannot have.
    """
    if not isinstance(section, Mapping):
        return section
    defaults = catalogue_of(info).gates
    problems: list[Problem] = []
    settings: dict[str, dict[str, int | float]] = {
        name: {**values, "threshold": float(values["threshold"])} for name, values in defaults.items()
    }
    for name, entry in section.items():
        if name not in defaults:
            problems.append(Problem((name,), no_such_name(name, defaults)))
            continue
        for setting, value in (entry if isinstance(entry, Mapping) else {"threshold": entry}).items():
            path = (name, setting) if isinstance(entry, Mapping) else (name,)
            if setting not in defaults[name]:
                problems.append(Problem(path, no_such_name(setting, defaults[name])))
            elif requirement := _unmet_requirement(setting, value, defaults[name][setting]):
                problems.append(Problem(path, f"is {describe(value)}; must be {requirement}"))
            else:
                settings[name][setting] = float(value) if setting == "threshold" else value
    if problems:
        raise InvalidFields(problems)
    return settings


def _unmet_requirement(setting: str, value: Any, default: float) -> str | None:
    """Return what the value of a gate's setting must be; None if it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if setting != "threshold" and isinstance(default, int):
        return None if is_number and isinstance(value, int) and value >= 1 else "a whole number, at least 1"
    if setting == "threshold" and default <= 1:
        return None if is_number and 0 <= value <= 1 else "a share, from 0 to 1"
    return None if is_number and 0 <= value < math.inf else "a number, at least 0"


Gates = Annotated[Mapping[str, Mapping[str, int | float]], BeforeValidator(_complete_gates)]
"""The section `gates` of a study: what a dataset must pass before a mixture may use it, as settings of every gate by
its name. A study file may give a number, the threshold, instead of settings."""
