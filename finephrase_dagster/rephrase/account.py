"""The ledger of goodput: where the time of the engines that wrote a dataset went, over all runs that wrote it.

One engine, or one endpoint, for one second is an *engine-second*. Each is counted in exactly one part, so the parts add
up to the total. A run writes the accounts down every few seconds. When it is killed, its last seconds are lost:
they are counted as `unaccounted`, at most as many as lie between two writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import accumulate, pairwise
from typing import Any

from finephrase_dagster.artifacts.claim import META
from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.rephrase.outcome import Completed, Outcome

ACCOUNT, ACCOUNTS, EXPECTED = f"{META}/account.json", f"{META}/accounts", f"{META}/expected.json"
SAVE_SECONDS = 10.0
"""Seconds between two writes of the accounts."""
PARTS = ("kept", "start", "idle", "repeated", "failed", "discarded", "unaccounted", "other")


class EngineClock:
    """Divides the time in which an engine has requests equally among them, so that their shares add up to it."""

    __slots__ = ("_at", "_in_flight", "_share", "busy")

    def __init__(self) -> None:
        self.busy = 0.0  # seconds with at least one request, until the latest change
        self._share = 0.0  # what one request would have got that has been in flight since the beginning
        self._in_flight = 0
        self._at = 0.0

    def enter(self, now: float) -> float:
        """Record that a request is sent; return what `leave` needs."""
        self._advance(now)
        self._in_flight += 1
        return self._share

    def leave(self, entered: float, now: float) -> float:
        """Record that a request is over; return its share of the engine's seconds."""
        self._advance(now)
        self._in_flight -= 1
        return self._share - entered

    def busy_until(self, now: float) -> float:
        """Return the seconds with at least one request until now."""
        return self.busy + (now - self._at if self._in_flight else 0.0)

    def _advance(self, now: float) -> None:
        if self._in_flight:
            elapsed = now - self._at
            self.busy += elapsed
            self._share += elapsed / self._in_flight
        self._at = now


