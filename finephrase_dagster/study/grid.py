"""Grids and derived mixtures: many entries in few lines of a study file, and what they expand to.

A derived mixture is made from another one, to separate its effect from something else. `from` takes the fields of
another mixture. `replicate_of` takes them too, and other seeds: both arms of this A/A pair must come out alike.
`control_of` shuffles the words of each document: this negative control must lose. With `match_epochs_of`, students see
their text as often as with another mixture.
"""

from __future__ import annotations

import fnmatch
import string
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from finephrase_dagster.study.component import Component
from finephrase_dagster.study.fields import (
    LARGEST_GRID,
    MISSING,
    NAME_ADAPTER,
    NAME_RULE,
    InvalidFields,
    Name,
    Problem,
    Seed,
    Spec,
    describe,
    no_such_name,
)
from finephrase_dagster.study.generator import Keep, OnFailure, Rollouts
from finephrase_dagster.study.student import SEED_SHIFT, Mixture, StudentRun

FROM = "from"
ORIGINS = (FROM, "replicate_of", "control_of")
"""The fields that name the mixture that another one is derived from."""

Share = Annotated[float, Field(gt=0, le=1)]


class CellGrid(Spec):
    """Cells: each of the generators on each of the sources. `generator` and `source` name a single one."""

    generator: Name | None = Field(default=None, examples=["embedded"])
    generators: tuple[Name, ...] | None = Field(default=None, min_length=1)
    source: Name | None = Field(default=None, examples=["my_files"])
    sources: tuple[Name, ...] | None = Field(default=None, min_length=1)
    prompts: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="default: all prompts of the study"
    )
    guided: bool | None = None
    rollouts: Rollouts | None = None
    keep: Keep | None = None
    on_failure: OnFailure | None = None
    reuse: bool | None = None
    gates: Mapping[str, Any] | None = None

    @model_validator(mode="after")
    def _check_names(self) -> CellGrid:
        problems = []
        for one, many in (("generator", "generators"), ("source", "sources")):
            given = [name for name in (one, many) if getattr(self, name) is not None]
            if not given:
                problems.append(Problem((one,), MISSING))
            elif len(given) == 2:
                problems.append(Problem((one,), f"cannot be combined with {many!r}; write one of them"))
        if self.size > LARGEST_GRID:
            problems.append(Problem((), f"expands to {self.size:,} cells; a study may have {LARGEST_GRID:,}"))
        if problems:
            raise InvalidFields(problems)
        return self

    @property
    def size(self) -> int:
        """The number of cells."""
        return len(self.sources or (0,)) * len(self.generators or (0,))

    def cells(self) -> Iterator[dict[str, Any]]:
        """Yield the fields of each cell."""
        for source in self.sources or (self.source,):
            for generator in self.generators or (self.generator,):
                cell: dict[str, Any] = {"generator": generator, "source": source}
                if self.prompts is not None:
                    cell["prompts"] = list(self.prompts)
                names = ("guided", "rollouts", "keep", "on_failure", "reuse", "gates")
                shared = {name: getattr(self, name) for name in names}
                yield cell | {name: value for name, value in shared.items() if value is not None}


