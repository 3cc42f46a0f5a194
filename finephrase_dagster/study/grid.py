"""Grids: how a study file says many cells and mixtures in few lines, and what they expand to."""

from __future__ import annotations

import fnmatch
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import product
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from finephrase_dagster.study.component import Component
from finephrase_dagster.study.fields import Name, Seed, Spec
from finephrase_dagster.study.problems import NAME, InvalidFields, Problem, shown

LARGEST = 20_000
"""Cells, mixtures or student runs that a study may have: Dagster keeps a partition or an asset for each."""

_NAME: TypeAdapter[str] = TypeAdapter(Name)
Share = Annotated[float, Field(gt=0, le=1)]


class CellGrid(Spec):
    """Cells: each of the generators on each of the sources; `generator` and `source` say one of each."""

    generator: Name | None = None
    generators: tuple[Name, ...] | None = Field(default=None, min_length=1)
    source: Name | None = None
    sources: tuple[Name, ...] | None = Field(default=None, min_length=1)
    prompts: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="default: all prompts of the study"
    )

    @model_validator(mode="after")
    def _says_one(self) -> CellGrid:
        wrong = []
        for one, many in (("generator", "generators"), ("source", "sources")):
            said = [name for name in (one, many) if getattr(self, name) is not None]
            if not said:
                wrong.append(Problem((one,), f"is missing; add it, or {many!r} for several"))
            elif len(said) == 2:
                wrong.append(Problem((one,), f"stands beside {many!r}; write one of them"))
        if self.size > LARGEST:
            wrong.append(Problem((), f"stands for {self.size:,} cells; a study may have {LARGEST:,}"))
        if wrong:
            raise InvalidFields(wrong)
        return self

    @property
    def size(self) -> int:
        """How many cells these are."""
        return len(self.sources or (0,)) * len(self.generators or (0,))

    def cells(self) -> Iterator[dict[str, Any]]:
        """The fields of each cell."""
        for source in self.sources or (self.source,):
            for generator in self.generators or (self.generator,):
                cell: dict[str, Any] = {"generator": generator, "source": source}
                yield cell if self.prompts is None else {**cell, "prompts": list(self.prompts)}


class MixtureGrid(Spec):
    """Mixtures: each of the synthetic datasets with a source, at each of the shares.

    `name` and `mix_in` may hold {generator}, {source}, {prompt} and, in `name` alone, {mix_in} and {percent},
    the share of the synthetic dataset: 33_3 of a share of 0.333.
    """

    name: str = Field(min_length=1)
    datasets: tuple[str, ...] = Field(min_length=1, description="names, or patterns with * and ?")
    mix_in: str | None = Field(default=None, min_length=1, description="a source; without it shares are 1")
    shares: tuple[Share, ...] | None = Field(
        default=None, min_length=1, description="of the synthetic dataset; said if and only if there is a mix_in"
    )
    tokens: int | None = Field(default=None, ge=1)
    seed: Seed | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> MixtureGrid:
        wrong = []
        if flaw := _template_flaw(self.name, ("generator", "source", "prompt", "mix_in", "percent")):
            wrong.append(Problem(("name",), flaw))
        if self.mix_in is None:
            if self.shares not in (None, (1.0,)):
                wrong.append(Problem(("shares",), "nothing else is in the mixture; add 'mix_in'"))
            if "{mix_in}" in self.name:
                wrong.append(Problem(("name",), "holds {mix_in} and there is none; add 'mix_in'"))
        else:
            if self.shares is None:
                wrong.append(Problem(("shares",), "is missing; say which part the synthetic dataset has, as [0.5]"))
            if flaw := _template_flaw(self.mix_in, ("generator", "source", "prompt")):
                wrong.append(Problem(("mix_in",), flaw))
        if wrong:
            raise InvalidFields(wrong)
        return self

    def mixtures(self, datasets: Mapping[str, Component]) -> dict[str, dict[str, Any]]:
        """The fields of each mixture by its name.

        Args:
            datasets: all synthetic datasets of the study, by name.

        Raises:
            InvalidFields: patterns that name no dataset, names that are none, or one for several mixtures.
        """
        said = {key: value for key, value in (("tokens", self.tokens), ("seed", self.seed)) if value is not None}
        shares = self.shares or (1.0,)
        chosen = self._chosen(datasets)
        if len(chosen) * len(shares) > LARGEST:
            message = f"stands for {len(chosen) * len(shares):,} mixtures; a study may have {LARGEST:,}"
            raise InvalidFields([Problem((), message)])
        found: dict[str, dict[str, Any]] = {}
        for dataset, share in product(chosen, shares):
            mix_in = self.mix_in.format(**asdict(dataset)) if self.mix_in else None
            name = self.name.format(**asdict(dataset), mix_in=mix_in, percent=_percent(share))
            if mix_in:
                _check_name("mix_in", mix_in, "a source is called by")
            _check_name("name", name, "a mixture is called by")
            if name in found:
                message = f"{name!r} stands for several mixtures; make their names differ, by {{percent}} for example"
                raise InvalidFields([Problem(("name",), message)])
            components = {dataset.name: share}
            if mix_in and share < 1:
                components = {mix_in: round(1 - share, 12), **components}
            found[name] = {"components": components, **said}
        return found

    def _chosen(self, datasets: Mapping[str, Component]) -> list[Component]:
        found = matching(self.datasets, datasets)
        wrong = [
            Problem(
                ("datasets", index),
                f"{shown(pattern)} names no synthetic dataset; they are called <generator>__<source>/<prompt>",
            )
            for index, pattern in enumerate(self.datasets)
            if not found[pattern]
        ]
        if wrong:
            raise InvalidFields(wrong)
        return [datasets[name] for name in dict.fromkeys(name for names in found.values() for name in names)]


def matching(patterns: Iterable[str], names: Mapping[str, object]) -> dict[str, list[str]]:
    """What each pattern stands for: the name that it is, or all that it matches."""
    return {
        pattern: [pattern] if pattern in names else fnmatch.filter(names, pattern)
        for pattern in dict.fromkeys(patterns)
    }


def _percent(share: float) -> str:
    return f"{100 * share:g}".replace(".", "_")


def _check_name(field: str, name: str, subject: str) -> None:
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        message = f"gives {shown(name)}; {subject} {NAME}: shorten it or write it otherwise"
        raise InvalidFields([Problem((field,), message)]) from error


def _template_flaw(template: str, known: tuple[str, ...]) -> str | None:
    """What else than these names a template holds."""
    remedy = f"write {', '.join('{' + name + '}' for name in known)} alone"
    try:
        for _, name, form, conversion in string.Formatter().parse(template):
            if name is not None and (name not in known or form or conversion):
                return f"{shown(template)} holds {{{name}}}; {remedy}"
    except ValueError as error:
        return f"{shown(template)}: {error}; {remedy}"
    return None
