"""What a person sees of `finephrase materialize`: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, ConsoleDimensions

from finephrase_dagster.artifacts.artifact import Artifact, NotMaterialized
from finephrase_dagster.artifacts.graph import Item
from finephrase_dagster.artifacts.key import CHECKPOINT, DATASET, SCORES, ItemKey
from finephrase_dagster.commands import live
from finephrase_dagster.commands.live import LiveView, printable
from finephrase_dagster.commands.overall import OverallProgress
from finephrase_dagster.orchestration.progress import (
    Message,
    Progress,
    RunEnded,
    RunStarted,
    Settled,
    listening,
    report,
)
from finephrase_dagster.plan.cost import Cost
from finephrase_dagster.plan.forecast import Forecast
from finephrase_dagster.rephrase.statistics import RunStatistics
from installation import Installation
from pseudo_terminal import terminal

PROMPTS = ("faq", "math", "table", "tutorial")


def missing() -> Artifact:
    raise NotMaterialized("it was never made")


def item(prompt: str | None = None, run: str | None = None, kind: object = DATASET) -> Item:
    cell = {"generator": "tiny", "source": "readmes", "prompt": prompt} if prompt else {"run": run}
    return Item(key=ItemKey(kind=kind, **cell), needs=(), labels=Path(), artifact=missing)  # type: ignore[arg-type]


ITEMS = [
    *(item(prompt) for prompt in PROMPTS),
    *(item(run=run, kind=kind) for kind in (CHECKPOINT, SCORES) for run in ("a__nano__data0_model0", "b")),
]
RUN = RunStarted(name="synthetic/tiny__readmes faq, math, table, tutorial", items=tuple(ITEMS[:4]))


def view_on(columns: int, lines: int, forecast: Forecast | None = None) -> tuple[LiveView, Console]:
    console = Console(file=io.StringIO(), width=columns, height=lines, force_terminal=True, color_system=None)
    return LiveView("demo: does it pay?", ITEMS, console, forecast), console


def screen_of(view: LiveView, console: Console) -> list[str]:
    with console.capture() as capture:
        console.print(view.render())
    return capture.get().splitlines()


@pytest.mark.parametrize(("columns", "lines"), [(100, 30), (80, 24), (60, 12), (200, 60)])
def test_the_view_fits_the_terminal_with_rate_time_left_and_a_document_in_each_form(columns: int, lines: int) -> None:
    view, console = view_on(columns, lines)
    view(RUN)
    sample = {prompt: f"{prompt} text " * 200 for prompt in PROMPTS}
    rate = "5.1 requests/s, 210 tokens/s"
    view(Progress(done=40, total=160, unit="requests", rate=rate, seconds_left=24, sample=sample))
    screen = screen_of(view, console)
    assert len(screen) <= lines
    assert max(map(len, screen)) <= columns
    text = "\n".join(screen)
    assert "40 of 160 requests, 5.1 requests/s, 210 tokens/s" in text
    assert re.search(r"synthetic +[━╸╺ ]+ 0/4 .*about 24 s left", text)
    if lines >= 24:
        assert all(f"{prompt} text" in text for prompt in PROMPTS)


def test_a_finished_partition_leaves_one_line_and_a_failed_one_its_reason() -> None:
    view, console = view_on(80, 24)
    with console.capture() as capture:
        view(Settled(item=ITEMS[0]))
        view(RUN)
        view(RunEnded(name=RUN.name, items=tuple(ITEMS[1:3]), seconds=3.21))
        view(RunEnded(name="x", items=(ITEMS[4],), seconds=1, error="the loss is nan\x1b[2J at step 3"))
    assert capture.get().splitlines() == [
        "✓ synthetic/tiny__readmes/math  3.2 s for 2",
        "✓ synthetic/tiny__readmes/table  3.2 s for 2",
        "✗ training/checkpoint/a__nano__data0_model0  the loss is nan [2J at step 3",
    ]
    screen = "\n".join(screen_of(view, console))
    assert re.search(r"synthetic +\S+ +3/4 ", screen)
    assert "✗ training" in screen


def test_a_line_on_a_finished_partition_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_facts", lambda item: ["16 completed", "1,562 completion tokens"])
    view, console = view_on(60, 20)
    with console.capture() as capture:
        run = item(run="formats_and_raw__nano__data0_model0__and__a_long_variant", kind=CHECKPOINT)
        view(RunEnded(name="x", items=(run,), seconds=75))
    (line,) = capture.get().splitlines()
    assert len(line) <= 60
    assert line.startswith("✓ training…_a_long_variant  16 completed")


def test_the_time_that_is_left_covers_all_stages_and_is_corrected_by_what_runs_took() -> None:
    forecast = Forecast({one.name: Cost(hours=10 / 3600) for one in ITEMS})
    view, console = view_on(80, 24, forecast)
    assert "about 1 min 20 s left" in screen_of(view, console)[-1], "8 items of 10 s each"
    view(Settled(item=ITEMS[0]))
    assert "about 1 min 10 s left" in screen_of(view, console)[-1]
    with console.capture():
        view(RunEnded(name="x", items=tuple(ITEMS[1:3]), seconds=60))
    assert "about 1 min 10 s left" in screen_of(view, console)[-1], "30 s for the fourth item of the slow stage"


def test_what_a_failure_keeps_from_being_made_takes_no_time() -> None:
    after = tuple(replace(one, needs=(ITEMS[0].name,)) for one in ITEMS[4:])
    every = [*ITEMS[:4], *after]
    forecast = Forecast({one.name: Cost(hours=10 / 3600, gpu_hours=1) for one in every}, every, gpu_hour_dollars=3)
    assert forecast.seconds(after) > 0
    forecast.record(ITEMS[:1], 10, failed=True)
    assert forecast.seconds(after) == 0
    assert forecast.cost(ITEMS[1:4]) == "$3.00 of about $12.00"
    assert forecast.cost(after) == "$3.00 of about $3.00"


def test_the_cost_is_that_of_the_graphics_processors() -> None:
    forecast = Forecast({one.name: Cost(gpu_hours=0.5) for one in ITEMS[:4]}, gpu_hour_dollars=3)
    view, console = view_on(80, 24, forecast)
    assert screen_of(view, console)[0].endswith("$0.00 of about $6.00")
    view(Settled(item=ITEMS[0]))
    with console.capture():
        view(RunEnded(name="x", items=tuple(ITEMS[1:2]), seconds=60))
    assert screen_of(view, console)[0].endswith("$1.50 of about $4.50")


def test_after_the_terminal_has_changed_its_size_the_screen_is_drawn_anew() -> None:
    view, console = view_on(100, 30)
    with console.capture():
        view(RunEnded(name="x", items=tuple(ITEMS[:1]), seconds=60))
    console.size = ConsoleDimensions(60, 24)
    with console.capture() as capture:
        view._fitted()
        view._fitted()
    assert capture.get().count("\x1b[2J") == 1
    assert "✓ synthetic/tiny__readmes/faq" in capture.get()


@pytest.mark.slow
@given(st.text())
def test_nothing_that_a_model_writes_is_executed_by_the_terminal(text: str) -> None:
    view, console = view_on(80, 24)
    view(RUN)
    view(Message(text=text))
    view(Progress(done=1, total=2, unit="requests", rate="", sample={"faq": text + "\x1b]0;title\x07"}))
    assert "\x1b" not in "".join(screen_of(view, console))
    assert "\x07" not in printable(text + "\x07")
    assert len(screen_of(view, console)) <= 24


def test_events_reach_a_listener_only_while_it_listens() -> None:
    events: list[object] = []
    report(Message(text="before"))
    with listening(events.append):
        report(Message(text="within"))
    report(Message(text="after"))
    assert events == [Message(text="within")]


def test_the_sample_is_one_document_with_all_its_forms_as_soon_as_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    statistics = RunStatistics()

    def sample_after(*pairs: str) -> list[str]:
        for pair in pairs:
            id, prompt = pair.split()
            statistics.record_sample(id, prompt, pair, prompts=2)
        return list(statistics.sample.values())

    assert sample_after("a faq", "b faq") == ["a faq"], "no document has all forms yet"
    assert sample_after("b math") == ["b faq", "b math"]
    assert sample_after("a math") == ["b faq", "b math"], "it was not shown long enough"
    now += 20
    assert sample_after("c faq", "d faq", "e faq") == ["b faq", "b math"], "no other document has all forms"
    assert sample_after("d math") == ["d faq", "d math"]


@pytest.fixture
def unscored(own: Installation) -> Installation:
    """The finished study without one run's checkpoint and scores."""
    run = "faq_and_raw__nano__data0_model0"
    for folder in [own.lineage.scores(run).folder, own.lineage.checkpoint(run).folder]:
        shutil.rmtree(folder)
    return own


