"""Read nanotron's log: the record of one step, and the loss curve of a run.

nanotron writes three significant digits; the mean over the steps between two points gives some precision back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from finephrase_dagster.train.job import LossPoint
from finephrase_dagster.train.schedule import CURVE_POINTS

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STEP = re.compile(r"\biteration: (\d+) / (\d+) \| (.+)")
NUMBER = re.compile(r"(-?(?:nan|inf|\d+(?:\.\d+)?(?:e[-+]?\d+)?))([KMBTPE]?)")
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """nanotron's record of one optimizer step.

    Attributes:
        step: counted from 1.
        loss: loss of this step's batch, in nats per token.
        next_rate: learning rate of the next step.
        tokens_per_second: of all GPUs together.
        tflops: TFLOP/s per GPU that the model used; 0 if not recorded.
    """

    step: int
    loss: float
    next_rate: float
    tokens_per_second: float
    tflops: float = 0.0

    def utilisation(self, peak_tflops: float) -> float:
        """Return the share of a GPU's peak that the model used (MFU)."""
        return self.tflops / peak_tflops


def read_step(line: str) -> StepRecord | None:
    """Return the record in a line; None if the line has none."""
    match = STEP.search(COLOURS.sub("", line))
    if match is None:
        return None
    values: dict[str, float] = {}
    for entry in match[3].split(" | "):
        name, _, value = entry.partition(": ")
        if (number := NUMBER.fullmatch(value.strip())) is not None:
            values.setdefault(name.strip(), float(number[1]) * UNITS[number[2]])
    if not {"lm_loss", "lr", "tokens_per_sec"} <= values.keys():
        return None
    return StepRecord(
        step=int(match[1]),
        loss=values["lm_loss"],
        next_rate=values["lr"],
        tokens_per_second=values["tokens_per_sec"],
        tflops=values.get("model_tflops_per_gpu", 0.0),
    )


def read_steps(lines: Iterable[str]) -> dict[int, StepRecord]:
    """Return the records in a log by step; of a step that was done twice, the later one."""
    records = (read_step(line) for line in lines)
    return {record.step: record for record in records if record is not None}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A run's loss curve: about 100 points per schedule, with one at the end of the stable phase and one at the end.

    Attributes:
        end: the run's last step.
        steps: steps of the complete schedule.
        stable_steps: steps before the learning rate decays.
        step_tokens: tokens per step.
        first_rate: learning rate of the first step, which is in no line.
    """

    end: int
    steps: int
    stable_steps: int
    step_tokens: int
    first_rate: float

    @cached_property
    def first_steps(self) -> dict[int, int]:
        """The steps that have a point, in order, each with the first step of its mean."""
        cadence = max(1, round(self.steps / CURVE_POINTS))
        stable = [self.stable_steps] if 0 < self.stable_steps < self.end else []
        ends = sorted({*range(cadence, self.end + 1, cadence), self.end, *stable})
        return dict(zip(ends, [1, *(end + 1 for end in ends)], strict=False))

    def point(self, step: int, records: Mapping[int, StepRecord]) -> LossPoint | None:
        """Return the point at a step; None if the step has none, or no record.

        Args:
            records: by step; missing ones are left out of the mean.
        """
        if step not in self.first_steps:
            return None
        losses = [records[each].loss for each in range(self.first_steps[step], step + 1) if each in records]
        if not losses:
            return None
        return LossPoint(
            step=step,
            loss=math.fsum(losses) / len(losses),
            learning_rate=_rate(records, step, self.first_rate),
            tokens=step * self.step_tokens,
        )

    def points(self, records: Mapping[int, StepRecord], *, until: int | None = None) -> tuple[LossPoint, ...]:
        """Return all points, or those up to a step."""
        last = self.end if until is None else until
        points = (self.point(step, records) for step in self.first_steps if step <= last)
        return tuple(point for point in points if point is not None)


def _rate(records: Mapping[int, StepRecord], step: int, first_rate: float) -> float:
    """Return a step's learning rate, which is in the record of the step before."""
    if step == 1:
        return first_rate
    near = records.get(step - 1) or records[max(known for known in records if known <= step)]
    return near.next_rate