@dataclass(frozen=True, kw_only=True)
class Account:
    """Where the time of engines went, in whole milliseconds of one engine, so that sums are exact.

    Attributes:
        kept: on the completions that the dataset holds.
        start: starting and restarting engines.
        idle: engines without requests.
        repeated: on requests that had to be sent again, and on probes; of a killed run, on what was in flight.
        failed: on rows that failed.
        discarded: on rollouts that were not kept.
        unaccounted: at most so much after killed runs had written their accounts for the last time.
        other: before engines were there, and after.
        prefill: of `kept`, reading the prompts; the rest is generating. None if an engine did not measure it.
        tokens: completion tokens of `kept`.
        best: the highest completion tokens per second of one engine, measured or stated; None: unknown.
        gpu_seconds, dollars: None if a run did not know them.
        runs: number of runs.
    """

    kept: int = 0
    start: int = 0
    idle: int = 0
    repeated: int = 0
    failed: int = 0
    discarded: int = 0
    unaccounted: int = 0
    other: int = 0
    prefill: int | None = 0
    tokens: int = 0
    best: float | None = None
    gpu_seconds: float | None = 0.0
    dollars: float | None = 0.0
    runs: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, part) for part in PARTS)

    @property
    def ideal(self) -> int | None:
        """What the kept tokens take at the best rate, at most what they took; None if no rate is known."""
        return min(self.kept, round(1000 * self.tokens / self.best)) if self.best else None

    def __add__(self, other: Account) -> Account:
        sums: dict[str, Any] = {}
        for name in (one.name for one in fields(self) if one.name != "best"):
            one, two = getattr(self, name), getattr(other, name)
            sums[name] = None if one is None or two is None else one + two
        return Account(**sums, best=max((rate for rate in (self.best, other.best) if rate), default=None))

    def facts(self, expected: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the account as a field of the manifest, in seconds; `expected` is what the plan had said."""
        ideal, prefill = self.ideal, self.prefill
        return {
            "goodput": round(ideal / self.total, 4) if ideal is not None and self.total else None,
            "engine_seconds": self.total / 1000,
            "parts": {part: getattr(self, part) / 1000 for part in PARTS},
            "ideal_seconds": None if ideal is None else ideal / 1000,
            "prefill_seconds": None if prefill is None else prefill / 1000,
            "decode_seconds": None if prefill is None else (self.kept - prefill) / 1000,
            "completion_tokens": self.tokens,
            "best_tokens_per_second": self.best and round(self.best, 1),
            "gpu_hours": None if self.gpu_seconds is None else round(self.gpu_seconds / 3600, 6),
            "dollars": None if self.dollars is None else round(self.dollars, 4),
            "runs": self.runs,
            "expected": self._compared(expected) if expected else None,
        }

    def _compared(self, expected: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plan's hours, the actual ones, and the ratio of actual to expected."""
        on_gpu = bool(expected["gpu_hours"])
        planned = expected["gpu_hours"] if on_gpu else expected["hours"]
        seconds = self.gpu_seconds if on_gpu else self.total / 1000
        actual = None if seconds is None else round(seconds / 3600, 6)
        ratio = round(actual / planned, 4) if actual is not None and planned else None
        return {"unit": "GPU-hours" if on_gpu else "hours", "planned": planned, "actual": actual, "ratio": ratio}


@dataclass(kw_only=True)
class PromptStatistics:
    """The rows of one dataset, and the engine-seconds spent on them by this run.

    Attributes:
        total: rows of the input; 0 if not known.
        done_before, tokens_before: rows that earlier runs finished, and their completion tokens.
        tokens: completion tokens of the completions that this run kept.
        kept, failing, discarding: engine-seconds on kept completions, on failed rows and on discarded rollouts.
        before: what earlier runs spent.
    """

    total: int = 0
    done_before: int = 0
    tokens_before: int = 0
    skipped: int = 0
    completed: int = 0
    failed: int = 0
    tokens: int = 0
    kept: float = 0.0
    failing: float = 0.0
    discarding: float = 0.0
    before: Account = field(default_factory=Account)

    @property
    def done(self) -> int:
        """Rows that are finished, by whichever run."""
        return self.done_before + self.skipped + self.completed + self.failed

    def record(self, outcome: Outcome, tokens: int, *, seconds: float, earlier: float) -> None:
        """Record that a row is done.

        Args:
            outcome: what became of it.
            tokens: completion tokens of all its rollouts; 0 if they are not counted.
            seconds: engine-seconds of its last rollout.
            earlier: engine-seconds of its earlier rollouts, which were recorded as discarded.
        """
        if isinstance(outcome, Completed):
            self.completed += 1
            self.tokens += outcome.completion_tokens
            share = outcome.completion_tokens / tokens if tokens else 1.0
            kept = share * (seconds + earlier)
            self.kept += kept
            self.discarding += seconds - kept
        else:
            self.failed += 1
            self.failing += seconds


def divided(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a whole number in proportion to weights, exactly; equally if all weights are 0."""
    sums = list(accumulate(weights if any(weights) else [1.0] * len(weights), initial=0.0))
    return [round(total * after / sums[-1]) - round(total * before / sums[-1]) for before, after in pairwise(sums)]


@dataclass(frozen=True)
class Spent:
    """What earlier runs wrote down for a dataset: the sum of their accounts, and what each worker says of its run."""

    account: Account = field(default_factory=Account)
    workers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_spent(folder: Folder, fingerprint: str) -> Spent:
    """Return what earlier runs wrote down; nothing of what is of another recipe, or unreadable."""
    total, added = _read_account(folder, ACCOUNT, fingerprint)
    workers = {}
    for name in folder.names(f"{ACCOUNTS}/*.json"):
        account, content = _read_account(folder, name, fingerprint)
        workers[name] = content.get("run", {})
        if name not in added.get("workers", ()):
            total += account
    return Spent(total, workers)


def _read_account(folder: Folder, name: str, fingerprint: str) -> tuple[Account, dict[str, Any]]:
    try:
        content = json.loads(folder.read(name))
        if content["fingerprint"] != fingerprint:
            return Account(), {}
        account = Account(**content["account"])
        if content["open"]:  # the run that wrote it was killed
            lost = min(max(0.0, time.time() - content["saved"]), content.get("seconds", SAVE_SECONDS))
            account = replace(account, unaccounted=account.unaccounted + round(1000 * lost * content["engines"]))
        return account, content
    except (OSError, ValueError, LookupError, TypeError):
        return Account(), {}


def save_account(
    folder: Folder,
    fingerprint: str,
    account: Account,
    *,
    engines: float,
    is_open: bool,
    name: str = ACCOUNT,
    **facts: Any,
) -> None:
    """Write down a dataset's account.

    Args:
        engines: how many engines work for it now, which costs so much per second until the next write.
        is_open: whether the run goes on.
        name: the file; each of several workers has its own.
        facts: `workers`, the accounts of workers that are part of this one; of a worker, `seconds` until the next write
            and the figures of its `run`.
    """
    content = {"fingerprint": fingerprint, "saved": time.time(), "open": is_open, "engines": engines, **facts}
    folder.write(name, json.dumps({**content, "account": asdict(account)}, indent=2).encode())


def record_expected(folder: Folder, expected: Mapping[str, Any]) -> None:
    """Write down what the plan says a dataset takes, unless a run has begun to write it."""
    if not folder.names(ACCOUNT) and not folder.names(EXPECTED):
        folder.write(EXPECTED, json.dumps(dict(expected)).encode())


def read_expected(folder: Folder) -> dict[str, Any] | None:
    """Return what the plan had said about a dataset, if there was a plan."""
    try:
        expected = json.loads(folder.read(EXPECTED))
        return {"gpu_hours": expected["gpu_hours"], "hours": expected["hours"]}
    except (OSError, ValueError, LookupError, TypeError):
        return None
