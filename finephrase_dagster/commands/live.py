"""The live view of `finephrase materialize`: stages with their progress, the current run, and what the model writes."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finephrase_dagster.artifacts.artifact import NotMaterialized
from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.orchestration.progress import Event, Message, Progress, RunEnded, RunStarted, Settled
from finephrase_dagster.rephrase.statistics import duration

REFRESHES_PER_SECOND = 4
BAR_WIDTH = 20
SAMPLE_LINES = 4  # at most, per prompt
FACTS = {
    "completed": "{:,} completed",
    "failed": "{:,} failed",
    "rows": "{:,} rows",
    "tokens": "{:,} tokens",
    "final_loss": "loss {:.3f}",
    "macro": "macro {:.4f}",
}
"""The fields of manifests that are shown with a finished partition."""


class LiveView:
    """Shows the events of a study's materialization on a terminal."""

    def __init__(self, title: str, items: Sequence[Item], console: Console) -> None:
        self._title, self._console = title, console
        self._totals, self._done, self._failed = Counter(item.stage for item in items), Counter[str](), Counter[str]()
        self._made, self._seconds = Counter[str](), defaultdict[str, float](float)
        self._began = time.monotonic()
        self._run: RunStarted | None = None
        self._run_began = 0.0
        self._progress: Progress | None = None
        self._message = ""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the view within the block."""
        with Live(
            get_renderable=self.render,
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            yield

    def __call__(self, event: Event) -> None:
        match event:
            case Settled():
                self._done[event.item.stage] += 1
            case RunStarted():
                self._run, self._run_began, self._progress, self._message = event, time.monotonic(), None, ""
            case Progress():
                self._progress = event
            case Message():
                self._message = event.text.splitlines()[-1] if event.text.strip() else ""
            case RunEnded():
                self._end(event)

    def log(self, line: str) -> None:
        """Show a line that concerns no run, such as why an artifact is stale."""
        if not self._run and not line.endswith(" ..."):
            self._console.print(Text(printable(line), style="dim"))

    def _end(self, event: RunEnded) -> None:
        stage = event.items[0].stage
        self._done[stage] += len(event.items)
        self._made[stage] += len(event.items)
        self._seconds[stage] += event.seconds
        self._run = None
        for item in event.items:
            facts = _facts(item)
            if event.error is None or facts:
                self._print("✓", "green", item.name, *facts, _seconds(event.seconds))
            else:
                self._failed[stage] += 1
                self._print("✗", "red", item.name, event.error)

    def _print(self, mark: str, style: str, name: str, *details: str) -> None:
        line = Text.assemble((f"{mark} ", style), printable(name), ("  " + printable(", ".join(details)), "dim"))
        self._console.print(line)

    def render(self) -> RenderableType:
        """Return the view at this moment; it fits the terminal."""
        heading = Table.grid(padding=(0, 1), expand=True)
        heading.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        heading.add_column(justify="right", no_wrap=True)
        heading.add_row(Text(self._title, style="bold"), duration(time.monotonic() - self._began))
        parts: list[RenderableType] = [heading, self._stages()]
        lines = self._console.size.height - len(self._totals) - 2
        if run := self._run:
            parts.append(_line(f"{printable(run.name)}: {duration(time.monotonic() - self._run_began)}", "bold"))
            parts.append(_line(self._status(), "dim"))
            lines -= 2
            if self._progress and self._progress.sample and (sample := _sample(self._progress.sample, lines - 2)):
                parts.append(sample)
        return Group(*parts)

    def _status(self) -> str:
        if not (progress := self._progress):
            return f"  {printable(self._message)}"
        of = f" of {progress.total:,}" if progress.total else ""
        return f"  {progress.done:,}{of} {progress.unit}, {progress.rate}"

    def _stages(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for column in range(6):
            table.add_column(justify="right" if column in (3, 4) else "left", no_wrap=True)
        for stage, total in self._totals.items():
            done, failed = self._done[stage], self._failed[stage]
            current = self._run is not None and self._run.items[0].stage == stage
            share, left = self._estimate(stage) if current else (done / total, None)
            mark, style = ("✗", "red") if failed else ("▶", "cyan") if current else (" ", "dim")
            if done == total and not failed:
                mark, style = "✓", "green"
            seconds = self._seconds[stage] + (time.monotonic() - self._run_began if current else 0.0)
            table.add_row(
                Text(mark, style=style),
                Text(stage, style=style),
                ProgressBar(total=1.0, completed=share, width=BAR_WIDTH),
                f"{done}/{total}",
                _seconds(seconds) if seconds else "reused" if done == total else "",
                f"about {duration(left)} left" if left is not None else "",
            )
        return table

    def _estimate(self, stage: str) -> tuple[float, float | None]:
        """Return how much of the current stage is done, and the seconds that the rest will take if that is known."""
        assert self._run is not None
        total, done, running = self._totals[stage], self._done[stage], len(self._run.items)
        progress = self._progress
        part = progress.done / progress.total if progress and progress.total else 0.0
        left = progress.seconds_left if progress else None
        if left is None:
            return (done + part * running) / total, None
        seconds = self._seconds[stage] + time.monotonic() - self._run_began + left
        per_item = seconds / (self._made[stage] + running)
        return (done + part * running) / total, left + per_item * (total - done - running)


def printable(text: str) -> str:
    """Return text on one line, without anything that a terminal would execute."""
    return "".join(letter if letter.isprintable() else " " for letter in " ".join(text.split()))


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _sample(texts: Any, lines: int) -> RenderableType | None:
    """Return a panel with the completions of one document that takes at most so many lines; None if none fits."""
    prompts = list(texts.items())[: max(0, lines)]
    if not prompts:
        return None
    each = min(SAMPLE_LINES, lines // len(prompts))
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, style="cyan")
    table.add_column(ratio=1)
    for prompt, text in prompts:
        table.add_row(prompt, _Cropped(printable(text), each))
    return Panel(table, title="what the model writes: one document in each form", title_align="left", style="dim")


class _Cropped:
    """A text that takes at most so many lines."""

    def __init__(self, text: str, lines: int) -> None:
        self._text, self._lines = text, lines

    def __rich_console__(self, console: Console, options: Any) -> Iterable[Text]:
        wrapped = Text(self._text).wrap(console, options.max_width)
        for number, line in enumerate(wrapped[: self._lines]):
            if number == self._lines - 1 < len(wrapped) - 1:
                line.truncate(options.max_width - 2)
                line.append(" …")
            yield line


def _facts(item: Item) -> list[str]:
    """Return what is known of a finished partition; nothing if it is not finished."""
    with suppress(NotMaterialized):
        manifest = item.artifact().manifest()
        facts = [text.format(manifest[name]) for name, text in FACTS.items() if manifest.get(name) not in (None, 0)]
        return facts if manifest.get("passed") is not False else [*facts, "FAILED, see the audit's page"]
    return []


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
