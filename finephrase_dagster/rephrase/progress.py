"""Shows a person how far a rephrasing run is: progress bars on a terminal, lines of a log elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from finephrase_dagster.rephrase.account import Account
from finephrase_dagster.rephrase.statistics import RunStatistics, duration

if TYPE_CHECKING:
    from rich.console import Console


def progress_rows(run: RunStatistics) -> list[tuple[str, ...]]:
    """Return how far each dataset of a run is: its prompt, documents, share, tokens, speed, and time left.

    All datasets of a run end together, because the prompts of a document are sent one after the other.
    """
    left = "unknown" if run.seconds_left is None else duration(run.seconds_left)
    return [
        (
            name,
            f"{prompt.done:,} of {prompt.total:,}" if prompt.total else f"{prompt.done:,}",
            f"{prompt.done / prompt.total:.0%}" if prompt.total else "unknown",
            f"{prompt.tokens_before + prompt.tokens:,}",
            f"{prompt.tokens / run.engine_seconds if run.engine_seconds else 0:,.0f}",
            "0 s" if prompt.total and prompt.done >= prompt.total else left,
        )
        for name, prompt in run.prompts.items()
    ]


def run_cost(run: RunStatistics) -> str:
    """Return what all datasets of a run cost; that of each alone may fall, as shared time is divided anew."""
    projected = run.projected()
    at_end = f", {cost_text(sum(projected.values(), Account()))} in all" if projected else ""
    return f"{cost_text(sum(run.accounts().values(), Account()))} so far{at_end}"


def cost_text(account: Account) -> str:
    """Return a cost in the best unit that is known: dollars, GPU-hours, or hours of engines."""
    if account.dollars is not None and account.runs:
        return f"${account.dollars:,.2f}"
    if account.gpu_seconds:
        return f"{account.gpu_seconds / 3600:,.2f} GPU-hours"
    return f"{account.total / 3.6e6:,.2f} engine-hours"


def goodput_text(name: str, goodput: Mapping[str, Any]) -> str:
    """Return one line on where a dataset's engine time went, and on how right its plan was."""
    parts = {
        "prefill": goodput["prefill_seconds"],
        "decode": goodput["decode_seconds"],
        **{part: seconds for part, seconds in goodput["parts"].items() if part != "kept"},
    }
    if parts["prefill"] is None:
        parts = {"kept": goodput["parts"]["kept"], **parts}
    share = "unknown" if goodput["goodput"] is None else f"{goodput['goodput']:.0%}"
    spent = ", ".join(f"{part} {seconds:,.1f}" for part, seconds in parts.items() if seconds and seconds >= 0.05)
    ideal = "unknown" if goodput["ideal_seconds"] is None else f"{goodput['ideal_seconds']:,.1f}"
    text = f"{name}: goodput {share}, ideal {ideal} of {goodput['engine_seconds']:,.1f} s with an engine ({spent})"
    expected = goodput["expected"]
    if expected and expected["ratio"] is not None:
        planned, actual, unit = expected["planned"], expected["actual"], expected["unit"]
        text += f"; {planned:,.3g} {unit} planned, {actual:,.3g} taken ({expected['ratio']:,.3g} times the plan)"
    return text


class Lines:
    """Logs how far a run is at most every `seconds`: a line for all requests, and one per prompt."""

    def __init__(self, log: Callable[[str], None], *, seconds: float) -> None:
        self._log = log
        self._seconds = seconds
        self._last = time.monotonic()

    def __call__(self, statistics: RunStatistics) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self._last = time.monotonic()
            first = f"{statistics.line()}; {run_cost(statistics)}"
            self._log("\n".join([first, *(_prompt_line(*row) for row in progress_rows(statistics))]))

    def close(self) -> None:
        """Do nothing: lines need no closing."""


def _prompt_line(prompt: str, documents: str, share: str, tokens: str, speed: str, _: str) -> str:
    return f"  {prompt}: {documents} documents ({share}), {tokens} tokens, {speed} tokens/s"


class Bars:
    """A bar for all requests (one per document and prompt), and a bar per prompt for its documents."""

    def __init__(self, console: Console | None = None) -> None:
        """Prepare the bars; they appear on standard error, or on `console`."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            console=console or Console(stderr=True),
            auto_refresh=False,
        )
        self._tasks = {"requests": self._progress.add_task("requests", total=None, details="")}

    def __call__(self, statistics: RunStatistics) -> None:
        if not self._progress.live.is_started:
            self._progress.start()
        left = f", {duration(statistics.seconds_left)} left" if statistics.seconds_left is not None else ""
        speed = f"{statistics.requests_per_second:,.1f}/s, {statistics.tokens_per_second:,.0f} output tokens/s"
        done = statistics.done_before + statistics.done
        self._show(
            "requests", done, statistics.total, f"{speed}, {statistics.failed:,} failed{left}; {run_cost(statistics)}"
        )
        for name, _, _, tokens, _, _ in progress_rows(statistics):
            prompt = statistics.prompts[name]
            self._show(name, prompt.done, prompt.total, f"{tokens} tokens")
        self._progress.refresh()

    def _show(self, name: str, done: int, total: int, details: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None, details="")
        self._progress.update(self._tasks[name], completed=done, total=total or None, details=details)

    def close(self) -> None:
        """Leave the bars on the terminal; later output is printed below them."""
        if self._progress.live.is_started:
            self._progress.stop()
