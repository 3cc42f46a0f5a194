"""The catalogue: every name that a study file may use without defining it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo

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
