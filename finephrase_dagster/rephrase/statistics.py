"""The statistics of a rephrasing run: counts and accounts while it runs, and its cost at the end."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from finephrase_dagster.rephrase.account import Account, EngineClock, PromptStatistics, divided
from finephrase_dagster.rephrase.completion import Completion, FailedRow
from finephrase_dagster.rephrase.outcome import NONE, Completed, Discarded, Outcome, total_discarded
from finephrase_dagster.rephrase.pace import Pace

Opened = TypeVar("Opened")
SAMPLE_SECONDS = 8.0
ADDED = (
    *("requests", "repeated_requests", "engine_restarts", "engine_start_seconds", "engine_seconds", "other_seconds"),
    *("prompt_tokens", "completion_tokens", "discarded_completion_tokens", "tokens_per_second", "requests_per_second"),
    *("gpu_hours", "dollars", "gpus"),
)
"""Figures of a run that are added over workers."""
MOST_ANSWERED = 256  # documents whose completions are kept until all are there


@dataclass(kw_only=True)
class RunStatistics:
    """Counts of requests, one per row and prompt, and seconds.

    Attributes:
        prompts: rows and engine-seconds by prompt; `total`, `done_before`, `skipped` and `completed` are their sums.
        gpus: number of GPUs serving the model; 0 on a CPU, None if unknown.
        stated: completion tokens per second that are stated for one GPU.
        prompt_tokens, completion_tokens: of completions, including the discarded ones.
        discarded: rollouts that were not kept, their prompt tokens and their completion tokens.
        failures: failed rows by the kind of their last failure.
        sent: requests sent, retries not counted, rollouts each.
        retries: further attempts by their cause.
        chunks: output files written.
        start_seconds: until the engine answered, if this run started it; `restart_seconds`: of later restarts.
        clocks: of the engines; known once they are there.
        engine: counters of the engines during the run, see `counters.py`.
        in_flight: requests at the engines now.
        sample: the completions of one document, by prompt; after some seconds, those of another one.
    """

    prompts: dict[str, PromptStatistics] = field(default_factory=lambda: defaultdict(PromptStatistics))
    gpus: int | None = None
    gpu_hour_dollars: float | None = None
    stated: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    discarded: Discarded = NONE
    failures: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    restarts: int = 0
    start_seconds: float = 0.0
    restart_seconds: float = 0.0
    clocks: list[EngineClock] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    began: float = field(default_factory=time.monotonic)
    engine: dict[str, float] = field(default_factory=dict)
    in_flight: int = 0
    sample: dict[str, str] = field(default_factory=dict)
    _sampled: float = 0.0
    _answered: dict[str, dict[str, str]] = field(default_factory=dict)
    _counted: Mapping[str, float] | None = None
    _busy_since: float = 0.0
    _busy: float = 0.0
    _starting: float | None = None  # since when
    _up: float | None = None  # since when, and until when, engines were there
    _down: float | None = None

    @property
    def total(self) -> int:
        """Rows times prompts; 0 if not known."""
        return sum(prompt.total for prompt in self.prompts.values())

    @property
    def done_before(self) -> int:
        """Requests that earlier runs finished."""
        return sum(prompt.done_before for prompt in self.prompts.values())

    @property
    def skipped(self) -> int:
        """Rows without text, per prompt."""
        return sum(prompt.skipped for prompt in self.prompts.values())

    @property
    def completed(self) -> int:
        """Requests of which a completion was kept."""
        return sum(prompt.completed for prompt in self.prompts.values())

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
        """Finished requests per second: at the current pace or, in the beginning, per engine second."""
        return self.pace.requests_per_second or (self.done / self.engine_seconds if self.engine_seconds else 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until all requests are finished, if that can be estimated."""
        left = self.total - self.done_before - self.done
        return self.pace.seconds_left(left) if left > 0 else None

    def record_sent(self, *, again: bool = False) -> None:
        """Record that the request of a row goes to the engines, for the first time or again."""
        if not self.in_flight:
            self._busy_since = time.monotonic()
        self.in_flight += 1
        self.sent += not again

    def record_returned(self, began: float) -> None:
        """Record that a request is no longer at the engines, given the time when it was first sent."""
        self.in_flight -= 1
        self.pace.record_request(time.monotonic() - began)
        if not self.in_flight:
            self._busy += time.monotonic() - self._busy_since

    def record_outcome(
        self, prompt: str, outcome: Outcome, failure: FailedRow | None, *, seconds: float = 0.0, earlier: float = 0.0
    ) -> None:
        """Record that a row is done; for the seconds see `PromptStatistics.record`."""
        tokens = outcome.discarded[2] + (outcome.completion_tokens if isinstance(outcome, Completed) else 0)
        self.prompts[prompt].record(outcome, tokens, seconds=seconds, earlier=earlier)
        if failure is not None and not isinstance(outcome, Completed):
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

    @contextlib.contextmanager
    def engines_open(self, engines: contextlib.AbstractContextManager[Opened]) -> Iterator[Opened]:
        """Open engines, and record when they are there."""
        self._starting = time.monotonic()
        with engines as opened:
            self._up = time.monotonic()
            self.start_seconds = self._up - self._starting
            yield opened
            self._down = time.monotonic()

    def record_pace(self) -> None:
        """Record how far the run is; called twice a second."""
        if self._up is not None:
            self.pace.record(self.engine_seconds, self.done, self.completion_tokens, in_flight=self.in_flight)

    def record_engine_counters(self, counted: Mapping[str, float]) -> None:
        """Record what the engines have counted until now; after a restart they count from zero."""
        last = self._counted
        if last is not None:
            restarted = any(counted.get(name, 0.0) < count for name, count in last.items())
            for name, count in counted.items():
                self.engine[name] = self.engine.get(name, 0.0) + count - (0.0 if restarted else last.get(name, 0.0))
        self._counted = dict(counted)

    def record_workers(self, done: Mapping[str, Mapping[str, int]], runs: Sequence[Mapping[str, Any]]) -> None:
        """Record what several workers have done so far, in place of what this process did.

        Args:
            done: by prompt, the rows that they `completed`, `skipped` and `failed`, and `tokens`.
            runs: what each of them says of its run (see `cost`).
        """
        for name, counts in done.items():
            prompt = self.prompts[name]
            prompt.completed, prompt.skipped = counts["completed"], counts["skipped"]
            prompt.failed, prompt.tokens = counts["failed"], counts["tokens"]
        self.failures = Counter(failed=sum(prompt.failed for prompt in self.prompts.values()))
        self.sent = sum(run["requests"] for run in runs)
        self.retries = Counter(workers=sum(run["repeated_requests"] for run in runs))
        self.prompt_tokens = sum(run["prompt_tokens"] for run in runs)
        self.completion_tokens = sum(run["completion_tokens"] for run in runs)
        self._busy = max((run["engine_seconds"] for run in runs), default=0.0)
        self.pace.record(self._busy, self.done, self.completion_tokens, in_flight=max(1, len(runs)))

    def accounts(self) -> dict[str, Account]:
        """Return where the time of all runs went until now, by prompt.

        What belongs to no prompt (start, idle, repeated, other) is divided in proportion to the engine-seconds that
        the prompts took.
        """
        now, engines = time.monotonic(), max(1, len(self.clocks))
        if self._starting is None:  # nothing is to be sent, so there are no engines
            return {name: prompt.before for name, prompt in self.prompts.items()}
        up = (self._up or now) - self._starting, ((self._down or now) - self._up if self._up else 0.0)
        total, start, here = (round(1000 * engines * seconds) for seconds in (now - self.began, *up))
        start += round(1000 * self.restart_seconds)
        busy = round(1000 * math.fsum(clock.busy_until(now) for clock in self.clocks))
        own = [
            [round(1000 * seconds) for seconds in (prompt.kept, prompt.failing, prompt.discarding)]
            for prompt in self.prompts.values()
        ]
        repeated = max(0, busy - sum(map(sum, own)))
        idle = max(0, here - busy - round(1000 * self.restart_seconds))
        other = max(0, total - start - idle - repeated - sum(map(sum, own)))
        weights = [float(sum(parts)) for parts in own]
        shared = [divided(part, weights) for part in (start, idle, repeated, other)]
        average = 1000 * self.completion_tokens / busy if busy else 0.0
        best = (
            max(average, (self.pace.best or 0.0) / engines, (self.stated or 0.0) * (self.gpus or 0) / engines) or None
        )
        prefill = self._prefill_share()
        accounts = {}
        for (name, prompt), (kept, failed, discarded), *parts in zip(self.prompts.items(), own, *shared, strict=True):
            account = Account(
                **dict(zip(("start", "idle", "repeated", "other"), parts, strict=True)),
                **{"kept": kept, "failed": failed, "discarded": discarded},
                prefill=0 if not kept else None if prefill is None else round(prefill * kept),
                tokens=prompt.tokens,
                best=best,
                runs=1,
            )
            seconds = None if self.gpus is None else account.total / 1000 * self.gpus / engines
            price = self.gpu_hour_dollars
            dollars = seconds / 3600 * price if seconds and price is not None else None
            accounts[name] = prompt.before + replace(account, gpu_seconds=seconds, dollars=dollars)
        return accounts

    def projected(self) -> dict[str, Account] | None:
        """Return what the accounts will be at the end, at the current pace; None if that cannot be estimated."""
        accounts, left, engines = self.accounts(), self.seconds_left, max(1, len(self.clocks))
        if left is None:
            return None if self.done_before + self.done < self.total else accounts
        spent = [account.total - self.prompts[name].before.total for name, account in accounts.items()]
        for (name, account), more in zip(accounts.items(), divided(round(1000 * engines * left), spent), strict=True):
            seconds = None if self.gpus is None else more / 1000 * self.gpus / engines
            dollars = seconds / 3600 * self.gpu_hour_dollars if seconds and self.gpu_hour_dollars is not None else None
            accounts[name] = account + Account(kept=more, gpu_seconds=seconds, dollars=dollars)
        return accounts

    def _prefill_share(self) -> float | None:
        """Return the share of the requests' time that engines spent on reading prompts, if the engines measure it."""
        prefill, decode = (self.engine.get(f"{phase}_seconds") for phase in ("prefill", "decode"))
        return prefill / (prefill + decode) if prefill is not None and decode is not None and prefill + decode else None

    def line(self) -> str:
        """Return the state of the run as one line of a log."""
        of = f" of {self.total:,}" if self.total else ""
        left = f"; {duration(self.seconds_left)} left" if self.seconds_left is not None else ""
        return (
            f"{self.done_before + self.done:,}{of} requests done, {self.requests_per_second:,.1f} requests/s, "
            f"{self.tokens_per_second:,.0f} output tokens/s, {self.failed:,} failed{left}"
        )

    def cost(self) -> dict[str, Any]:
        """Return what this run cost and where its time went, for the manifest."""
        seconds, busy = self.seconds, self.engine_seconds
        gpus, gpu_hour_dollars = self.gpus, self.gpu_hour_dollars
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
            "requests_per_second": round(self.done / busy if busy else 0.0, 2),
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


def total_cost(own: dict[str, Any], workers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a run cost together with what each of several workers did; rates are those of all workers."""
    workers = [worker for worker in workers if worker]
    if not workers:
        return own
    total = {"workers": len(workers), **own}
    for name in ADDED:
        values = [cost[name] for cost in (own, *workers)]
        known = [value for value in values if value is not None]
        total[name] = round(sum(known), 4) if known else None
    total["wall_seconds"] = max(cost["wall_seconds"] for cost in workers)
    total["tokens_per_gpu_hour"] = (
        round(total["completion_tokens"] / total["gpu_hours"]) if total["gpu_hours"] else None
    )
    return total


def duration(seconds: float) -> str:
    """Return a duration as text, such as `2 h 5 min`, `3 min 20 s` or `8 s`."""
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"
