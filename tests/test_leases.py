"""Leases: any number of workers, at any speed, with any deaths, finish every row, and share none."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.artifacts import lease as module
from finephrase_dagster.artifacts import leases as all_leases
from finephrase_dagster.artifacts.claim import FolderBusy
from finephrase_dagster.artifacts.folder import Folder, LocalFolder
from finephrase_dagster.artifacts.lease import LeaseLost, RowShard, ShardLease, Timing
from finephrase_dagster.artifacts.leases import FINISHED, LEASES, Leases, forget_leases, refuse_if_leased
from finephrase_dagster.rephrase.location import folder_at

TIMING = Timing(beat=1.0, expiry=5.0)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return LocalFolder(tmp_path) if request.param == "disk" else folder_at(f"memory://leases/{uuid.uuid4().hex}")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all workers run on other machines, whose processes cannot be seen."""
    monkeypatch.setattr(module, "is_running", lambda process: True)


def shards_of(*sizes: int, rows: int) -> list[RowShard]:
    starts = [(file, size, first) for file, size in enumerate(sizes) for first in range(0, size, rows)]
    return [RowShard(file, first, min(first + rows, size)) for file, size, first in starts]


def worker(folder: Folder, clock: Clock, shards: list[RowShard], name: str) -> Leases:
    return Leases(folder, shards, timing=TIMING, clock=clock, worker=name)


def must(lease: ShardLease | None) -> ShardLease:
    assert lease is not None
    return lease


def test_a_worker_continues_with_the_shard_that_follows_its_last_one(folder: Folder, clock: Clock) -> None:
    shards = shards_of(50, 50, rows=10)
    one = worker(folder, clock, shards, "one")
    one.take()  # looks at all leases
    for before, after in pairwise(shards[:3]):
        assert must(one.take(before)).shard == after


def test_two_workers_take_different_shards_and_finish_all(folder: Folder, clock: Clock) -> None:
    shards = shards_of(40, rows=10)
    one, two = (worker(folder, clock, shards, name) for name in ("one", "two"))
    taken = [must(who.take(ahead=10)) for who in (one, two, one, two)]
    assert {lease.shard for lease in taken} == set(shards)
    assert one.take() is None
    for who, lease in zip((one, two, one, two), taken, strict=True):
        assert not who.are_finished()
        who.finish(lease)
    assert one.are_finished()
    assert two.are_finished()
    assert one.finished_rows() == 40
    assert not folder.names(f"{LEASES}/*")


def test_a_shard_that_another_worker_finished_since_the_last_look_is_not_taken(folder: Folder, clock: Clock) -> None:
    shards = shards_of(30, rows=10)
    one, two = (worker(folder, clock, shards, name) for name in ("one", "two"))
    assert not one.are_finished()  # looks
    first, second = must(one.take_same(shards[0], ahead=10)), must(two.take_same(shards[1], ahead=10))
    two.finish(second)
    assert must(one.take(first.shard, ahead=10)).shard == shards[2]


def test_a_finished_shard_has_no_lease_whoever_renews_it_at_the_same_time_or_ends_in_between(
    folder: Folder, clock: Clock
) -> None:
    shards = shards_of(20, rows=10)
    one, two = (worker(folder, clock, shards, name) for name in ("one", "two"))
    first, second = must(one.take(ahead=10)), must(one.take(ahead=10))
    one.extend(second, 20)
    one.finish(first)
    one.extend(first, 20)
    folder.create(f"{FINISHED}/{second.name}", b"")  # and its holder ends before it deletes the lease
    assert two.take() is None
    clock.now += 6
    assert two.take() is None
    assert two.are_finished()
    assert not folder.names(f"{LEASES}/*")


