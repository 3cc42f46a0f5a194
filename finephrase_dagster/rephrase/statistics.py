"""The statistics of a rephrasing run: counts while it runs, and its cost at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finephrase_dagster.rephrase.completion import Completion, FailedRow
from finephrase_dagster.rephrase.outcome import NONE, Completed, Discarded, Outcome, total_discarded

SAMPLE_SECONDS = 8.0
MOST_ANSWERED = 256  # documents whose completions are kept until all are there


@dataclass(kw_only=True)
class RunStatistics:
    """Counts of requests, one per row and prompt, and seconds.

    Attributes:
        total: rows times prompts; 0 if not known.
        done_before: of these, finished by earlier runs.
        skipped: rows without text.
        completed: rows with a completion.
        prompt_tokens, completion_tokens: of completions, including the discarded ones.
        discarded: rollouts that were not kept, their prompt tokens and their completion tokens.
        failures: failed rows by the kind of their last failure.
        sent: requests sent, retries not counted, rollouts each.
        retries: further attempts by their cause.
        chunks: output files written.
        restarts: restarts of engines.
        start_seconds: until the engine answered, if this run started it.
        engine: counters of the engines during the run, see `counters.py`.
        in_flight: requests at the engines now.
        sample: the completions of one document, by prompt; after some seconds, those of another one.
    """

    total: int = 0
    done_before: int = 0
    skipped: int = 0
    completed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    discarded: Discarded = NONE
    failures: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    restarts: int = 0
    start_seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)
    engine: dict[str, float] = field(default_factory=dict)
    in_flight: int = 0
    sample: dict[str, str] = field(default_factory=dict)
    _sampled: float = 0.0
    _answered: dict[str, dict[str, str]] = field(default_factory=dict)
    _busy_since: float = 0.0
    _busy: float = 0.0

    @property
    def failed(self) -> int:
        return self.failures.total()

    @property
    def done(self) -> int:
        """Requests finished by this run: completed, failed or skipped."""
        return self.skipped + self.failed + self.completed

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    @property
    def engine_seconds(self) -> float:
        """Seconds with at least one request at the engines."""
        return self._busy + (time.monotonic() - self._busy_since if self.in_flight else 0.0)

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens per engine second."""
        return self.completion_tokens / self.engine_seconds if self.engine_seconds else 0.0

    @property
    def requests_per_second(self) -> float:
        """Finished requests per engine second."""
        return self.done / self.engine_seconds if self.engine_seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until all requests are finished, if that can be estimated."""
        left, rate = self.total - self.done_before - self.done, self.requests_per_second
        return left / rate if rate and left > 0 else None

    def record_sent(self, *, again: bool = False) -> None:
        """Record that the request of a row goes to the engines, for the first time or again."""
        if not self.in_flight:
            self._busy_since = time.monotonic()
        self.in_flight += 1
        self.sent += not again

    def record_returned(self) -> None:
        """Record that a request is no longer at the engines."""
        self.in_flight -= 1
        if not self.in_flight:
            self._busy += time.monotonic() - self._busy_since

    def record_outcome(self, outcome: Outcome, failure: FailedRow | None) -> None:
        """Record that a row is done."""
        if isinstance(outcome, Completed):
            self.completed += 1
        elif failure is not None:
            self.failures[failure.kind] += 1
        if outcome.discarded is not NONE:
            self.discarded = total_discarded([self.discarded, outcome.discarded])

    def record_tokens(self, completion: Completion) -> None:
        """Record the tokens of a completed request."""
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens

    def record_sample(self, id: str, prompt: str, text: str, *, prompts: int) -> None:
        """Keep the completions of a document until all are there; the sample is one with all, or with most of them."""
        texts = self._answered.setdefault(id, {})
        texts[prompt] = text
        if len(texts) == prompts:
            del self._answered[id]
        elif len(self._answered) > MOST_ANSWERED:
            del self._answered[next(iter(self._answered))]
        if len(texts) == prompts and time.monotonic() - self._sampled > SAMPLE_SECONDS:
            self.sample, self._sampled = texts, time.monotonic()
        elif len(texts) > len(self.sample):
            self.sample = texts

    def record_engine_counters(self, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Record what the engines counted during the run; a restarted engine counts from zero."""
        earlier = {} if self.restarts else before
        self.engine = {name: count - earlier.get(name, 0) for name, count in after.items()}

    def line(self) -> str:
        """Return the state of the run as one line of a log."""
        of = f" of {self.total:,}" if self.total else ""
        left = f"; {duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        return (
            f"{self.done_before + self.done:,}{of} requests done, {self.requests_per_second:,.1f} requests/s, "
            f"{self.tokens_per_second:,.0f} output tokens/s, {self.failed:,} failed{left}"
        )

    def cost(self, *, gpus: int | None, gpu_hour_dollars: float | None) -> dict[str, Any]:
        """Return what the run cost and where its time went, for the manifest.

        Args:
            gpus: number of GPUs serving the model; 0 on a CPU, None if unknown.
            gpu_hour_dollars: price per GPU-hour, if known.
        """
        seconds, busy = self.seconds, self.engine_seconds
        hours = (gpus or 0) * (seconds if self.done else 0.0) / 3600
        tokens = self.completion_tokens
        return {
            "requests": self.sent,
            "done_before": self.done_before,
            "repeated_requests": self.retries.total(),
            "engine_restarts": self.restarts,
            "wall_seconds": round(seconds, 3),
            "engine_start_seconds": round(self.start_seconds, 3),
            "engine_seconds": round(busy, 3),
            "other_seconds": round(max(0.0, seconds - busy - self.start_seconds), 3),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "discarded_completion_tokens": self.discarded[2],
            "tokens_per_second": round(self.tokens_per_second, 1),
            "requests_per_second": round(self.requests_per_second, 2),
            "prefix_cache_hit_rate": self._share("prefix_hits", "prefix_queries"),
            "speculation_acceptance": self._share("accepted", "drafted"),
            "gpus": gpus,
            "gpu_hours": round(hours, 4) if gpus else None,
            "tokens_per_gpu_hour": round(tokens / hours) if hours else None,
            "dollars": round(hours * gpu_hour_dollars, 2) if gpus and gpu_hour_dollars is not None else None,
        }

    def _share(self, part: str, of: str) -> float | None:
        """Return one engine counter divided by another, if the engines count both."""
        part_count, count = self.engine.get(part), self.engine.get(of)
        return round(part_count / count, 4) if part_count is not None and count else None


def duration(seconds: float) -> str:
    """Return a duration as text, such as `2 h 5 min`, `3 min 20 s` or `8 s`."""
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"
