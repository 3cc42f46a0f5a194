"""Processes: which still run, how a child is ended with all that it started, and the last lines of a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from finephrase_dagster.artifacts.processes import end, is_running, last_lines, start_time, this_process

FAMILY = """
import subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, start_new_session={session})
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def child(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)


def test_a_process_runs_under_its_name_until_it_has_ended() -> None:
    assert is_running(this_process())
    process = child("print('up', flush=True); input()")
    name = f"{process.pid}@{start_time(process.pid)}"
    assert is_running(name)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent has not noticed yet
    assert not is_running(name.format(own=os.getpid()))
    process.communicate()
    assert not is_running(name.format(own=os.getpid()))


@pytest.mark.parametrize("name", ["{own}@0.5", f"{2**22 + 1}@1.0", "None", "", "1@None"])
def test_another_process_with_the_same_id_is_not_taken_for_it(name: str) -> None:
    assert not is_running(name.format(own=os.getpid()))


def test_the_name_of_a_process_does_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    name = this_process()
    before = psutil.boot_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: before + 3600)  # as after an hour's step of the clock
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: before + 3600)
    assert is_running(name)


def test_a_child_that_ends_when_asked_is_not_killed() -> None:
    waits = "import signal, time; signal.signal(15, lambda *_: exit(3)); print('up', flush=True); time.sleep(60)"
    process = child(waits)
    assert process.stdout is not None
    process.stdout.readline()
    end(process, grace_seconds=30)
    assert process.returncode == 3
    end(process, grace_seconds=30)  # again is no error
    process.communicate()


@pytest.mark.parametrize("session", [False, True], ids=["in the group", "in a session of its own"])
def test_what_a_child_started_and_does_not_end_when_asked_is_killed(session: bool) -> None:
    process = child(FAMILY.format(session=session))
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    assert start_time(grandchild) is not None
    began = time.monotonic()
    end(process, grace_seconds=0.5)
    assert time.monotonic() - began < 10
    assert process.returncode == -signal.SIGTERM
    while start_time(grandchild) is not None:  # a killed process needs a moment to be gone
        assert time.monotonic() - began < 10
    process.communicate()


def test_the_last_lines_of_a_log_reach_back_to_where_a_run_began(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_bytes(b"an earlier run\n")
    start = log.stat().st_size
    log.write_bytes(log.read_bytes() + b"one\ntwo \xff\nthree\n\n")
    assert last_lines(log, start=start) == ["one", "two \N{REPLACEMENT CHARACTER}", "three"]
    assert last_lines(log, count=1) == ["three"]
    log.write_bytes(b"".join(b"%d\n" % number for number in range(100_000)))
    assert last_lines(log, count=2) == ["99998", "99999"]
    assert len(log.read_bytes()) > 65_536 > sum(map(len, last_lines(log, count=100_000)))
    assert "cannot be read" in last_lines(tmp_path / "none")[0]
