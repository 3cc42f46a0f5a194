"""Costs: what an artifact took, from its manifest; figures whose names stay the same, so that they plot over time.

A figure that nobody measured or said is left out: on a CPU there are no GPU-hours, and without a price no dollars.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HOUR = 3600


def of_dataset(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's part of the bill of its last run, by the tokens that the run wrote for it.

    A run serves several prompts from one engine; its bill is one.
    """
    bill = manifest["run"]
    written = bill["completion_tokens"]
    part = min(1.0, manifest["completion_tokens"] / written) if written else 0.0
    shared = {name: bill.get(name) for name in ("gpu_hours", "dollars")}
    return {
        "tokens_per_second": bill["tokens_per_second"],
        **{name: round(part * whole, 4) for name, whole in shared.items() if whole is not None},
        **{name: bill[name] for name in ("prefix_cache_hit_rate",) if bill.get(name) is not None},
    }


def of_training(manifest: Mapping[str, Any], gpu_hour_dollars: float | None) -> dict[str, Any]:
    """What the training of a student took.

    Args:
        gpu_hour_dollars: the price of a GPU for an hour, if it is known.
    """
    hours = manifest["gpus"] * manifest["seconds"] / HOUR
    if not hours:
        return {}
    return {
        "gpu_hours": round(hours, 4),
        **({} if gpu_hour_dollars is None else {"dollars": round(hours * gpu_hour_dollars, 2)}),
    }
