"""The statistics of a run: what is done while it runs, and the bill at its end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finephrase_dagster.rephrase.completion import Completion, RequestResult


@dataclass(kw_only=True)
class RunStatistics:
    """Counts of requests, one for each row and prompt, and of seconds.

    Attributes:
        total: rows times prompts; 0 where it is not known.
        done_before: of these, done by earlier runs.
        skipped, completed: by this run.
        failures: rows that this run gave up, by the kind of their refusal.
        taken: rows that were given to the engine.
        repeated: attempts beyond each row's first, by what made them necessary.
        chunks: files of rows that were published.
        restarts: of the engine, beyond its first start.
        start_seconds: until the engine answered, where this run started it.
    """

    total: int = 0
    done_before: int = 0
    skipped: int = 0
    completed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    taken: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    restarts: int = 0
    start_seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)
    engine: dict[str, float] = field(default_factory=dict)
    in_flight: int = 0
    _busy_since: float = 0.0
    _busy: float = 0.0

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def done(self) -> int:
        return self.skipped + self.failed + self.completed

    @property
    def seconds(self) -> float:
        """Of the run so far."""
        return time.monotonic() - self.began

    @property
    def engine_seconds(self) -> float:
        """In which the engine had at least one request."""
        return self._busy + (time.monotonic() - self._busy_since if self.in_flight else 0.0)

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens, over the seconds in which the engine had requests."""
        return self.completion_tokens / self.engine_seconds if self.engine_seconds else 0.0

    @property
    def documents_per_second(self) -> float:
        """Requests done, over the same seconds."""
        return self.done / self.engine_seconds if self.engine_seconds else 0.0

    def sent(self) -> None:
        """Notes that a row goes to the engine."""
        if not self.in_flight:
            self._busy_since = time.monotonic()
        self.in_flight += 1
        self.taken += 1

    def returned(self) -> None:
        """Notes that it is no longer there."""
        self.in_flight -= 1
        if not self.in_flight:
            self._busy += time.monotonic() - self._busy_since

    def count(self, verdict: RequestResult) -> None:
        """Counts what a row got, where that is final."""
        if isinstance(verdict, Completion):
            self.completed += 1
            self.prompt_tokens += verdict.prompt_tokens
            self.completion_tokens += verdict.completion_tokens
        else:
            self.failures[verdict.kind] += 1

    def count_engines(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Notes what engines counted during the run; one that was started again counts from nothing."""
        earlier = {} if self.restarts else before
        self.engine = {name: count - earlier.get(name, 0) for name, count in after.items()}

    def line(self) -> str:
        """The state of the run, for a log."""
        rate = self.documents_per_second
        left = self.total - self.done_before - self.done
        ahead = f"; {_duration(left / rate)} left" if rate and left > 0 else ""
        of = f" of {self.total:,}" if self.total else ""
        return (
            f"{self.done_before + self.done:,}{of} requests done, {rate:,.1f} documents/s, "
            f"{self.tokens_per_second:,.0f} output tokens/s, {self.failed:,} failed{ahead}"
        )

    def cost(self, *, gpus: int | None, gpu_hour_dollars: float | None) -> dict[str, Any]:
        """What the run cost, and where the time went.

        Args:
            gpus: that the engines hold; 0 on a CPU, None where nobody said.
            gpu_hour_dollars: the price of one for an hour, if it is known.
        """
        seconds, busy = self.seconds, self.engine_seconds
        hours = (gpus or 0) * (seconds if self.done else 0.0) / 3600
        tokens = self.completion_tokens
        hits, queries = self.engine.get("prefix_hits"), self.engine.get("prefix_queries")
        accepted, drafted = self.engine.get("accepted"), self.engine.get("drafted")
        return {
            "requests": self.done - self.skipped,
            "found_done": self.done_before,
            "repeated_requests": self.repeated.total(),
            "engine_restarts": self.restarts,
            "wall_seconds": round(seconds, 3),
            "engine_start_seconds": round(self.start_seconds, 3),
            "engine_seconds": round(busy, 3),
            "other_seconds": round(max(0.0, seconds - busy - self.start_seconds), 3),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "documents_per_second": round(self.documents_per_second, 2),
            "prefix_cache_hit_rate": round(hits / queries, 4) if hits is not None and queries else None,
            "speculation_acceptance": round(accepted / drafted, 4) if accepted is not None and drafted else None,
            "gpus": gpus,
            "gpu_hours": round(hours, 4) if gpus else None,
            "tokens_per_gpu_hour": round(tokens / hours) if hours else None,
            "dollars": round(hours * gpu_hour_dollars, 2) if gpus and gpu_hour_dollars is not None else None,
        }


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
