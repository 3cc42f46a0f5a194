"""The live view of `finephrase materialize`: stages with their progress, the current run, and what the model writes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from finephrase_dagster.artifacts.artifact import NotMaterialized
from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.commands.terminal import printable
from finephrase_dagster.orchestration.progress import Event, Message, Progress, RunEnded, RunStarted, Settled
from finephrase_dagster.plan.forecast import Forecast
from finephrase_dagster.rephrase.statistics import duration

REFRESHES_PER_SECOND = 4
BAR_WIDTH, NARROWEST_BAR = 20, 4
COLUMNS_WIDTH = 56  # of a stage's row without its bar
RUN_LINES = 2  # on the current run
ALMOST = 0.95  # of a run that takes longer than expected
SHORTEST_NAME = 24  # characters of a finished partition's name
LINES_KEPT, VIEW_LINES = 50, 20  # of what was printed above the view; of the view, roughly
SAMPLE_LINES = 4  # at most, per prompt
FACTS = {
    "completed": "{:,} completed",
    "failed": "{:,} failed",
    "rows": "{:,} rows",
    "dropped": "{:,} left out",
    "tokens": "{:,} tokens",
    "final_loss": "loss {:.3f}",
    "macro": "macro {:.4f}",
}
"""The fields of manifests that are shown with a finished partition."""


class LiveView:
    """Shows the events of a study's materialization on a terminal."""

    def __init__(self, title: str, items: Sequence[Item], console: Console, forecast: Forecast | None = None) -> None:
        self._title, self._console, self._forecast = title, console, forecast or Forecast({})
        self._stages: dict[str, _Stage] = {}
        for item in items:
            self._stages.setdefault(item.stage, _Stage()).items[item.name] = item
        self._began = time.monotonic()
        self._run: RunStarted | None = None
        self._run_began = 0.0
        self._progress: Progress | None = None
        self._message = ""
        self._size = console.size
        self._printed = deque[Text](maxlen=LINES_KEPT)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the view within the block."""
        with Live(
            get_renderable=self._fitted,
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
                self._stages[event.item.stage].done.add(event.item.name)
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
            self._print(Text(printable(line), style="dim"))

    def _end(self, event: RunEnded) -> None:
        stage = self._stages[event.items[0].stage]
        stage.done.update(item.name for item in event.items)
        stage.seconds += event.seconds
        self._forecast.record(event.items, event.seconds, failed=event.error is not None)
        self._run = None
        together = f" for {len(event.items)}" if len(event.items) > 1 else ""
        for item in event.items:
            facts = _facts(item)
            if event.error is None or facts:
                details = ", ".join([*facts, _seconds(event.seconds) + together])
                self._print(_one_line("✓", "green", item.name, details, self._console.width))
            else:
                stage.failed += 1
                self._print(Text.assemble(("✗ ", "red"), printable(item.name), ("  " + printable(event.error), "dim")))

    def _print(self, line: Text) -> None:
        self._printed.append(line)
        self._console.print(line)

    def _fitted(self) -> RenderableType:
        """Return the view; after the terminal's size has changed, draw all anew, because its lines have moved."""
        if (size := self._console.size) != self._size:
            self._size = size
            self._console.control(Control.clear(), Control.home())
            room = max(0, size.height - VIEW_LINES)
            for line in list(self._printed)[-room:] if room else []:
                self._console.print(line)
        return self.render()

    def render(self) -> RenderableType:
        """Return the view at this moment; it fits the terminal."""
        width, height = self._console.size
        heading = Table.grid(padding=(0, 1), expand=True)
        heading.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        heading.add_column(justify="right", no_wrap=True)
        left = [item for stage in self._stages.values() for item in stage.left]
        heading.add_row(Text(self._title, style="bold"), self._forecast.cost(left) or "no GPU: $0")
        stages = self._table(width, all_stages=height > len(self._stages) + RUN_LINES + 2)
        parts: list[RenderableType] = [heading, stages]
        lines = height - stages.row_count - 2
        if run := self._run:
            parts.append(_line(f"{printable(run.name)}: {duration(time.monotonic() - self._run_began)}", "bold"))
            parts.append(_line(self._status(), "dim"))
            lines -= RUN_LINES
            if self._progress and self._progress.sample and (sample := _sample(self._progress.sample, lines - 2)):
                parts.append(sample)
        return Group(*parts)

    def _status(self) -> str:
        if not (progress := self._progress):
            return f"  {printable(self._message)}"
        of = f" of {progress.total:,}" if progress.total else ""
        return f"  {progress.done:,}{of} {progress.unit}, {progress.rate}"

    def _table(self, width: int, *, all_stages: bool) -> Table:
        """Return a row per stage, or for the current one alone, and one for all together."""
        table = Table.grid(padding=(0, 1))
        for column in range(6):
            table.add_column(justify="right" if column in (3, 4) else "left", no_wrap=True)
        bar = max(NARROWEST_BAR, min(BAR_WIDTH, width - COLUMNS_WIDTH))
        left = 0.0
        for name, stage in self._stages.items():
            current = self._run is not None and self._run.items[0].stage == name
            estimate = self._estimate(stage, current=current)
            left += estimate.left
            if not (current or all_stages):
                continue
            mark, style = ("✗", "red") if stage.failed else ("▶", "cyan") if current else (" ", "dim")
            if len(stage.done) == len(stage.items) and not stage.failed:
                mark, style = "✓", "green"
            seconds = stage.seconds + (time.monotonic() - self._run_began if current else 0.0)
            reused = "reused" if len(stage.done) == len(stage.items) else ""
            table.add_row(
                Text(mark, style=style),
                Text(name, style=style),
                ProgressBar(total=len(stage.items), completed=estimate.done, width=bar),
                f"{len(stage.done)}/{len(stage.items)}",
                _seconds(seconds) if seconds else reused,
                Text(_left(estimate.left), style="" if current else "dim"),
            )
        done = sum(len(stage.done) for stage in self._stages.values())
        every = sum(len(stage.items) for stage in self._stages.values())
        elapsed = time.monotonic() - self._began
        table.add_row(
            "",
            Text("total", style="bold"),
            ProgressBar(total=elapsed + left, completed=elapsed, width=bar),
            f"{done}/{every}",
            _seconds(elapsed),
            Text(_left(left), style="bold"),
        )
        return table

    def _estimate(self, stage: _Stage, *, current: bool) -> _Estimate:
        """Return how many items of a stage are done, partly done ones included, and the seconds that it still takes."""
        if not current or not (run := self._run):
            return _Estimate(len(stage.done), self._forecast.seconds(stage.left))
        running = {item.name for item in run.items}
        elapsed, progress = time.monotonic() - self._run_began, self._progress
        expected = self._forecast.seconds(run.items)
        left = max(0.0, expected - elapsed)
        share = min(elapsed / expected, ALMOST) if expected else 0.0
        if progress and progress.total:
            share = progress.done / progress.total
            left = left if progress.seconds_left is None else progress.seconds_left
        waiting = [item for item in stage.left if item.name not in running]
        return _Estimate(len(stage.done) + share * len(running), left + self._forecast.seconds(waiting))


