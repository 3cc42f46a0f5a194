"""The steady state of a measurement: from the first completion of every place in flight to the last request sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FULL = 0.8
"""The share of the places that are taken while there is work: between two requests, a place is free for a moment."""


class Reading(NamedTuple):
    """What had been counted at a moment.

    Attributes:
        seconds: the moment, on any clock.
        done: requests that were finished.
        in_flight: requests at the engine.
        counted: the engine's counters, see `rephrase/counters.py`.
    """

    seconds: float
    done: int
    in_flight: int
    counted: dict[str, float]


class SteadyState(NamedTuple):
    """Figures of the steady state; shares are None if the engine counts nothing of the kind."""

    seconds: float
    tokens_per_second: float
    prefix_cache_hit_rate: float | None
    speculation_acceptance: float | None


def steady_state(samples: Sequence[Reading], concurrency: int) -> SteadyState | None:
    """Return the figures of the steady state that samples show; None if there was none yet.

    It begins when as many requests are finished as are in flight: until then, all prompts were read at once. It ends
    with the last sample at which the places were taken: after it, there was nothing left to send.
    """
    begun = [number for number, sample in enumerate(samples) if sample.done >= concurrency]
    full = [number for number, sample in enumerate(samples) if sample.in_flight >= FULL * concurrency]
    if not begun or not full or full[-1] <= begun[0]:
        return None
    first, last = samples[begun[0]], samples[full[-1]]
    seconds = last.seconds - first.seconds
    counts = {name: count - first.counted.get(name, 0.0) for name, count in last.counted.items()}
    if seconds <= 0 or counts.get("generated", 0.0) <= 0:
        return None

    def share(part: str, of: str) -> float | None:
        return round(counts.get(part, 0.0) / counts[of], 4) if counts.get(of) else None

    return SteadyState(
        seconds=seconds,
        tokens_per_second=counts["generated"] / seconds,
        prefix_cache_hit_rate=share("prefix_hits", "prefix_queries"),
        speculation_acceptance=share("accepted", "drafted"),
    )
