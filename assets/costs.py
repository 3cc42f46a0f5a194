"""Costs of artifacts, from their manifests. The figures keep their names, so that Dagster plots them over time.

A figure that is unknown is left out: there are no GPU-hours without a GPU, and no dollars without a price.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOUR = 3600


def of_dataset(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all runs of a dataset cost, where its engines' time went, and how right the plan was.

    A dataset without an account has a share of the cost of its last run, in proportion to the tokens generated for it.
    """
    run = manifest["run"]
    if account := manifest.get("goodput"):
        seconds = {"engine_seconds": account["engine_seconds"], **_seconds(account)}
        known = {name: account[name] for name in ("goodput", "gpu_hours", "dollars")}
        known["actual_over_planned"] = (account["expected"] or {}).get("ratio")
        return {
            "tokens_per_second": run["tokens_per_second"],
            **{name: value for name, value in {**known, **seconds}.items() if value},
            **{name: run[name] for name in ("prefix_cache_hit_rate",) if run.get(name) is not None},
        }
    generated = run["completion_tokens"]
    its = manifest["completion_tokens"] + manifest["discarded"]["completion_tokens"]
    share = min(1.0, its / generated) if generated else 0.0
    shared = {name: run[name] for name in ("gpu_hours", "dollars") if run.get(name) is not None}
    return {
        "tokens_per_second": run["tokens_per_second"],
        **{name: round(share * cost, 4) for name, cost in shared.items()},
        **{name: run[name] for name in ("prefix_cache_hit_rate",) if run.get(name) is not None},
    }


def _seconds(account: Mapping[str, Any]) -> dict[str, Any]:
    ideal = {name: account[name] for name in ("ideal_seconds", "prefill_seconds", "decode_seconds")}
    return ideal | {f"{part}_seconds": seconds for part, seconds in account["parts"].items()}


def of_training(manifest: Mapping[str, Any], gpu_hour_dollars: float | None) -> dict[str, Any]:
    """Return the cost of training a student.

    Args:
        gpu_hour_dollars: the price of one GPU-hour, if it is known.
    """
    hours = manifest["gpus"] * manifest["seconds"] / HOUR
    if not hours:
        return {}
    return {
        "gpu_hours": round(hours, 4),
        **({} if gpu_hour_dollars is None else {"dollars": round(hours * gpu_hour_dollars, 2)}),
    }