@dataclass
class _Stage:
    """The items of a stage: all by name, the names of those that are done, and seconds of runs so far."""

    items: dict[str, Item] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: int = 0
    seconds: float = 0.0

    @property
    def left(self) -> list[Item]:
        return [item for name, item in self.items.items() if name not in self.done]


class _Estimate(NamedTuple):
    """How many items are done, and the seconds that the others take."""

    done: float
    left: float


def _left(seconds: float) -> str:
    return f"about {duration(seconds)} left" if seconds >= 0.5 else ""


def _one_line(mark: str, style: str, name: str, details: str, width: int) -> Text:
    """Return a line on a finished partition; a name that does not fit loses its middle."""
    name, room = printable(name), max(SHORTEST_NAME, width - len(details) - 4)
    if len(name) > room:
        name = f"{name[: room // 3]}…{name[room // 3 + 1 - room :]}"
    line = Text.assemble((f"{mark} ", style), name, (f"  {printable(details)}", "dim"))
    line.truncate(width, overflow="ellipsis")
    return line


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
        known = {name: value for name, value in manifest.items() if isinstance(value, int | float) and value}
        facts = [text.format(known[name]) for name, text in FACTS.items() if name in known]
        return facts if manifest.get("passed") is not False else [*facts, "FAILED, see the audit's page"]
    return []


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(seconds)
