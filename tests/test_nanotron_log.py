"""nanotron's log lines and the loss curve that is computed from them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.train.nanotron.log import Curve, StepRecord, read_step, read_steps

LINE = (
    "\x1b[2;3m11/21 07:38:00 [INFO|DP=0|TP=1|node-3]\x1b[0m: iteration: 1200 / 10000 | consumed_tokens: 2.52B | "
    "time_per_iteration_ms: 1.1K | tokens_per_sec: 1.91M | tokens_per_sec_per_gpu: 29.8K | global_batch_size: 2.1M | "
    "grad_norm: 0.214 | lm_loss: 2.87 | lr: 0.0005 | model_tflops_per_gpu: 396 | eta: 2:41:07"
)


def step(number: int, loss: float, rate: float = 1e-3) -> StepRecord:
    return StepRecord(step=number, loss=loss, next_rate=rate, tokens_per_second=1e6)


def test_a_line_tells_step_loss_rate_speed_and_utilisation() -> None:
    record = read_step(LINE)
    assert record == StepRecord(step=1200, loss=2.87, next_rate=5e-4, tokens_per_second=1.91e6, tflops=396.0)
    assert record.utilisation(989) == pytest.approx(0.4004, abs=1e-4)
    assert read_step(f"[default0]:{LINE}\r") == record


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("5e-05", 5e-5),
        ("999", 999.0),
        ("1K", 1e3),
        ("12.3M", 1.23e7),
        ("2.1B", 2.1e9),
        ("1E", 1e18),
        ("infE", math.inf),
    ],
)
def test_numbers_are_read_in_all_their_forms(written: str, value: float) -> None:
    record = read_step(LINE.replace("lm_loss: 2.87", f"lm_loss: {written}"))
    assert record is not None
    assert record.loss == value


def test_a_loss_that_is_no_number_is_told() -> None:
    record = read_step(LINE.replace("lm_loss: 2.87", "lm_loss: nan"))
    assert record is not None
    assert math.isnan(record.loss)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "iteration: 5 / 10 | lm_loss: 2.1",
        "mbs: 2 | grad_accum: 4 | start_iteration_step: 0",
        "Saving checkpoint at checkpoints/500",
        LINE.replace("lm_loss: 2.87", "lm_loss: ???"),
        LINE[: LINE.index("lm_loss")],
        "Traceback (most recent call last):",
    ],
)
def test_any_other_line_has_no_step_record(line: str) -> None:
    assert read_step(line) is None


@given(st.text())
def test_no_line_whatever_breaks_the_reader(text: str) -> None:
    read_step(text)
    read_step(f"iteration: 1 / 2 | {text}")


def test_the_later_record_of_a_repeated_step_counts() -> None:
    records = read_steps([LINE, "noise", LINE.replace("2.87", "2.5")])
    assert {number: each.loss for number, each in records.items()} == {1200: 2.5}


def test_a_point_holds_the_mean_of_its_steps_and_the_rate_of_its_last() -> None:
    steps = {number: step(number, loss=number, rate=number / 1000) for number in range(1, 401)}
    points = Curve(end=400, steps=400, stable_steps=362, step_tokens=10, first_rate=0.0).points(steps)
    assert [point.step for point in points[:3]] == [4, 8, 12]
    assert points[0].loss == pytest.approx(2.5)
    assert points[0].learning_rate == pytest.approx(0.003)  # the line of step 3 has the rate of step 4
    assert points[0].tokens == 40
    assert 362 in {point.step for point in points}
    assert points[-1].step == 400


@given(until=st.integers(1, 700), lost=st.sets(st.integers(1, 700)))
def test_the_curve_is_short_ordered_and_within_the_losses_whatever_lines_are_missing(
    until: int, lost: set[int]
) -> None:
    steps = {number: step(number, loss=8 / number) for number in range(1, until + 1) if number not in lost}
    points = Curve(end=until, steps=700, stable_steps=630, step_tokens=1, first_rate=0.0).points(steps)
    assert [point.step for point in points] == sorted({point.step for point in points})
    assert len(points) <= 102
    if steps:
        losses = [each.loss for each in steps.values()]
        assert all(min(losses) <= point.loss * 1.0001 and point.loss <= max(losses) * 1.0001 for point in points)
    else:
        assert points == ()