def test_a_worker_without_a_shard_cuts_off_half_of_the_rows_that_another_one_has_not_reserved(
    folder: Folder, clock: Clock
) -> None:
    shards = shards_of(100, rows=100)
    slow, fast = (worker(folder, clock, shards, name) for name in ("slow", "fast"))
    whole = must(slow.take(ahead=20))
    half = must(fast.take(ahead=5))
    assert half.shard == RowShard(0, 60, 100)
    assert half.reserved == 65
    slow.extend(whole, 90)
    assert whole.shard == RowShard(0, 0, 60)
    assert whole.reserved == 60
    assert fast.take(worth=50) is None  # not worth it
    quarter = must(slow.take())
    assert quarter.shard == RowShard(0, 83, 100)
    fast.extend(half, 100)
    assert half.shard == RowShard(0, 60, 83)


def test_the_lease_of_a_silent_worker_is_taken_over_after_the_expiry_only(folder: Folder, clock: Clock) -> None:
    shards = shards_of(10, rows=10)
    silent, other = (worker(folder, clock, shards, name) for name in ("silent", "other"))
    lost = must(silent.take(ahead=10))
    assert other.take() is None  # observed for the first time
    clock.now += 4
    silent.extend(lost, 10)
    clock.now += 4
    assert other.take() is None  # it changed since
    clock.now += 5.5
    taken = must(other.take())
    assert taken.shard == lost.shard
    assert taken.reserved == 10
    with pytest.raises(LeaseLost, match="another worker has taken over part-00000-r000000000000"):
        silent.extend(lost, 10)
    other.finish(taken)


def test_a_cut_by_another_worker_is_no_sign_of_life(folder: Folder, clock: Clock) -> None:
    shards = shards_of(100, rows=100)
    silent, first, second = (worker(folder, clock, shards, name) for name in ("silent", "first", "second"))
    lost = must(silent.take(ahead=10))
    assert second.take(worth=1000) is None  # observed for the first time
    clock.now += 3
    half = must(first.take())
    assert half.shard == RowShard(0, 55, 100)
    assert second.take(worth=1000) is None
    for _ in range(3):
        clock.now += 1
        first.extend(half, 100)
    taken = must(second.take(worth=1000))
    assert taken.shard == RowShard(0, 0, 55)
    with pytest.raises(LeaseLost):
        silent.extend(lost, 20)
    clock.now += 4
    assert first.take(worth=1000) is None  # the new holder is alive


def test_a_worker_that_slept_while_its_lease_was_taken_over_and_finished_learns_it(
    folder: Folder, clock: Clock
) -> None:
    shards = shards_of(10, rows=10)
    sleeper, other = (worker(folder, clock, shards, name) for name in ("sleeper", "other"))
    lost = must(sleeper.take(ahead=10))
    other.take()
    clock.now += 6
    taken = must(other.take())
    for _ in range(40):  # its older versions are deleted meanwhile
        clock.now += 1
        other.extend(taken, 10)
    for finish in (lambda: None, lambda: other.finish(taken)):
        finish()
        with pytest.raises(LeaseLost):
            sleeper.extend(lost, 10)
        with pytest.raises(LeaseLost):
            sleeper.finish(lost)
    assert other.are_finished()


