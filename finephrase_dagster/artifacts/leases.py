"""Leases: several workers, on any machines, divide the rows of a dataset among themselves.

The rows are divided into *shards*. A worker holds the lease of a shard while it works on it. The state of a lease is
the newest of the files `__meta__/leases/<shard>.<version>`. Whoever changes it creates the next version, which only one
can: on a disk by a link, in an object store by a conditional upload. A finished shard has no lease, but a file
`__meta__/finished/<shard>`. So a worker lists the leases that are held, however many shards are finished.

- Its holder creates a version every `beat` seconds. A lease that its holder does not change for `expiry` seconds, on
  the clock of whoever observes it, or whose holder was a process of this machine that has ended, is taken over.
- A holder reserves rows some seconds before it reads them. Workers that find no free shard cut off half of the rows
  that are not reserved. So no clocks are compared, and no row is read by two holders unless one was taken to be dead.
- Versions other than the first are deleted some time after they were replaced. A process that was stopped for longer
  might create one that was deleted, so after a change that took longer than `expiry` it looks for newer ones. For the
  same reason whoever takes a lease then makes sure that the shard is not finished.
"""

from __future__ import annotations

import json
import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, replace

from finephrase_dagster.artifacts.claim import META, FolderBusy
from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.artifacts.lease import LeaseLost, LeaseState, RowShard, ShardLease, Timing
from finephrase_dagster.artifacts.processes import this_machine, this_process

LEASES, FINISHED, SHARDS = f"{META}/leases", f"{META}/finished", f"{META}/shards.json"
EXAMINED = 4
"""How many leases of others a worker without work reads at a time."""
FEWEST_ROWS = 2
"""Fewer rows than these cannot be divided."""
DELETED_AT_ONCE = 4
LOOK_BEATS = 10
"""After so many beats a worker that takes a shard looks at all leases, to find those whose holders have died."""


