"""The catalogue: every name that a study file may use without defining it, and every gate with its settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, ValidationInfo

from finephrase_dagster.study.fields import InvalidFields, Problem, describe, no_such_name
from finephrase_dagster.study.prompt import Check
from finephrase_dagster.study.source import SourceSpec

FORMS = "forms"
"""The key of a gate's settings that holds what differs for a form: settings by a prompt's `check`."""


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
        gates: each gate's settings with their defaults. Every gate has `threshold` (one that is at most 1 by default
            is a share), `blocking`, and `forms`: settings that differ by form.
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


def complete_gates(section: Mapping[Any, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the settings of every gate: given ones, over the gates' own defaults.

    A setting that is given replaces the default of all forms, unless the form's own is given under `forms`.

    Args:
        section: settings by gate. A single value is the threshold.
        defaults: all settings of each gate; `forms` holds those that differ by form.

    Raises:
        InvalidFields: an unknown gate, setting or form, or a value that a setting cannot have.
    """
    if problems := list(_problems(section, defaults)):
        raise InvalidFields(problems)
    complete = {}
    for name, known in defaults.items():
        given = _plain(_settings(section.get(name, {})))
        own = {form: _plain(_settings(entry)) for form, entry in given.pop(FORMS, {}).items()}
        kept = {
            form: {key: value for key, value in of.items() if key not in given} for form, of in known[FORMS].items()
        }
        forms = {form: {**kept.get(form, {}), **own.get(form, {})} for form in {**kept, **own}}
        complete[name] = {**known, **given, FORMS: {form: settings for form, settings in forms.items() if settings}}
    return complete


def settings_for(gates: Mapping[str, Mapping[str, Any]], check: str | None) -> dict[str, dict[str, Any]]:
    """Return each gate's settings for the completions of one form, from complete settings."""
    merged = {name: {**settings, **settings[FORMS].get(check, {})} for name, settings in gates.items()}
    return {name: {key: value for key, value in settings.items() if key != FORMS} for name, settings in merged.items()}


def _settings(entry: Any) -> dict[str, Any]:
    return dict(entry) if isinstance(entry, Mapping) else {"threshold": entry}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the threshold as a float, so that 1 and 1.0 are the same setting."""
    return {key: float(value) if key == "threshold" else value for key, value in settings.items()}


def _problems(section: Mapping[Any, Any], defaults: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    for name, entry in section.items():
        if name not in defaults:
            yield Problem((name,), no_such_name(name, defaults))
            continue
        forms = entry.get(FORMS, {}) if isinstance(entry, Mapping) else {}
        yield from _setting_problems((name,), entry, defaults[name])
        if not isinstance(forms, Mapping):
            yield Problem(
                (name, FORMS), f"is {describe(forms)}; must be settings by form: {', '.join(get_args(Check))}"
            )
            continue
        for form, own in forms.items():
            if form not in get_args(Check):
                yield Problem((name, FORMS, form), no_such_name(form, get_args(Check)))
            elif isinstance(own, Mapping) and FORMS in own:
                yield Problem((name, FORMS, form, FORMS), "a form has no forms; remove it")
            else:
                yield from _setting_problems((name, FORMS, form), own, defaults[name])


def _setting_problems(path: tuple[Any, ...], entry: Any, known: Mapping[str, Any]) -> Iterator[Problem]:
    for setting, value in _settings(entry).items():
        place = (*path, setting) if isinstance(entry, Mapping) else path
        if setting not in known:
            yield Problem(place, no_such_name(setting, known))
        elif setting != FORMS and (requirement := _unmet_requirement(setting, value, known[setting])):
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
    return complete_gates(section, catalogue_of(info).gates) if isinstance(section, Mapping) else section


Gates = Annotated[Mapping[str, Mapping[str, Any]], BeforeValidator(_complete)]
"""The section `gates` of a study: what a dataset must pass before a mixture may use it, as settings of every gate by
its name. A study file may give a number, the threshold, instead of settings."""
