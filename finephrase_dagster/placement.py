"""Where a stage runs: the pool whose slot its run holds, and what the cluster's pods are told. None of it is identity.

An asset takes its placement whole: `@dg.multi_asset(..., **rephrasing(generator).arguments)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finephrase_dagster.study.generator import Generator

ACCELERATOR = "accelerator"
"""The pool of everything that keeps a device busy; its limit stands in the instance's settings."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What Dagster is told of an asset's runs.

    Attributes:
        pool: of which a run holds a slot from beginning to end; None where no device is needed.
        op_tags: for the executor.
    """

    pool: str | None = None
    op_tags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `dg.multi_asset`."""
        return {"pool": self.pool, "op_tags": dict(self.op_tags) or None}


def rephrasing(generator: Generator) -> Placement:
    """Of a cell: its engine holds the generator's GPUs."""
    return Placement(pool=ACCELERATOR)


def making_models() -> Placement:
    """Of the generators: some are trained here."""
    return Placement(pool=ACCELERATOR)


def training() -> Placement:
    """Of students."""
    return Placement(pool=ACCELERATOR)


def evaluating() -> Placement:
    """Of scores."""
    return Placement(pool=ACCELERATOR)


def preparing() -> Placement:
    """Of everything that needs no device: corpora, tokens, mixtures, audits, the leaderboard, the plan."""
    return Placement()