class Leases:
    """The leases of one dataset, as one worker sees them. Its methods may be called from several threads."""

    def __init__(
        self,
        folder: Folder,
        shards: Sequence[RowShard] = (),
        *,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        worker: str | None = None,
    ) -> None:
        """Describe a worker; nothing is read yet.

        Args:
            folder: of the dataset.
            shards: all shards, as they were laid out.
            timing: default: what suits the folder.
            clock: returns seconds.
            worker: a name that no other worker has; default: a random one.
        """
        self.timing = timing or Timing.of(folder)
        self.worker = worker or uuid.uuid4().hex
        self._machine, self._process = this_machine(), this_process()
        self._folder = folder
        self._shards = list(shards)
        self._at = {(shard.file, shard.start): shard for shard in shards}
        self._clock = clock
        self._chance = random.Random(self.worker)
        self._held: Mapping[str, int] = {}
        self._free = list(shards)
        self._looked = -math.inf
        self._observed: dict[str, tuple[int, float]] = {}
        self._alive: dict[str, tuple[tuple[str, int], float]] = {}
        self._lock = threading.RLock()

    def take(self, after: RowShard | None = None, *, ahead: int = 0, worth: int = FEWEST_ROWS) -> ShardLease | None:
        """Take the lease of a shard: a free one, an abandoned one, or half of what another worker has not begun.

        Args:
            after: the last shard; the one that follows it in its file is preferred.
            ahead: how many rows to reserve.
            worth: the fewest rows without a reservation that are divided.

        Returns:
            None if there is nothing to take at present.
        """
        with self._lock:
            following = self._at.get((after.file, after.stop)) if after else None
            is_recent = self._clock() - self._looked < LOOK_BEATS * self.timing.beat
            if following and is_recent and (taken := self._create(following, ahead)):
                return taken
            while True:
                began, newest = self._clock(), self._newest()
                self._look_for_free(newest)
                if taken := self._take_expired(newest, began, ahead):
                    return taken
                if following and following in self._free and (taken := self._create(following, ahead)):
                    return taken
                if not self._free:
                    return self._take_from_others(newest, began, ahead, worth)
                # A random one, so that others choose another.
                if taken := self._create(self._chance.choice(self._free), ahead):
                    return taken

    def take_same(self, other: RowShard, *, ahead: int = 0) -> ShardLease | None:
        """Take the lease of the shard that begins with a given row, if it is free."""
        with self._lock:
            shard = self._at.get(other[:2])
            return self._create(shard, ahead) if shard else None

    def extend(self, lease: ShardLease, ahead_of: int) -> None:
        """Show that the holder is alive, and reserve the rows before `ahead_of`; its shard may have been cut.

        Nothing is done if the shard was finished meanwhile, in another thread.

        Raises:
            LeaseLost: another worker has taken it over.
        """
        with self._lock:
            while not lease.is_finished:
                reserved = max(lease.reserved, min(ahead_of, lease.shard.stop))
                if self._change(lease, self._state(lease.shard, reserved, lease.beats + 1)):
                    lease.reserved, lease.beats = reserved, lease.beats + 1
                    return
                self._reread(lease)

    def confirm(self, lease: ShardLease) -> None:
        """Make sure that the lease is still held, unless it was changed within a beat.

        Raises:
            LeaseLost: another worker has taken it over.
        """
        with self._lock:
            if self._clock() - lease.changed > self.timing.beat:
                self.extend(lease, lease.shard.stop)

    def give_back(self, lease: ShardLease) -> None:
        """Let others take the lease over at once."""
        with self._lock:
            while True:
                if self._change(lease, replace(self._state(lease.shard, lease.reserved), worker="")):
                    return
                try:
                    self._reread(lease)
                except LeaseLost:
                    return

    def finish(self, lease: ShardLease) -> None:
        """Record that the shard is finished.

        Raises:
            LeaseLost: another worker has taken it over.
        """
        with self._lock:
            self.confirm(lease)
            self._folder.create(f"{FINISHED}/{lease.name}", b"")
            lease.is_finished = True
            self._delete(lease.name, {1, lease.version, *(version for _, version in lease.earlier)})

    def are_finished(self, *, look: bool = True) -> bool:
        """Return whether all shards are finished, and nobody holds a lease; without `look`, at the last `take`."""
        if look:
            self._look_for_free(self._newest())
        return not self._held and not self._free

    def finished_rows(self) -> int:
        """Return how many rows the finished shards had when they were laid out."""
        finished = self._finished()
        return sum(shard.rows for shard in self._shards if shard.name in finished)

    def held_by_others(self, newest: Mapping[str, int] | None = None) -> Iterable[tuple[str, int, LeaseState]]:
        """Yield name, newest version and state of leases that others hold, in a random order."""
        outstanding = list((self._newest() if newest is None else newest).items())
        self._chance.shuffle(outstanding)
        for name, version in outstanding:
            state = self._read(name, version)
            if state is not None and state.worker != self.worker:
                self._note_life(name, version, state)
                yield name, version, state

    def _create(self, shard: RowShard, ahead: int) -> ShardLease | None:
        lease = ShardLease(shard, 0, min(shard.start + ahead, shard.stop), self._clock())
        return lease if self._change(lease, self._state(shard, lease.reserved), is_held=False) else None

    def _take_from_others(self, newest: Mapping[str, int], began: float, ahead: int, worth: int) -> ShardLease | None:
        """Take a lease over, or cut off half of a shard; `newest` was read at the time `began`."""
        alive: list[tuple[str, int, LeaseState]] = []
        for name, version, state in self.held_by_others(newest):
            if state.is_abandoned:
                if lease := self._take_over(state, version, began, ahead):
                    return lease
            else:
                alive.append((name, version, state))
            if len(alive) == EXAMINED:
                break
        alive.sort(key=lambda one: -one[2].unreserved)
        for name, version, state in alive:
            if state.unreserved >= worth and (half := self._cut(name, version, state, ahead, began)):
                return half
        return None

    def _take_expired(self, newest: Mapping[str, int], began: float, ahead: int) -> ShardLease | None:
        """Take a lease over that has not changed for long; `newest` was read at the time `began`."""
        for name, version in newest.items():
            if self._is_expired(name, version):
                state = self._read(name, version)
                # Also one of its own, which it took when the store did not answer. Those that it holds do change.
                if state and (lease := self._take_over(state, version, began, ahead)):
                    return lease
        return None

    def _take_over(self, state: LeaseState, version: int, began: float, ahead: int) -> ShardLease | None:
        shard = RowShard(state.file, state.start, state.stop, state.division)
        reserved = max(state.reserved, min(shard.start + ahead, shard.stop))
        earlier = [(began, number) for number in range(1, version + 1)]
        lease = ShardLease(shard, version, reserved, began, beats=state.beats + 1, earlier=earlier)
        return lease if self._change(lease, self._state(shard, reserved, lease.beats), is_held=False) else None

    def _cut(self, name: str, version: int, state: LeaseState, ahead: int, began: float) -> ShardLease | None:
        """Take the second half of the rows that were not reserved at the time `began`."""
        middle = state.reserved + (state.unreserved + 1) // 2
        # First a lease without rows, so that nobody takes the dataset to be finished if this process ends in between.
        half = self._create(RowShard(state.file, middle, middle, state.division), 0)
        if half is None:
            return None
        if not self._swap(name, version, replace(state, stop=middle), began):
            self._delete(half.name, {half.version})
            return None
        half.shard = half.shard._replace(stop=state.stop)
        self.extend(half, middle + ahead)
        return half

    def _is_expired(self, name: str, version: int) -> bool:
        since = self._observed.get(name)
        return since is not None and since[0] == version and self._clock() - since[1] > self.timing.expiry

    def _note_life(self, name: str, version: int, state: LeaseState) -> None:
        """Count a lease's silence from its holder's last sign of life: a version by which others cut it is none."""
        sign, known = (state.worker, state.beats), self._alive.get(name)
        if known and known[0] == sign:
            self._observed[name] = version, known[1]
        elif name in self._observed:
            self._alive[name] = sign, self._observed[name][1]

    def _state(self, shard: RowShard, reserved: int, beats: int = 0) -> LeaseState:
        return LeaseState(
            file=shard.file,
            start=shard.start,
            stop=shard.stop,
            division=shard.division,
            reserved=reserved,
            worker=self.worker,
            machine=self._machine,
            process=self._process,
            beats=beats,
        )

    def _change(self, lease: ShardLease, state: LeaseState, *, is_held: bool = True) -> bool:
        """Create the next version of a lease; return whether nobody else had created it."""
        now = self._clock()
        if not self._swap(lease.name, lease.version, state, lease.changed, is_held=is_held):
            return False
        if lease.version:
            lease.earlier.append((now, lease.version))
        lease.version += 1
        lease.changed = now
        old = [version for since, version in lease.earlier if now - since > 1.5 * self.timing.expiry]
        if len(old) >= DELETED_AT_ONCE:
            self._delete(lease.name, set(old) - {1})  # while the first exists, nobody takes the shard to be free
            lease.earlier = [(since, version) for since, version in lease.earlier if version not in old]
        return True

    def _delete(self, name: str, versions: Set[int]) -> None:
        self._folder.remove_all([f"{LEASES}/{name}.{version:06d}" for version in sorted(versions)])

    def _swap(self, name: str, version: int, state: LeaseState, known: float, *, is_held: bool = False) -> bool:
        """Create the version after `version`, which was the newest at the time `known`.

        A worker that does not hold the lease makes sure that the shard was not finished since.
        """
        content = json.dumps({**asdict(state), "mark": uuid.uuid4().hex}).encode()
        if not self._folder.create(f"{LEASES}/{name}.{version + 1:06d}", content):
            return False
        is_recent = self._clock() - known <= self.timing.expiry
        if is_recent and is_held:
            return True
        if self._is_finished(name):  # whoever finished it may have ended before it deleted the lease
            paths = self._folder.names(f"{LEASES}/*")
            self._folder.remove_all([path for path in paths if path.rpartition(".")[0] == f"{LEASES}/{name}"])
            return False
        if is_recent or self._newest().get(name) == version + 1:
            return True
        self._delete(name, {version + 1})
        return False

    def _is_finished(self, name: str) -> bool:
        try:
            self._folder.read(f"{FINISHED}/{name}")
        except FileNotFoundError:
            return False
        return True

    def _reread(self, lease: ShardLease) -> None:
        """Take over what another worker has changed: the end of the shard.

        Raises:
            LeaseLost: it is not this worker's any more.
        """
        now, newest = self._clock(), self._newest().get(lease.name)
        state = None if newest is None else self._read(lease.name, newest)
        if newest is None or state is None or state.worker != self.worker:
            raise LeaseLost(f"{self._folder}: another worker has taken over {lease.name}")
        lease.earlier += [(now, version) for version in range(lease.version, newest)]
        lease.shard, lease.version, lease.changed = lease.shard._replace(stop=state.stop), newest, now

    def _newest(self) -> Mapping[str, int]:
        """Return the newest version of each lease that is held, and note when it was first seen. One request."""
        newest: dict[str, int] = {}
        for path in self._folder.names(f"{LEASES}/*"):  # sorted: the newest version is the last
            name, _, version = path[len(LEASES) + 1 :].rpartition(".")
            if version.isdigit():  # else an unfinished file
                newest[name] = int(version)
        now, before = self._clock(), self._observed
        self._observed = {
            name: before[name] if name in before and before[name][0] == number else (number, now)
            for name, number in newest.items()
        }
        self._alive = {name: life for name, life in self._alive.items() if name in newest}
        self._held, self._looked = newest, now
        return newest

    def _look_for_free(self, held: Mapping[str, int]) -> None:
        """Find the shards that were never taken. Only they need the names of the finished ones.

        `held` was read before those names, or else a shard that was finished in between would appear to be free.
        """
        if self._free:
            finished = self._finished()
            self._free = [one for one in self._free if one.name not in held and one.name not in finished]

    def _finished(self) -> Set[str]:
        return {path[len(FINISHED) + 1 :] for path in self._folder.names(f"{FINISHED}/*")}

    def _read(self, name: str, version: int) -> LeaseState | None:
        """Return a version; None if it was replaced in the meantime."""
        try:
            content = json.loads(self._folder.read(f"{LEASES}/{name}.{version:06d}"))
        except FileNotFoundError:
            return None
        del content["mark"]
        return LeaseState(**content)


def forget_leases(folder: Folder) -> None:
    """Delete the leases of a folder that the caller has claimed, and how its rows are divided into shards."""
    folder.remove_all([SHARDS, *folder.names(f"{LEASES}/*"), *folder.names(f"{FINISHED}/*")])


def refuse_if_leased(folder: Folder, timing: Timing | None = None, sleep: Callable[[float], None] = time.sleep) -> None:
    """Raise FolderBusy if a worker holds a lease. Whether one on another machine is alive shows within `expiry`."""
    leases, began, first = Leases(folder, timing=timing), time.monotonic(), dict[str, int]()
    while held := [
        (name, version, state) for name, version, state in leases.held_by_others() if not state.is_abandoned
    ]:
        first = first or {name: version for name, version, _ in held}
        if any(state.machine == this_machine() or first.get(name) != version for name, version, state in held):
            raise FolderBusy(folder)
        if time.monotonic() - began > leases.timing.expiry:
            return
        sleep(leases.timing.beat / 4)
