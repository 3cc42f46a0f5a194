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
    """Return the gates that block, or that do not, and that a dataset failed, given its audit's manifest.

    Each is described in words, with its name, value, failing rows and threshold; a gate whose failing rows are dropped,
    with their number.
    """
    rows, failed = audit.get("rows"), {}
    for gate in audit.get("gates", ()):
        name = gate["name"]
        if gate.get("drops"):
            if gate["failing"] and not blocking:
                failed[name] = f"{name} left out {gate['failing']:,} of {rows:,} rows"
        elif gate["blocking"] is blocking and not gate["passed"]:
            required = f"required is {gate['bound']} {gate['threshold']:.3g}"
            failed[name] = f"{name} is {gate['value']:.3g}{_failing(gate, rows)}, {required}"
    return failed


def _failing(gate: Mapping[str, Any], rows: int | None) -> str:
    """Return how many rows failed a gate, and whether it allows any; nothing if its value is no share of the rows."""
    failing, value = gate.get("failing"), gate["value"]
    share = value if gate["bound"] == "at most" else 1 - value
    if not rows or not failing or abs(share * rows - failing) > 0.5:
        return ""
    allowed = gate["threshold"] if gate["bound"] == "at most" else 1 - gate["threshold"]
    return f" ({failing:,} of {rows:,} rows{'; of so few, none may fail' if failing == 1 and allowed else ''})"


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
    """Return whether a corpus would have the rows of an earlier one, which ended before its limit, as it would."""
    recipes, rows = (earlier["recipe"], recipe), earlier.get("rows")
    limits = [math.inf if (limit := one.get("read", {}).get("limit")) is None else limit for one in recipes]
    unlimited = [{**one, "read": {**one.get("read", {}), "limit": None}} for one in recipes]
    return isinstance(rows, int) and rows < limits[0] and rows <= limits[1] and unlimited[0] == unlimited[1]