class MixtureGrid(Spec):
    """Mixtures: each of the synthetic datasets with a source, at each of the shares.

    `name` and `mix_in` may contain {generator}, {source} and {prompt}; `name` may also contain {mix_in} and {percent},
    the share of the synthetic dataset in percent (33_3 for a share of 0.333).
    """

    name: str = Field(min_length=1, examples=["{prompt}_{percent}"])
    datasets: tuple[str, ...] = Field(
        min_length=1, description="names, or patterns with * and ?", examples=[["my_model__my_files/*"]]
    )
    mix_in: str | None = Field(default=None, min_length=1, description="a source; default: none")
    shares: tuple[Share, ...] | None = Field(
        default=None,
        min_length=1,
        description="shares of the synthetic dataset; needed with a mix_in",
    )
    tokens: int | None = Field(default=None, ge=1)
    seed: Seed | None = None
    epochs: float | None = Field(default=None, ge=1)
    match_epochs_of: Name | None = None

    @model_validator(mode="after")
    def _check_templates(self) -> MixtureGrid:
        problems = []
        if flaw := _template_flaw(self.name, ("generator", "source", "prompt", "mix_in", "percent")):
            problems.append(Problem(("name",), flaw))
        if self.mix_in is None:
            if self.shares not in (None, (1.0,)):
                problems.append(Problem(("shares",), "have no effect without 'mix_in'; add it, or remove them"))
            if "{mix_in}" in self.name:
                problems.append(Problem(("name",), "contains {mix_in}, but the field 'mix_in' is missing; add it"))
        else:
            if self.shares is None:
                problems.append(Problem(("shares",), MISSING))
            if flaw := _template_flaw(self.mix_in, ("generator", "source", "prompt")):
                problems.append(Problem(("mix_in",), flaw))
        if problems:
            raise InvalidFields(problems)
        return self

    def mixtures(self, datasets: Mapping[str, Component]) -> dict[str, dict[str, Any]]:
        """Return the fields of each mixture by its name.

        Args:
            datasets: all synthetic datasets of the study, by name.

        Raises:
            InvalidFields: a pattern matches no dataset, a name is invalid, or two mixtures have the same name.
        """
        names = ("tokens", "seed", "epochs", "match_epochs_of")
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        shares = self.shares or (1.0,)
        chosen = self._chosen(datasets)
        if len(chosen) * len(shares) > LARGEST_GRID:
            message = f"expands to {len(chosen) * len(shares):,} mixtures; a study may have {LARGEST_GRID:,}"
            raise InvalidFields([Problem((), message)])
        mixtures: dict[str, dict[str, Any]] = {}
        for dataset, share in product(chosen, shares):
            mix_in = self.mix_in.format(**vars(dataset)) if self.mix_in else None
            name = self.name.format(**vars(dataset), mix_in=mix_in, percent=_percent(share))
            if mix_in:
                _check_name("mix_in", mix_in, "a source")
            _check_name("name", name, "a mixture")
            if name in mixtures:
                message = (
                    f"several mixtures would be called {name!r}; make the names differ, for example by {{percent}}"
                )
                raise InvalidFields([Problem(("name",), message)])
            components = {dataset.name: share}
            if mix_in and share < 1:
                components = {mix_in: round(1 - share, 12), **components}
            mixtures[name] = {"components": components, **own}
        return mixtures

    def _chosen(self, datasets: Mapping[str, Component]) -> list[Component]:
        matches = matching(self.datasets, datasets)
        problems = [
            Problem(
                ("datasets", index),
                f"{describe(pattern)} matches no synthetic dataset; their names are <generator>__<source>/<prompt>",
            )
            for index, pattern in enumerate(self.datasets)
            if not matches[pattern]
        ]
        if problems:
            raise InvalidFields(problems)
        return [datasets[name] for name in dict.fromkeys(name for names in matches.values() for name in names)]


def matching(patterns: Iterable[str], names: Mapping[str, object]) -> dict[str, list[str]]:
    """Return the names that each pattern matches; a pattern that is a name matches that name alone."""
    return {
        pattern: [pattern] if pattern in names else fnmatch.filter(names, pattern)
        for pattern in dict.fromkeys(patterns)
    }


def _percent(share: float) -> str:
    return f"{100 * share:g}".replace(".", "_")


def _check_name(field: str, name: str, subject: str) -> None:
    try:
        NAME_ADAPTER.validate_python(name)
    except ValidationError as error:
        message = f"gives {describe(name)}, which is not a valid name of {subject}; use {NAME_RULE}"
        raise InvalidFields([Problem((field,), message)]) from error


def _template_flaw(template: str, fields: tuple[str, ...]) -> str | None:
    """Return what is wrong with a template that may contain some fields; None if nothing is."""
    remedy = f"use only {', '.join('{' + name + '}' for name in fields)}"
    try:
        for _, name, form, conversion in string.Formatter().parse(template):
            if name is not None and (name not in fields or form or conversion):
                return f"{describe(template)} contains {{{name}}}; {remedy}"
    except ValueError as error:
        return f"{describe(template)}: {error}; {remedy}"
    return None


