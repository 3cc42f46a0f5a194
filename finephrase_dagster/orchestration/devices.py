"""Devices: who may keep a GPU of this machine busy, or its CPU where it has none.

Dagster's pools order the runs of one instance. Beneath them every user of a device - engine, trainer, evaluator, also
of `finephrase materialize` and `finephrase rephrase`, and of other instances - leases it: an flock a device, which the
kernel releases when its holder dies, however it dies. A lease of several devices is all or nothing: who is first in
the queue gathers, and the others wait behind, so that a large lease is not starved by small ones. None of this is
identity.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from finephrase_dagster.artifacts.claim import lock_file
from finephrase_dagster.errors import FinephraseError

CPU = "cpu"
DEVICES, LOCKS, WAIT = "FINEPHRASE_DEVICES", "FINEPHRASE_DEVICE_LOCKS", "FINEPHRASE_DEVICE_WAIT_SECONDS"
VISIBLE = "CUDA_VISIBLE_DEVICES"
DAY = 86_400.0
POLL_SECONDS = 0.25
FOR_ALL = 0o666
SAY_SECONDS = 60.0

_in_process: tuple[str, ...] = ()
"""The devices that this process itself computes on; PyTorch sees them alone from its start to its end."""


class DevicesBusy(FinephraseError, retryable=True):
    """Others held the devices for longer than this process may wait; the message names them."""


class InvalidDevices(FinephraseError, exit_status=2):
    """More devices are asked for than this machine has, or a setting is wrong."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Devices that are held until `release`.

    Attributes:
        devices: their names: indices of GPUs, or `cpu`.
    """

    devices: tuple[str, ...]
    _locks: list[IO[str]] = field(default_factory=list, repr=False, compare=False)

    @property
    def environment(self) -> dict[str, str]:
        """What a process that uses them must see; nothing on a machine without GPUs."""
        if self.devices == (CPU,):
            return {}
        # As nvidia-smi counts them; CUDA by itself puts the fastest first.
        return {VISIBLE: ",".join(self.devices), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    @property
    def files(self) -> tuple[int, ...]:
        """File descriptors; a process that inherits them holds the devices until it ends, too."""
        return tuple(lock.fileno() for lock in self._locks)

    def release(self) -> None:
        """Lets others have them."""
        while self._locks:
            self._locks.pop().close()


def lease(
    count: int,
    what: str,
    *,
    log: Callable[[str], None],
    wait_seconds: float | None = None,
    among: Sequence[str] | None = None,
) -> Lease:
    """Waits for devices and takes them.

    Args:
        count: how many; a machine without GPUs has one device, its CPU, whatever is asked for.
        what: they are wanted for, told to those who wait.
        log: takes a line a minute while this waits.
        wait_seconds: for how long at most; default: `FINEPHRASE_DEVICE_WAIT_SECONDS`, else a day.
        among: the devices to choose from; default: all of this machine.

    Raises:
        InvalidDevices: there are not so many.
        DevicesBusy: they did not become free in time.
    """
    devices = tuple(among or machine_devices())
    count = 1 if devices == (CPU,) else count
    if count > len(devices):
        raise InvalidDevices(
            f"{what} needs {count} GPUs, this machine has {len(devices)} ({', '.join(devices)}): lower the engine's "
            f"parallel sizes, or name more devices in {DEVICES}"
        )
    folder = _folder()
    waiting = _Waiting(what, count, devices, folder, _limit() if wait_seconds is None else wait_seconds, log)
    taken: dict[str, IO[str]] = {}
    with contextlib.ExitStack() as on_error:
        on_error.callback(lambda: [lock.close() for lock in taken.values()])
        while (queue := lock_file(folder / f"queue-{_queue_of(devices)}", mode=FOR_ALL)) is None:
            waiting.poll()
        with queue:
            while len(taken) < count:
                for device in devices:
                    if device not in taken and len(taken) < count and (lock := _take(folder, device, what)):
                        taken[device] = lock
                if len(taken) < count:
                    waiting.poll()
        on_error.pop_all()
    waiting.over()
    return Lease(devices=tuple(taken), _locks=list(taken.values()))


@contextlib.contextmanager
def leased(what: str, count: int, *, log: Callable[[str], None]) -> Iterator[None]:
    """A lease for a block whose child processes compute on the devices; they see these alone."""
    held = lease(count, what, log=log)
    before = {name: os.environ.get(name) for name in held.environment}
    try:
        os.environ.update(held.environment)
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        held.release()


@contextlib.contextmanager
def leased_here(what: str, *, log: Callable[[str], None]) -> Iterator[None]:
    """A lease of one device for a block that computes in this process.

    PyTorch sees just that device. What it has seen once it sees for ever, so a later block of the same process asks
    for the same one.
    """
    global _in_process
    held = lease(1, what, log=log, among=_in_process or None)
    try:
        _in_process = held.devices
        os.environ.update(held.environment)
        yield
    finally:
        _empty_caches()
        held.release()


def free(count: int) -> bool:
    """Whether so many devices could be had without waiting."""
    found = [lock for device in machine_devices() if (lock := _take(_folder(), device, "looking"))]
    for lock in found:
        lock.close()
    return len(found) >= min(count, len(machine_devices()))


def machine_devices() -> tuple[str, ...]:
    """This machine's devices: those that `FINEPHRASE_DEVICES` names, else its GPUs, else `cpu`.

    Raises:
        InvalidDevices: a device is named twice.
    """
    said = os.environ.get(DEVICES, "")
    names = tuple(name.strip() for name in said.split(",") if name.strip())
    if len(set(names)) < len(names):
        raise InvalidDevices(f"{DEVICES}={said!r} names a device twice; name each once, such as 0,1,2 or cpu")
    return names or _found()


@cache
def _found() -> tuple[str, ...]:
    if (visible := os.environ.get(VISIBLE)) is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip()) or (CPU,)
    if command := shutil.which("nvidia-smi"):
        asked = [command, "--query-gpu=index", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout
            return tuple(line.strip() for line in said.splitlines() if line.strip().isdigit()) or (CPU,)
    if not (any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()):
        return (CPU,)
    from torch import cuda  # slow to import

    return tuple(str(index) for index in range(cuda.device_count())) or (CPU,)


def _empty_caches() -> None:
    """Gives back the memory that PyTorch keeps for later."""
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()  # does nothing where CUDA was not used


@dataclass
class _Waiting:
    """A wait for devices: how long it may last, and what is said of it."""

    what: str
    count: int
    devices: tuple[str, ...]
    folder: Path
    limit: float
    log: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    said: float = -math.inf

    def poll(self) -> None:
        """Sleeps for a moment; raises DevicesBusy at the end."""
        now = time.monotonic()
        if now - self.began >= self.limit:
            raise DevicesBusy(
                f"{self.what} waited {self._time(now)} for {self._wanted}: {self._holders()}; stop it, or raise {WAIT}"
            )
        if now - self.said >= SAY_SECONDS:
            self.log(f"waiting for {self._wanted}: {self._holders()}")
            self.said = now
        time.sleep(POLL_SECONDS)

    def over(self) -> None:
        """Says how long it was, if anything was said before."""
        if self.said > -math.inf:
            self.log(f"waited {self._time(time.monotonic())} for {self._wanted}")

    @property
    def _wanted(self) -> str:
        return "the CPU" if self.devices == (CPU,) else f"{self.count} of the GPUs {', '.join(self.devices)}"

    def _time(self, now: float) -> str:
        return f"{now - self.began:.0f} s"

    def _holders(self) -> str:
        held = {device: holder for device in self.devices if (holder := _holder(self.folder / f"device-{device}"))}
        return ", ".join(f"{device} is held by {holder}" for device, holder in held.items()) or "others wait before it"


def _take(folder: Path, device: str, what: str) -> IO[str] | None:
    """The lock of a device; None if it is held."""
    lock = lock_file(folder / f"device-{device}", mode=FOR_ALL)
    if lock is None:
        return None
    lock.seek(0)
    lock.truncate()
    lock.write(json.dumps({"pid": os.getpid(), "what": what}))
    lock.flush()
    return lock


def _holder(path: Path) -> str:
    """Who holds a device; nothing if that is this process, which gathers."""
    try:
        said: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
        return f"process {said['pid']} ({said['what']})" if said["pid"] != os.getpid() else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _folder() -> Path:
    """One for the whole machine, whatever the data folder: a device has no other."""
    folder = Path(os.environ.get(LOCKS) or Path(tempfile.gettempdir()) / "finephrase-devices")
    try:
        folder.mkdir(parents=True, mode=0o777)
        folder.chmod(0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise InvalidDevices(f"the locks of devices cannot be kept in {folder} ({reason}): set {LOCKS}") from error
    return folder


def _queue_of(devices: Sequence[str]) -> str:
    return CPU if tuple(devices) == (CPU,) else "gpu"


def _limit() -> float:
    said = os.environ.get(WAIT)
    try:
        seconds = float(said) if said else DAY
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InvalidDevices(f"{WAIT}={said!r} is no number of seconds; write one, such as 3600")
    return seconds
