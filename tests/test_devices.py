"""Device leases: real processes that want the same devices, however they end."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finephrase_dagster.orchestration.devices import (
    DevicesBusy,
    InvalidDevices,
    are_free,
    lease,
    leased,
    leased_here,
)
from finephrase_dagster.rephrase import guard

HOLD = """
import sys, time
from finephrase_dagster.orchestration.devices import lease
held = lease(int(sys.argv[1]), sys.argv[2], log=lambda line: print(line, flush=True))
print("has", ",".join(held.devices), flush=True)
time.sleep(float(sys.argv[3]))
held.release()
print("released", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINEPHRASE_DEVICE_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr("finephrase_dagster.orchestration.devices._in_process", ())
    return tmp_path / "locks"


class Holder:
    """Another process that leases devices for some seconds."""

    def __init__(self, count: int, what: str, seconds: float = 60) -> None:
        command = [sys.executable, "-c", HOLD, str(count), what, str(seconds)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    started: list[Holder] = []
    yield started
    for holder in started:
        holder.kill()


def test_a_machine_without_a_gpu_has_one_device_whatever_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "cpu")
    held = lease(8, "a large engine", log=print)
    assert held.devices == ("cpu",)
    assert held.environment == {}
    held.release()


def test_a_lease_sets_the_environment_of_the_processes_that_use_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0,1,2")
    first, second = lease(2, "one", log=print), lease(1, "two", log=print)
    assert first.environment == {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert second.devices == ("2",)
    assert not are_free(1)
    first.release()
    assert are_free(2)
    assert not are_free(3)
    second.release()


def test_the_devices_of_a_lease_are_divided_among_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0,1,2,3")
    held = lease(4, "2 engines", log=print)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in held.environments(2)] == ["0,1", "2,3"]
    held.release()
    with pytest.raises(InvalidDevices, match=r"5 engines needs 5 GPUs, .* or the number of workers"):
        lease(5, "5 engines", log=print)


def test_a_waiting_process_logs_who_holds_the_device_and_gives_up_at_its_limit(
    monkeypatch: pytest.MonkeyPatch, holders: list[Holder]
) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0")
    holders.append(Holder(1, "the training of nano"))
    assert holders[0].says() == "has 0"
    lines: list[str] = []
    with pytest.raises(DevicesBusy, match=r"0 is held by process \d+ \(the training of nano\)\. Stop it, or raise"):
        lease(1, "an engine of tiny", log=lines.append, wait_seconds=0.5)
    assert lines == [
        f"waiting for 1 of the GPUs 0: 0 is held by process {holders[0].process.pid} (the training of nano)"
    ]


def test_a_lease_ends_as_soon_as_its_holder_is_killed(monkeypatch: pytest.MonkeyPatch, holders: list[Holder]) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0")
    holders += [Holder(1, "first")]
    assert holders[0].says() == "has 0"
    holders += [Holder(1, "second")]
    assert holders[1].says().startswith("waiting for 1 of the GPUs 0")
    holders[0].process.send_signal(signal.SIGKILL)
    assert holders[1].says().startswith("waited ")
    assert holders[1].says() == "has 0"


@pytest.mark.slow
def test_no_two_processes_ever_hold_the_same_device(monkeypatch: pytest.MonkeyPatch, holders: list[Holder]) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0,1")
    holders += [Holder(count, f"holder {count}", 0.3) for count in (1, 2, 1, 2)]
    events: list[tuple[float, int, set[str]]] = []

    def follow(holder: Holder) -> None:
        devices: set[str] = set()
        while (line := holder.says()) != "":
            if line.startswith("has "):
                devices = set(line.removeprefix("has ").split(","))
                events.append((time.monotonic(), 1, devices))
            if line == "released":
                events.append((time.monotonic(), -1, devices))
                return

    threads = [threading.Thread(target=follow, args=(holder,)) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(events) == 8
    # A holder prints "released" after it did, so another one may print "has" before that line is read.
    spans = [(time_, devices) for time_, change, devices in events if change == 1]
    for earlier, later in itertools.pairwise(spans):
        if earlier[1] & later[1]:
            assert later[0] - earlier[0] > 0.25


def test_a_large_lease_is_not_starved_by_small_ones(monkeypatch: pytest.MonkeyPatch, holders: list[Holder]) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0,1")
    holders += [Holder(1, "small")]
    assert holders[0].says() == "has 0"
    holders += [Holder(2, "large")]
    assert holders[1].says().startswith("waiting for 2 of the GPUs 0, 1: 0 is held by")  # and it holds 1 by now
    with pytest.raises(DevicesBusy):
        lease(1, "another small one", log=print, wait_seconds=0.6)  # the large one holds device 1
    holders[0].kill()
    assert holders[1].says().startswith("waited")
    assert set(holders[1].says().removeprefix("has ").split(",")) == {"0", "1"}


def test_more_gpus_than_the_machine_has_are_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0,1")
    with pytest.raises(InvalidDevices, match=r"needs 4 GPUs, but this machine has 2 \(0, 1\)\. Lower the engine's"):
        lease(4, "an engine of large", log=print)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("FINEPHRASE_DEVICES", "0,0", "lists a device twice"),
        ("FINEPHRASE_DEVICE_WAIT_SECONDS", "soon", "is not a number of seconds"),
    ],
)
def test_an_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidDevices, match=f"{name}.*{words}"):
        lease(1, "anything", log=print)


def test_a_process_that_computes_itself_leases_the_same_device_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0,1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first = lease(1, "elsewhere", log=print)
    with leased_here("training", log=print):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    first.release()
    with leased_here("evaluating", log=print):  # PyTorch in this process sees device 1 only
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        assert are_free(1)
        assert not are_free(2)
    monkeypatch.setattr("finephrase_dagster.orchestration.devices._in_process", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with leased("a cluster's training", 2, log=print):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_an_engine_holds_its_device_until_its_last_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the driver is killed, its engine needs a moment to end and keeps its device until then."""
    monkeypatch.setenv("FINEPHRASE_DEVICES", "0")
    held = lease(1, "an engine", log=print)
    server = "import time; print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-P", guard.__file__, str(os.getpid()), sys.executable, "-c", server],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=held.files,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    held.release()  # as the death of this process would
    assert not are_free(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    deadline = time.monotonic() + 5
    while not are_free(1):  # the kernel ends the processes of a group one by one
        assert time.monotonic() < deadline
        time.sleep(0.01)
