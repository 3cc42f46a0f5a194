"""Device leases: which process may use a GPU of this machine, or its CPU if it has no GPU.

Dagster's pools limit the runs of one instance. In addition, every engine, trainer and evaluator leases its devices,
whether Dagster, `finephrase materialize` or `finephrase rephrase` started it, so that several instances can share a
machine. A lease holds one lock file per device, which the kernel unlocks when its holder ends, however it ends. A
process that waits for several devices collects them while the others queue behind it, so small leases cannot starve a
large one. Leases never enter a fingerprint.
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
FOR_ALL = 0o666  # any user of the machine may lock a device
LOG_SECONDS = 60.0

_in_process: tuple[str, ...] = ()
"""The devices that this process itself uses; PyTorch sees only them until the process ends."""


class DevicesBusy(FinephraseError, retryable=True):
    """Other processes held the devices for longer than this one may wait; the message names them."""


class InvalidDevices(FinephraseError, exit_status=2):
    """The machine has fewer devices than requested, or a setting is invalid."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Devices that this process holds until `release`.

    Attributes:
        devices: indices of GPUs, or `cpu`.
    """

    devices: tuple[str, ...]
    _locks: list[IO[str]] = field(default_factory=list, repr=False, compare=False)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables for a process that uses the devices; empty on a machine without GPUs."""
        return self.environments(1)[0]

    def environments(self, parts: int) -> Sequence[dict[str, str]]:
        """Return the same for several processes, each of which uses as many of the devices; they share a CPU."""
        if self.devices == (CPU,):
            return [{}] * parts
        size = len(self.devices) // parts
        shares = [self.devices[size * part : size * (part + 1)] for part in range(parts)]
        # The order of nvidia-smi; by default CUDA puts the fastest GPU first.
        return [{VISIBLE: ",".join(share), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} for share in shares]

    @property
    def files(self) -> tuple[int, ...]:
        """Return the locks' file descriptors; a process that inherits them holds the devices until it ends, too."""
        return tuple(lock.fileno() for lock in self._locks)

    def release(self) -> None:
        """Release the devices."""
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
    """Wait for devices and lease them.

    Args:
        count: number of devices; a machine without GPUs has one device, its CPU, whatever the count.
        what: purpose of the lease, shown to processes that wait.
        log: receives one line per minute while this process waits.
        wait_seconds: longest wait; default: `FINEPHRASE_DEVICE_WAIT_SECONDS`, else one day.
        among: devices to choose from; default: all devices of this machine.

    Raises:
        InvalidDevices: the machine has fewer devices.
        DevicesBusy: the devices were not released in time.
    """
    devices = tuple(among or machine_devices())
    count = 1 if devices == (CPU,) else count
    if count > len(devices):
        raise InvalidDevices(
            f"{what} needs {count} GPUs, but this machine has {len(devices)} ({', '.join(devices)}). Lower the "
            f"engine's parallel sizes or the number of workers, or list more devices in {DEVICES}."
        )
    folder, queue_name = _folder(), CPU if devices == (CPU,) else "gpu"
    waiting = _Waiting(what, count, devices, folder, _limit() if wait_seconds is None else wait_seconds, log)
    taken: dict[str, IO[str]] = {}
    with contextlib.ExitStack() as on_error:
        on_error.callback(lambda: [lock.close() for lock in taken.values()])
        while (queue := lock_file(folder / f"queue-{queue_name}", mode=FOR_ALL)) is None:
            waiting.poll()
        with queue:
            while len(taken) < count:
                for device in devices:
                    if device not in taken and len(taken) < count and (lock := _take(folder, device, what)):
                        taken[device] = lock
                if len(taken) < count:
                    waiting.poll()
        on_error.pop_all()
    waiting.finish()
    return Lease(devices=tuple(taken), _locks=list(taken.values()))


@contextlib.contextmanager
def leased(what: str, count: int, *, log: Callable[[str], None]) -> Iterator[None]:
    """Lease devices for a block; the child processes that it starts see only these devices."""
    current = lease(count, what, log=log)
    before = {name: os.environ.get(name) for name in current.environment}
    try:
        os.environ.update(current.environment)
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        current.release()


@contextlib.contextmanager
def leased_here(what: str, *, log: Callable[[str], None]) -> Iterator[None]:
    """Lease one device for a block that computes in this process; PyTorch sees only that device.

    PyTorch cannot be shown another device later, so a later block of the same process leases the same one.
    """
    global _in_process
    current = lease(1, what, log=log, among=_in_process or None)
    try:
        _in_process = current.devices
        os.environ.update(current.environment)
        yield
    finally:
        _empty_caches()
        current.release()


