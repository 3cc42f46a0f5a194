"""What manifests record that recipes further down need."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing

AUDIT_PAGE = "audit.html"
"""The file of an audit that a person reads."""


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


def failed_gates(audit: Mapping[str, Any], *, blocking: bool = True) -> dict[str, str]:
    """Return the gates that block, or that only warn, and that a dataset failed, given its audit's manifest.

    Each is described in words, with its name, value and threshold.
    """
    return {
        gate["name"]: f"{gate['name']} is {gate['value']:.3g}, required is {gate['bound']} {gate['threshold']:.3g}"
        for gate in audit.get("gates", ())
        if gate["blocking"] is blocking and not gate["passed"]
    }


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
