"""The catalogue: every name that a study file may use without defining it, and every gate with its settings."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, ValidationInfo

from finephrase_dagster.study.fields import InvalidFields, Problem, describe, no_such_name
from finephrase_dagster.study.prompt import Check
from finephrase_dagster.study.source import SourceSpec

FORMS, PROMPTS = "forms", "prompts"
"""The keys of a gate's settings that hold what differs for a form (a prompt's `check`) and for a prompt."""
FACTS = ("version", "by_row")
"""What is known of a gate's code, among its settings; a study cannot set it."""


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
        gates: each gate's settings with their defaults. Every gate has `threshold` (one that is at most 1 by default
            is a share), `blocking`, `FACTS`, and `forms` and `prompts`: settings that differ by form and by prompt.
        tasks: each benchmark's category; None for a benchmark that is evaluated but counts for no mean.
    """

    registries: Mapping[str, Registry]
    prompts: tuple[str, ...]
    source_kinds: Mapping[str, type[SourceSpec]]
    gates: Mapping[str, Mapping[str, Any]]
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


def complete_gates(
    section: Mapping[Any, Any], defaults: Mapping[str, Mapping[str, Any]], prompts: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return the settings of every gate: given ones, over defaults.

    A setting that is given replaces the default of all forms and prompts, unless their own is given, too.

    Args:
        section: settings by gate, and by prompt as settings by gate. A single value is the threshold.
        defaults: all settings of each gate; `forms` and `prompts` hold those that differ by form and by prompt.

    Raises:
        InvalidFields: an unknown gate, setting, form or prompt, or a value that a setting cannot have.
    """
    if problems := list(_problems(section, defaults, prompts)):
        raise InvalidFields(problems)
    given = {name: _plain(_settings(section.get(name, {}))) for name in defaults}
    for prompt in section.keys() - defaults.keys():
        for name, entry in section[prompt].items():
            given[name][PROMPTS] = {**given[name].get(PROMPTS, {}), prompt: entry}
    return {name: _over(known, given[name]) for name, known in defaults.items()}


def _over(known: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return all settings of a gate, given some of them."""
    narrower = {}
    for kind in (FORMS, PROMPTS):
        own = {key: _plain(_settings(entry)) for key, entry in given.pop(kind, {}).items()}
        for key, settings in known.get(kind, {}).items():
            own[key] = {**{name: value for name, value in settings.items() if name not in given}, **own.get(key, {})}
        narrower[kind] = {key: settings for key, settings in own.items() if settings}
    return {**known, **given, **narrower}


def settings_for(
    gates: Mapping[str, Mapping[str, Any]], check: str | None, prompt: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return each gate's settings for the completions of one form or prompt, from complete settings.

    A gate without the setting `blocking` never blocks.
    """
    merged = {
        name: {
            "blocking": False,
            **settings,
            **settings.get(FORMS, {}).get(check, {}),
            **settings.get(PROMPTS, {}).get(prompt, {}),
        }
        for name, settings in gates.items()
    }
    return {
        name: {key: value for key, value in settings.items() if key not in (FORMS, PROMPTS)}
        for name, settings in merged.items()
    }


def _settings(entry: Any) -> dict[str, Any]:
    return dict(entry) if isinstance(entry, Mapping) else {"threshold": entry}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the threshold as a float, so that 1 and 1.0 are the same setting."""
    return {key: float(value) if key == "threshold" else value for key, value in settings.items()}


def _problems(
    section: Mapping[Any, Any], defaults: Mapping[str, Mapping[str, Any]], prompts: Collection[str]
) -> Iterator[Problem]:
    for name, entry in section.items():
        if name in defaults:
            yield from _gate_problems((name,), entry, defaults[name], prompts)
        elif name not in prompts:
            yield Problem((name,), no_such_name(name, [*defaults, *prompts]))
        elif not isinstance(entry, Mapping):
            yield Problem((name,), f"is {describe(entry)}; must be settings by gate, such as {{form: 0.9}}")
        else:
            yield from (Problem((name, *path), message) for path, message in _problems(entry, defaults, ()))


def _gate_problems(
    path: tuple[Any, ...], entry: Any, known: Mapping[str, Any], prompts: Collection[str]
) -> Iterator[Problem]:
    yield from _setting_problems(path, entry, known)
    for kind, names in ((FORMS, get_args(Check)), (PROMPTS, prompts)):
        narrower = entry.get(kind, {}) if isinstance(entry, Mapping) else {}
        if not isinstance(narrower, Mapping):
            yield Problem(
                (*path, kind),
                f"is {describe(narrower)}; must be settings by {kind.removesuffix('s')}: {', '.join(names)}",
            )
            continue
        for name, own in narrower.items():
            if name not in names:
                yield Problem((*path, kind, name), no_such_name(name, names))
            elif isinstance(own, Mapping) and (nested := {FORMS, PROMPTS} & own.keys()):
                yield Problem(
                    (*path, kind, name, *nested), f"a {kind.removesuffix('s')} has no {' or '.join(nested)}; remove it"
                )
            else:
                yield from _setting_problems((*path, kind, name), own, known)


def _setting_problems(path: tuple[Any, ...], entry: Any, known: Mapping[str, Any]) -> Iterator[Problem]:
    for setting, value in _settings(entry).items():
        place = (*path, setting) if isinstance(entry, Mapping) else path
        if setting not in known and (setting, value) == ("blocking", False):
            continue  # as `settings_for` returns it
        if setting not in known and setting != PROMPTS:
            yield Problem(place, no_such_name(setting, [name for name in known if name not in FACTS]))
        elif setting in FACTS:
            if value != known[setting]:
                yield Problem(place, "cannot be set; remove it")
        elif setting not in (FORMS, PROMPTS) and (requirement := _unmet_requirement(setting, value, known[setting])):
            yield Problem(place, f"is {describe(value)}; must be {requirement}")


def _unmet_requirement(setting: str, value: Any, default: Any) -> str | None:
    """Return what the value of a gate's setting must be, judged by its default; None if it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, str):
        return None if isinstance(value, str) and value else "a text"
    if default is None:
        return None if is_number or value is None or (isinstance(value, str) and value) else "a text, a number or null"
    if setting == "threshold":
        if default > 1:
            return None if is_number else "a number, at least 0"
        return None if is_number and value <= 1 else "a share, from 0 to 1"
    if isinstance(default, int):
        least = min(default, 1)
        return None if is_number and isinstance(value, int) and value >= least else f"a whole number, at least {least}"
    return None if is_number else "a number, at least 0"


def _complete(section: Any, info: ValidationInfo) -> Any:
    if not isinstance(section, Mapping):
        return section
    catalogue = catalogue_of(info)
    return complete_gates(section, catalogue.gates, info.data.get("prompts") or catalogue.prompts)


def _check(section: Any, info: ValidationInfo) -> Any:
    if isinstance(section, Mapping):
        complete_gates(section, catalogue_of(info).gates, catalogue_of(info).prompts)
    return section


Gates = Annotated[Mapping[str, Mapping[str, Any]], BeforeValidator(_complete)]
"""The section `gates` of a study: what a dataset must pass before a mixture may use it, as settings of every gate by
its name. A study file may give a number, the threshold, instead of settings, and settings by prompt."""
CellGates = Annotated[Mapping[str, Any], BeforeValidator(_check)]
"""The section `gates` of a cell, as it is written; `complete_gates` sets it over that of its study."""