def test_a_lease_that_was_given_back_or_whose_process_has_ended_is_free_at_once(
    folder: Folder, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = shards_of(10, rows=10)
    one, two, three = (worker(folder, clock, shards, name) for name in ("one", "two", "three"))
    one.give_back(must(one.take(ahead=10)))
    held = must(two.take())
    assert held.reserved == 10
    monkeypatch.setattr(module, "is_running", lambda process: False)
    assert must(three.take()).shard == held.shard
    two.give_back(held)  # not its own any more, so it stays with the third
    with pytest.raises(LeaseLost):
        two.extend(held, 10)


def test_a_lease_that_was_taken_without_being_noted_is_taken_again(folder: Folder, clock: Clock) -> None:
    alone = worker(folder, clock, shards_of(10, rows=10), "alone")
    alone.take()  # the store fails before the worker can begin
    assert alone.take() is None
    clock.now += 6
    alone.finish(must(alone.take()))
    assert alone.are_finished()


def test_of_many_threads_one_gets_a_shard(tmp_path: Path) -> None:
    shards, taken = shards_of(5, rows=5), []
    start = threading.Barrier(8)

    def take(number: int) -> None:
        leases = Leases(LocalFolder(tmp_path), shards, timing=TIMING, worker=str(number))
        start.wait()
        if lease := leases.take(ahead=5):
            taken.append(lease)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1


def test_a_process_that_wants_the_folder_alone_is_refused_while_a_worker_is_alive(folder: Folder) -> None:
    shards, timing = shards_of(10, rows=10), Timing(beat=0.01, expiry=0.1)
    leases = Leases(folder, shards, timing=timing, worker="one")
    lease = must(leases.take())
    with pytest.raises(FolderBusy):
        refuse_if_leased(folder, timing)  # of this machine
    leases.give_back(lease)
    refuse_if_leased(folder, timing)
    forget_leases(folder)
    assert not folder.names(f"{LEASES}/*")


def test_a_process_that_wants_the_folder_alone_watches_the_leases_of_other_machines(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, timing = shards_of(10, rows=10), Timing(beat=0.01, expiry=0.1)
    monkeypatch.setattr(all_leases, "this_machine", lambda: "another")
    leases = Leases(folder, shards, timing=timing, worker="one")
    lease = must(leases.take())
    monkeypatch.undo()
    refuse_if_leased(folder, timing)  # it never changed
    monkeypatch.setattr(module, "is_running", lambda process: True)

    def beat(seconds: float) -> None:
        leases.extend(lease, 10)

    with pytest.raises(FolderBusy):
        refuse_if_leased(folder, timing, sleep=beat)


@dataclass
class Player:
    """A worker of the game below: it reads rows that it has reserved, and may sleep or die."""

    leases: Leases
    lease: ShardLease | None = None
    position: int = 0
    asleep_until: float = 0.0
    read: list[tuple[int, int]] = field(default_factory=list)

    def play(
        self, speed: int, clock: Clock, readers: Counter[tuple[int, int]], finished: Counter[tuple[int, int]]
    ) -> None:
        try:
            if self.lease is None:
                self.lease = self.leases.take(ahead=speed)
                self.position = self.lease.shard.start if self.lease else 0
                return
            self.leases.extend(self.lease, self.position + 2 * speed)
            last = min(self.position + speed, self.lease.reserved)
            for row in range(self.position, last):
                readers[self.lease.shard.file, row] += 1
            self.position = last
            if self.position == self.lease.shard.stop:
                shard = self.lease.shard
                self.leases.finish(self.lease)
                finished.update((shard.file, row) for row in range(shard.start, shard.stop))
                self.lease = None
        except LeaseLost:
            self.lease = None


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["play", "play", "play", "sleep", "die", "wait"]), st.integers(1, 6)),
    max_size=60,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(events=EVENTS, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3), rows=st.integers(1, 25))
def test_whatever_happens_every_row_is_finished_once_and_read_twice_only_if_its_reader_was_silent(
    events: list[tuple[int, str, int]], sizes: list[int], rows: int
) -> None:
    folder, clock, shards = folder_at(f"memory://leases/{uuid.uuid4().hex}"), Clock(), shards_of(*sizes, rows=rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "is_running", lambda process: True)
        names: Iterator[str] = map(str, range(1_000))
        players = [Player(worker(folder, clock, shards, next(names))) for _ in range(4)]
        readers: Counter[tuple[int, int]] = Counter()
        finished: Counter[tuple[int, int]] = Counter()
        silent = False
        for who, what, amount in events:
            clock.now += 0.1
            if what == "play":
                if clock.now >= players[who].asleep_until:
                    players[who].play(amount, clock, readers, finished)
            elif what == "sleep":
                players[who].asleep_until, silent = clock.now + 2 * amount, True
            elif what == "wait":
                clock.now, silent = clock.now + amount, True
            else:
                players[who], silent = Player(worker(folder, clock, shards, next(names))), True
        for _ in range(2_000):
            if players[0].leases.are_finished():
                break
            clock.now += 0.5
            for player in players:
                player.play(5, clock, readers, finished)
        everything = Counter((file, row) for file, size in enumerate(sizes) for row in range(size))
        assert finished == everything
        assert silent or readers == everything
        forget_leases(folder)