def are_free(count: int) -> bool:
    """Return whether so many devices can be leased without waiting."""
    locks = [lock for device in machine_devices() if (lock := _take(_folder(), device, "checking"))]
    for lock in locks:
        lock.close()
    return len(locks) >= min(count, len(machine_devices()))


def machine_devices() -> tuple[str, ...]:
    """Return this machine's devices: those in `FINEPHRASE_DEVICES`, else its GPUs, else `cpu`.

    Raises:
        InvalidDevices: `FINEPHRASE_DEVICES` lists a device twice.
    """
    listed = os.environ.get(DEVICES, "")
    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    if len(set(names)) < len(names):
        raise InvalidDevices(f"{DEVICES}={listed!r} lists a device twice. List each once, such as 0,1,2 or cpu.")
    return names or _detected()


@cache
def _detected() -> tuple[str, ...]:
    if (visible := os.environ.get(VISIBLE)) is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip()) or (CPU,)
    if command := shutil.which("nvidia-smi"):
        query = [command, "--query-gpu=index", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            output = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
            return tuple(line.strip() for line in output.splitlines() if line.strip().isdigit()) or (CPU,)
    if not (any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()):
        return (CPU,)
    from torch import cuda  # slow to import

    return tuple(str(index) for index in range(cuda.device_count())) or (CPU,)


def _empty_caches() -> None:
    """Release the GPU memory that PyTorch has cached."""
    if torch := sys.modules.get("torch"):
        torch.cuda.empty_cache()  # does nothing if CUDA was not used


@dataclass
class _Waiting:
    """A wait for devices, with its limit and its log messages."""

    what: str
    count: int
    devices: tuple[str, ...]
    folder: Path
    limit: float
    log: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    logged: float = -math.inf

    def poll(self) -> None:
        """Sleep for a moment; raise DevicesBusy if the limit is reached."""
        now = time.monotonic()
        if now - self.began >= self.limit:
            raise DevicesBusy(
                f"{self.what} waited {self._time(now)} for {self._wanted}: {self._holders()}. Stop it, or raise {WAIT}."
            )
        if now - self.logged >= LOG_SECONDS:
            self.log(f"waiting for {self._wanted}: {self._holders()}")
            self.logged = now
        time.sleep(POLL_SECONDS)

    def finish(self) -> None:
        """Log how long the wait was, if it was logged at all."""
        if self.logged > -math.inf:
            self.log(f"waited {self._time(time.monotonic())} for {self._wanted}")

    @property
    def _wanted(self) -> str:
        return "the CPU" if self.devices == (CPU,) else f"{self.count} of the GPUs {', '.join(self.devices)}"

    def _time(self, now: float) -> str:
        return f"{now - self.began:.0f} s"

    def _holders(self) -> str:
        held = {device: holder for device in self.devices if (holder := _holder(self.folder / f"device-{device}"))}
        return (
            ", ".join(f"{device} is held by {holder}" for device, holder in held.items())
            or "others are first in the queue"
        )


def _take(folder: Path, device: str, what: str) -> IO[str] | None:
    """Lock a device; return None if another process holds it."""
    lock = lock_file(folder / f"device-{device}", mode=FOR_ALL)
    if lock is None:
        return None
    lock.seek(0)
    lock.truncate()
    lock.write(json.dumps({"pid": os.getpid(), "what": what}))
    lock.flush()
    return lock


def _holder(path: Path) -> str:
    """Return the process that holds a device; empty if it is this process, which still collects devices."""
    try:
        holder: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} ({holder['what']})" if holder["pid"] != os.getpid() else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _folder() -> Path:
    """Return the folder of the lock files: one per machine, whatever the data folder."""
    folder = Path(os.environ.get(LOCKS) or Path(tempfile.gettempdir()) / "finephrase-devices")
    try:
        folder.mkdir(parents=True, mode=0o777)
        folder.chmod(0o1777)
    except FileExistsError:
        pass
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise InvalidDevices(
            f"cannot create the folder {folder} for the locks of devices ({reason}). Set {LOCKS} to another folder."
        ) from error
    return folder


def _limit() -> float:
    value = os.environ.get(WAIT)
    try:
        seconds = float(value) if value else DAY
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise InvalidDevices(f"{WAIT}={value!r} is not a number of seconds. Write one, such as 3600.")
    return seconds
