"""Progress of a rephrasing run: bars on a terminal, lines of a log elsewhere."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from finephrase_dagster.rephrase.account import Account, PromptStatistics
from finephrase_dagster.rephrase.completion import Completion
from finephrase_dagster.rephrase.outcome import Completed
from finephrase_dagster.rephrase.progress import Bars, Lines, goodput_text, run_cost
from finephrase_dagster.rephrase.statistics import RunStatistics, duration

PROMPTS = ("faq", "math", "table", "tutorial")


def statistics(completed: int) -> RunStatistics:
    """Return the statistics of a run over 100 documents and 4 prompts, with 40 requests finished before."""
    run = RunStatistics()
    for prompt in PROMPTS:
        run.prompts[prompt] = PromptStatistics(total=100, done_before=10)
    run.record_sent()
    done = Completed(
        id="a",
        text="",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=10,
        document_cut=False,
        document_sha256="",
    )
    for number in range(completed):
        run.record_tokens(Completion(text="", finish_reason="stop", prompt_tokens=1, completion_tokens=10))
        run.record_outcome(PROMPTS[number % 4], done, None)
    return run


def test_there_is_a_bar_for_all_requests_and_one_per_prompt() -> None:
    terminal = io.StringIO()
    bars = Bars(Console(file=terminal, force_terminal=True, width=160, color_system=None))
    bars(statistics(60))
    bars.close()
    shown = terminal.getvalue()
    assert "25/100" in shown
    assert "100/400" in shown
    assert "0 failed" in shown


def test_a_line_that_is_logged_while_bars_are_shown_appears_once(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    bars = Bars(Console(file=terminal, force_terminal=True, width=160, color_system=None))
    bars(statistics(1))
    sys.stderr.write("the engine is restarted\n")
    bars(statistics(2))
    bars.close()
    assert terminal.getvalue().count("the engine is restarted") == 1


def test_bars_that_were_never_shown_leave_nothing_behind() -> None:
    terminal = io.StringIO()
    Bars(Console(file=terminal, force_terminal=True)).close()
    assert terminal.getvalue() == ""


def test_lines_are_logged_no_more_often_than_asked() -> None:
    lines: list[str] = []
    often, seldom = Lines(lines.append, seconds=0), Lines(lines.append, seconds=60)
    for _ in range(3):
        often(statistics(60))
        seldom(statistics(60))
    assert len(lines) == 3
    assert lines[0].startswith("100 of 400 requests done, ")
    assert "  faq: 25 of 100 documents (25%), 150 tokens, " in lines[0]


def test_the_cost_of_a_run_is_that_of_all_its_prompts_so_that_it_never_falls() -> None:
    run = statistics(0)
    for prompt in run.prompts.values():
        prompt.before = Account(kept=30_000, dollars=None, gpu_seconds=None, runs=1)
    assert run_cost(run) == "0.03 engine-hours so far"


def test_the_goodput_of_a_dataset_can_be_derived_from_its_line() -> None:
    facts = Account(kept=60_000, start=40_000, tokens=500, best=10.0, runs=1).facts()
    assert goodput_text("faq", facts).startswith("faq: goodput 50%, ideal 50.0 of 100.0 s with an engine (")


@pytest.mark.parametrize(("seconds", "text"), [(8.4, "8 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min")])
def test_a_duration_is_short_to_read(seconds: float, text: str) -> None:
    assert duration(seconds) == text