def is_derived(entry: Any) -> bool:
    """Return whether the fields of a mixture name another mixture, whose fields it takes."""
    return isinstance(entry, dict) and any(name in entry for name in ORIGINS)


def derive_mixtures(entries: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return the fields of all mixtures, those of derived ones in full, and what cannot be derived."""
    problems: list[Problem] = []
    derived: dict[str, Any] = {}
    for name in entries:
        _derive(name, entries, derived, problems, ())
    return {name: derived[name] for name in entries}, problems


def _derive(
    name: str, entries: Mapping[str, Any], derived: dict[str, Any], problems: list[Problem], open_names: tuple[str, ...]
) -> Any:
    if name in derived:
        return derived[name]
    entry = entries[name]
    fields: dict[str, Any] = {}
    for field in ORIGINS if is_derived(entry) else ():
        if (origin := entry.get(field)) is None:
            continue
        if not isinstance(origin, str) or origin not in entries:
            problems.append(Problem(("mixtures", name, field), no_such_name(origin, entries)))
        elif origin in (name, *open_names):
            message = f"{origin} would be derived from itself; name another mixture"
            problems.append(Problem(("mixtures", name, field), message))
        elif isinstance(base := _derive(origin, entries, derived, problems, (*open_names, name)), dict):
            fields |= {one: value for one, value in base.items() if one != "replicate_of"}
            if field == "replicate_of" and isinstance(seed := base.get("seed", 0), int):
                fields["seed"] = (seed + SEED_SHIFT) % 2**32
    if is_derived(entry):
        entry = {**fields, **{one: value for one, value in entry.items() if one != FROM}}
    derived[name] = entry
    return entry


def wrong_mixtures(mixtures: Mapping[str, Mixture], trainer: str, sequence: int) -> Iterator[Problem]:
    """Yield what is wrong with weights, with the mixtures that mixtures name, and with how often text is repeated."""
    for name, mixture in mixtures.items():
        windows = mixture.windows(sequence)
        for component in mixture.components if sum(windows.values()) else ():
            if not windows[component]:
                message = (
                    f"gets none of the {sum(windows.values())} windows of {sequence} tokens; raise its weight "
                    "or the mixture's 'tokens', or remove it"
                )
                yield Problem(("mixtures", name, "components", component), message)
        for field in ("replicate_of", "control_of", "match_epochs_of"):
            other = getattr(mixture, field)
            if other is None:
                continue
            if other not in mixtures:
                yield Problem(("mixtures", name, field), no_such_name(other, mixtures))
            elif other == name or (field == "match_epochs_of" and mixtures[other].match_epochs_of):
                message = f"{other} takes its epochs from {mixtures[other].match_epochs_of or name}; name that mixture"
                message = "is the mixture itself; name another one" if other == name else message
                yield Problem(("mixtures", name, field), message)
            elif field == "control_of" and mixtures[other].control_of:
                message = f"{other} is a control itself; name {mixtures[other].control_of}"
                yield Problem(("mixtures", name, field), message)
        for field in ("epochs", "match_epochs_of"):
            if getattr(mixture, field) is not None and trainer == "nanotron":
                message = "has no effect with 'trainer: nanotron', which reads datasets completely; remove it"
                yield Problem(("mixtures", name, field), message)
        if mixture.epochs is not None and mixture.match_epochs_of is not None:
            yield Problem(("mixtures", name, "epochs"), "cannot be combined with 'match_epochs_of'; write one of them")


def equal_replicates(mixtures: Mapping[str, Mixture], runs: Mapping[str, StudentRun]) -> Iterator[Problem]:
    """Yield the replicates that are trained with seeds of the mixture that they repeat."""
    wrong: dict[str, Collection[str]] = {}
    for run in runs.values():
        if (origin := mixtures[run.mixture].replicate_of) and run.of_mixture(origin).name in runs:
            wrong.setdefault(run.mixture, run.of_mixture(origin).name)
    for name, twin in wrong.items():
        message = f"has the seeds of {describe(twin)}; give {name} an entry of 'runs' with other seeds"
        yield Problem(("mixtures", name, "replicate_of"), message)
