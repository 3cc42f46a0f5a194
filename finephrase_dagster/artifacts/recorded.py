"""What manifests record that recipes further down need, and the parts of a mixture with their tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing
from finephrase_dagster.study.student import Mixture, largest_epochs


def recorded_fields(artifact: Artifact, name: str) -> dict[str, Any]:
    """Return the fields that a manifest holds under a name.

    Raises:
        ArtifactMissing: it holds none.
    """
    fields = artifact.facts.get(name)
    if not isinstance(fields, dict):
        raise ArtifactMissing(f"{artifact.folder}: the manifest has no {name!r}; delete the folder")
    return fields


def recorded_dropped(audit: Artifact | None) -> dict[str, str]:
    """Return which rows an audit drops from a dataset's tokens, for their recipe; empty if it drops none by its recipe.

    Raises:
        ArtifactMissing: the audit is not complete.
    """
    if audit is None or "drops" not in audit.recipe:
        return {}
    return {"dropped": recorded_fields(audit, "dropped")["sha256"]}


def failed_gates(audit: Mapping[str, Any]) -> list[str]:
    """Return the blocking gates that a dataset failed, with value and threshold, given its audit's manifest."""
    return [
        f"{gate['name']} is {gate['value']:.3g}, required is {gate['bound']} {gate['threshold']:.3g}"
        for gate in audit.get("gates", ())
        if gate["blocking"] and not gate["passed"]
    ]


def recorded_macro(scores: Artifact, held_out: Collection[str] = ()) -> float:
    """Return the macro score of a manifest, without held-out tasks.

    Raises:
        ArtifactMissing: it has none.
    """
    macro = scores.facts.get("macro")
    if held_out and macro is not None:
        by_category: dict[str, list[float]] = {}
        for task, score in scores.manifest()["tasks"].items():
            if task not in held_out and score["category"] is not None:
                by_category.setdefault(score["category"], []).append(score["mean"])
        macro = fmean(map(fmean, by_category.values()))
    if isinstance(macro, bool) or not isinstance(macro, int | float) or not math.isfinite(macro):
        raise ArtifactMissing(f"{scores.folder}: the manifest has no macro score; delete the folder")
    return macro


def have_same_rows(earlier: dict[str, Any], recipe: dict[str, Any]) -> bool:
    """Return whether a corpus would have the rows of an earlier one, because neither reaches its limit."""
    recipes, rows = (earlier["recipe"], recipe), earlier.get("rows")
    limits = [one.get("read", {}).get("limit") for one in recipes]
    unlimited = [{**one, "read": {**one.get("read", {}), "limit": None}} for one in recipes]
    is_below = isinstance(rows, int) and all(limit is None or rows <= limit for limit in limits)
    return is_below and unlimited[0] == unlimited[1]


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
