"""The simulation of workers: what it says of fleets whose outcome is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from finephrase_dagster.production.simulation import Fleet, best_settings, simulate

HOUR = 3600


def test_workers_that_never_fail_lose_their_start_and_the_end_alone() -> None:
    fleet = Fleet(workers=8, rate=10, start_seconds=100)
    outcome = simulate(8 * 10 * HOUR, 3_000, fleet)
    assert HOUR + 100 <= outcome.seconds <= HOUR + 100 + 60
    assert outcome.goodput == pytest.approx(HOUR / outcome.seconds, rel=1e-6)
    assert (outcome.deaths, outcome.repeated) == (0, 0)


def test_a_shard_is_divided_at_the_end_so_that_nobody_waits_for_a_whole_one() -> None:
    fleet = Fleet(workers=8, rate=10, start_seconds=0)
    outcome = simulate(9 * 10 * HOUR, 10 * HOUR, fleet)  # nine shards of an hour for eight workers
    assert outcome.shards > 9
    assert outcome.seconds < 1.125 * HOUR + 300


def test_slower_workers_hold_nobody_up() -> None:
    outcome = simulate(16 * 10 * HOUR, 5_000, Fleet(workers=16, rate=10, spread=0.3, start_seconds=0))
    assert outcome.goodput > 0.9


def test_a_death_costs_what_was_in_flight_or_not_uploaded_and_a_start() -> None:
    fleet = Fleet(
        workers=4, rate=10, in_flight=50, start_seconds=60, away_seconds=30, upload_seconds=6, deaths=(1_000.0,)
    )
    outcome = simulate(4 * 10 * HOUR, 2_000, fleet)
    assert outcome.deaths == 1
    assert 100 <= outcome.repeated <= 110  # 50 in flight, and 60 of 6 s
    assert outcome.seconds == pytest.approx(HOUR + 60 + (90 + 11) / 4, abs=90)


@pytest.mark.slow
def test_the_more_often_workers_die_the_lower_is_the_goodput() -> None:
    fleets = [Fleet(workers=20, rate=10, hours_between_failures=hours) for hours in (math.inf, 8, 1)]
    goodputs = [simulate(20 * 10 * 4 * HOUR, 5_000, fleet).goodput for fleet in fleets]
    assert goodputs == sorted(goodputs, reverse=True)
    assert goodputs[-1] > 0.9


def test_the_same_seed_gives_the_same_outcome() -> None:
    fleet = Fleet(workers=5, rate=10, spread=0.2, hours_between_failures=1, warned=0.5)
    assert simulate(300_000, 5_000, fleet, seed=3) == simulate(300_000, 5_000, fleet, seed=3)
    assert simulate(300_000, 5_000, fleet, seed=3) != simulate(300_000, 5_000, fleet, seed=4)


@pytest.mark.slow
def test_the_leases_of_a_worker_cost_less_than_two_requests_a_minute() -> None:
    fleet = Fleet(workers=50, rate=10, spread=0.1, hours_between_failures=12, warned=0.5)
    outcome = simulate(50 * 10 * 2 * HOUR, 5_000, fleet)
    assert outcome.requests_per_shard_minute <= 2


def test_the_best_settings_are_those_with_the_highest_goodput() -> None:
    fleet = Fleet(workers=10, rate=10, hours_between_failures=1, away_seconds=600)
    size, upload, best = best_settings(10 * 10 * HOUR, fleet, sizes=(5_000, 36_000), uploads=(0.5, 300.0))
    assert best == simulate(10 * 10 * HOUR, size, replace(fleet, upload_seconds=upload))
    assert upload == 0.5
    others = [simulate(10 * 10 * HOUR, rows, fleet).goodput for rows in (5_000, 36_000)]
    assert best.goodput == max(others)
