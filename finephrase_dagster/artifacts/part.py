"""The parts of a mixture: its components with their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.study.student import Mixture, largest_epochs


@dataclass(frozen=True, kw_only=True)
class Part:
    """A component of a mixture: the name that the study gives it, its share, its tokens, its audit, if that failed."""

    name: str
    weight: float
    tokens: Artifact
    audit: str | None
    failed: bool = False

    def recipe(self, despite_audit: bool) -> dict[str, Any]:
        """Return its part of the mixture's recipe; a mixture may use it although its audit failed."""
        despite = {"despite_audit": True} if self.failed and despite_audit else {}
        return {"weight": self.weight, "audit": self.audit, **despite}


def recorded_epochs(mixture: Mixture, parts: Mapping[str, Part], sequence: int) -> float:
    """Return how often a student sees the component of a mixture that is repeated most.

    Args:
        mixture: with the versions of its components' tokens; see `Lineage.mixture_spec`.

    Raises:
        ArtifactMissing: the tokens of a component are not complete.
    """
    windows = {version: part.tokens.facts["tokens"] // sequence for version, part in parts.items()}
    return largest_epochs(mixture, windows, sequence)