def command(made: Installation, *options: str) -> tuple[list[str], dict[str, str]]:
    arguments = ["materialize", "--study", str(made.study), *options]
    environment = {
        **os.environ,
        "FINEPHRASE_DATA": str(made.paths.data),
        "DAGSTER_HOME": str(made.root / "dagster_home"),
    }
    return [sys.executable, "-m", "finephrase_dagster.commands.main", *arguments], environment


def test_lines_without_a_terminal_say_how_much_is_done_what_is_left_and_what_it_cost() -> None:
    costs = {one.name: Cost(gpu_hours=0.5) for one in ITEMS[4:6]} | {ITEMS[0].name: Cost(hours=0.25)}
    lines: list[str] = []
    overall = OverallProgress(ITEMS, Forecast(costs, gpu_hour_dollars=3.0), lines.append)
    overall(Settled(item=ITEMS[-1]))
    overall(RunEnded(name="a dataset", items=(ITEMS[0],), seconds=900))
    overall(RunEnded(name="a student", items=(ITEMS[4],), seconds=3600))
    overall(RunEnded(name="another student", items=(ITEMS[5],), seconds=60, error="no memory"))
    assert lines == [
        "2 of 8 done, about 1 h 0 min left, $0.00 of about $3.00",
        "3 of 8 done, about 1 h 0 min left, $1.50 of about $3.00",  # it took twice as long as expected
        "3 of 8 done, 1 failed, about 0 s left, $3.00 of about $3.00",
    ]


