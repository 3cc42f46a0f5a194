"""The library: what a study file may name without defining it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Entries that every study may name: generators or sources, by name."""

    path: Path
    entries: Mapping[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Library:
    """What a study file may name without defining it.

    Attributes:
        registries: of `generators` and of `sources`.
        prompts: the names of all prompt files.
    """

    registries: Mapping[str, Registry]
    prompts: tuple[str, ...]
