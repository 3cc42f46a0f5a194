"""Whoever closes the terminal, or kills a command, leaves none of its processes behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from browser import command, environment, free_port
from finephrase_dagster.commands import interruption
from installation import install
from pseudo_terminal import terminal
from rephrase_parts import completion, local_server

MARK = "FINEPHRASE_TEST_MARK"
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def happens(true: Callable[[], Any], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def processes(mark: str) -> list[psutil.Process]:
    """Return the running processes with a mark in their environment."""
    marked = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                marked.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return marked


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_closing_the_terminal_ends_a_rephrasing_run_and_keeps_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f'{{"id": "{number}", "text": "Text {number}."}}\n' for number in range(8)))
    with local_server() as server:
        first = server.answer

        def answer(request: dict[str, Any]) -> Any:
            if len(server.requests) > 4:
                time.sleep(60)
            return first(request)

        server.answer = answer
        options = ["--prompt", "faq", "--output", str(tmp_path / "out"), "--endpoint", server.url, "--model", "tiny"]
        line = [sys.executable, "-m", "finephrase_dagster.commands.main", "rephrase", "--input", str(file), *options]
        mark = str(tmp_path)
        with terminal([*line, "--context", "4096", "--concurrency", "2"], {**os.environ, MARK: mark}) as window:
            assert happens(lambda: len(server.requests) > 5), window.output.decode()
            window.close()
            assert window.process.wait(30) == 1
            assert not processes(mark)
    (journal,) = (tmp_path / "out" / "faq" / "__meta__" / "journals").glob("part-*")
    assert journal.stat().st_size > 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["the terminal is closed", signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_the_command_that_started_it(how: str | signal.Signals, tmp_path: Path) -> None:
    made = install(tmp_path / "installation")
    ports = [free_port(), free_port()]
    line = command(made, "--port", str(ports[0]), "--mlflow-port", str(ports[1]))
    mark = str(tmp_path)
    with terminal(line, {**environment(made), MARK: mark}) as window:
        window.wait_for(lambda _: listens(ports[1]) and (how == signal.SIGKILL or listens(ports[0])), 120)
        if isinstance(how, signal.Signals):
            window.process.send_signal(how)
        else:
            window.close()
        window.process.wait(60)
        assert happens(lambda: not processes(mark)), processes(mark)
        assert not any(map(listens, ports))


def heed_signals() -> None:
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)


def catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Return whether a process has a handler for a signal."""
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(caught, 16) >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 3.0])
def test_a_signal_ends_a_command_with_one_line_whatever_it_does(
    tmp_path: Path, number: signal.Signals, seconds: float
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(f'{{"id": "{row}", "text": "Text {row}."}}\n' for row in range(500)))
    with local_server() as server:
        server.answer = lambda request: time.sleep(0.2) or completion()  # type: ignore[func-returns-value]
        options = ["--prompt", "faq", "--output", str(tmp_path / "out"), "--endpoint", server.url, "--model", "tiny"]
        line = [sys.executable, "-m", "finephrase_dagster.commands.main", "rephrase", "--input", str(file), *options]
        line += ["--context", "4096", "--concurrency", "2"]
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals
        )
        assert happens(lambda: catches(process, signal.SIGTERM))  # Python itself handles SIGINT
        time.sleep(seconds)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, ""), err
    (last,) = [line for line in err.splitlines() if "interrupted" in line]
    assert last == interruption.MESSAGE == err.splitlines()[-1]
    assert "Traceback" not in err


def test_an_interrupt_that_arrives_in_a_finalizer_is_repeated() -> None:
    program = """
import os, signal, time
from finephrase_dagster.commands import interruption
interruption.raise_interrupts()
class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
try:
    Finalized()
    time.sleep(30)
except KeyboardInterrupt:
    raise SystemExit(1)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", "")