@pytest.mark.slow
def test_a_terminal_shows_the_view_and_nothing_else_and_ends_with_the_answer_and_next_steps(
    unscored: Installation,
) -> None:
    with terminal(*command(unscored), columns=100, lines=30) as window:
        status, output = window.result()
    assert status == 0, output
    assert "\x1b[?25l" in output, "the cursor is hidden while the view is drawn"
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output).replace("\r", "")
    assert "✓ training/checkpoint/faq_and_raw__nano__data0_model0  " in plain
    assert "✓ evaluation/benchmark_scores/faq_and_raw__nano__data0_model0  macro " in plain
    assert "Warning" not in plain
    end = plain[plain.index(" partitions materialized") :]
    places = [end.index(text) for text in ("Does restructuring", " mixture ", "Time: ", "finephrase ui")]
    assert places == sorted(places)
    assert (unscored.paths.data / "logs" / "materialize.log").read_text().count("loss") > 0


@pytest.mark.slow
def test_ctrl_c_prints_how_to_resume_and_no_stack_trace(unscored: Installation) -> None:
    with terminal(*command(unscored), columns=100, lines=30) as window:
        window.wait_for(lambda output: b"training/checkpoint faq_and_raw" in output)
        os.killpg(window.process.pid, signal.SIGINT)
        status, output = window.result(60)
    assert status == 1
    assert f"To resume: finephrase materialize --study {unscored.study}" in output.replace("\r\n", "")
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--log-format", "json")], ids=["text", "json"])
def test_output_that_is_no_terminal_gets_plain_lines(options: tuple[str, ...], unscored: Installation) -> None:
    line, environment = command(unscored, *options)
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert "\x1b" not in done.stderr + done.stdout
    lines = done.stderr.splitlines()
    if options:
        assert all({"time", "level", "message"} <= json.loads(entry).keys() for entry in lines)
    else:
        assert all(re.match(r"\[ *\d+\.\d s\] |  ", entry) for entry in lines), lines
    assert any("training/checkpoint faq_and_raw__nano__data0_model0: done in" in entry for entry in lines)
    assert Path(unscored.paths.warehouse).exists()
