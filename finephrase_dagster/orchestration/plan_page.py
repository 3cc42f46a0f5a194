"""What the page of `study/plan` shows, and the event that brings it up to date without a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import dagster as dg

from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.key import PLAN
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.partitions import asset_key
from finephrase_dagster.plan.plan import Plan, plan
from finephrase_dagster.plan.text import bytes_text, hours_text, plan_markdown, stale_markdown

CHECKS = {
    "current": "every item is complete by its current recipe",
    "priced": "the cost of every item that would run is known",
}


class CheckOutcome(NamedTuple):
    """The result of a check of the plan."""

    passed: bool
    description: str
    metadata: Mapping[str, Any] = MappingProxyType({})


def page_metadata(result: Plan) -> dict[str, Any]:
    """Return the metadata of the page; of a cost that is unknown in part, no figure."""
    total = result.as_json()["total"]
    costs = {
        "gpu_hours": round(total["known"]["gpu_hours"], 1),
        "dollars": round(total["known"]["dollars"], 2),
        "wall_time": hours_text(total["known"]["wall_hours"]),
    }
    return {
        "to_do": total["partitions"],
        "exists": total["exists"]["partitions"],
        **({} if result.unknown else costs),
        "disk": bytes_text(total["disk_bytes"]),
        "plan": dg.MetadataValue.md(plan_markdown(result)),
        "stale": dg.MetadataValue.md(stale_markdown(result)),
        **{name: dg.MetadataValue.md(_listed(lines)) for name, lines in _lists(result) if lines},
    }


def outcomes(result: Plan) -> dict[str, CheckOutcome]:
    """Return the outcome of each check."""
    total = result.as_json()["total"]
    return {
        "current": CheckOutcome(
            not total["partitions"],
            f"{total['stale']} stale, {total['missing']} missing, {total['exists']['partitions']} current, "
            f"{total['failed']} audits failed",
            {"stale": dg.MetadataValue.md(stale_markdown(result))},
        ),
        "priced": CheckOutcome(
            not result.unknown, "; ".join(result.unknown) or f"{result.dollars:,.2f} dollars for what would run"
        ),
    }


def plan_events(
    lineage: Lineage, known: str | None
) -> tuple[str, list[dg.AssetMaterialization | dg.AssetCheckEvaluation]]:
    """Return a hash of the plan as it is now, and the events that show it; none if the page shows it already.

    Args:
        known: the hash of the plan that the page shows.

    Raises:
        StudyError, PromptError: a file of the study cannot be read.
    """
    result, key = plan(lineage), asset_key(PLAN)
    digest = fingerprint(result.as_json())[:SHORT]
    if digest == known:
        return digest, []
    checks = [
        dg.AssetCheckEvaluation(
            asset_key=key,
            check_name=name,
            passed=one.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=one.description,
            metadata=one.metadata,
        )
        for name, one in outcomes(result).items()
    ]
    return digest, [dg.AssetMaterialization(asset_key=key, metadata=page_metadata(result)), *checks]


def _lists(result: Plan) -> Iterator[tuple[str, Iterable[str]]]:
    yield "sampling", result.sampling
    yield "warnings", result.warnings


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
