"""nanotron's log: what one line says of a step, and the loss curve of a run.

nanotron writes three significant digits; the mean over the steps between two points gives some back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from finephrase_dagster.train.training import LossPoint

POINTS = 100
"""Points of a loss curve, about."""

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STEP = re.compile(r"\biteration: (\d+) / (\d+) \| (.+)")
NUMBER = re.compile(r"(-?(?:nan|inf|\d+(?:\.\d+)?(?:e[-+]?\d+)?))([KMBTPE]?)")
UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What nanotron says of an optimizer step.

    Attributes:
        step: counted from 1.
        loss: of this step's batch, nats a token.
        next_rate: learning rate of the step after it.
        tokens_per_second: of all GPUs.
        tflops: TFLOP/s of one GPU that the model needed; 0 if not said.
    """

    step: int
    loss: float
    next_rate: float
    tokens_per_second: float
    tflops: float = 0.0

    def utilisation(self, peak_tflops: float) -> float:
        """Share of a GPU's peak that the model used (MFU)."""
        return self.tflops / peak_tflops


def read_step(line: str) -> StepRecord | None:
    """What a line says of a step; None if it is about anything else or unreadable."""
    found = STEP.search(COLOURS.sub("", line))
    if found is None:
        return None
    said: dict[str, float] = {}
    for entry in found[3].split(" | "):
        name, _, value = entry.partition(": ")
        if (number := NUMBER.fullmatch(value.strip())) is not None:
            said.setdefault(name.strip(), float(number[1]) * UNITS[number[2]])
    if not {"lm_loss", "lr", "tokens_per_sec"} <= said.keys():
        return None
    return StepRecord(
        step=int(found[1]),
        loss=said["lm_loss"],
        next_rate=said["lr"],
        tokens_per_second=said["tokens_per_sec"],
        tflops=said.get("model_tflops_per_gpu", 0.0),
    )


def read_steps(lines: Iterable[str]) -> dict[int, StepRecord]:
    """The steps of a log, by number; of a step that was done twice the later counts."""
    found = (read_step(line) for line in lines)
    return {step.step: step for step in found if step is not None}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A run's loss curve up to a step: some 100 points a schedule, and one at the plateau's end and at its own.

    Attributes:
        until: the last step.
        of: the steps of the whole schedule.
        plateau: the steps before the learning rate decays.
        step_tokens: tokens a step.
        first_rate: learning rate of the first step, which no line tells.
    """

    until: int
    of: int
    plateau: int
    step_tokens: int
    first_rate: float

    @cached_property
    def begins(self) -> dict[int, int]:
        """The steps of the points, in order, each with the first step that its mean is over."""
        cadence = max(1, round(self.of / POINTS))
        plateau = [self.plateau] if 0 < self.plateau < self.until else []
        ends = sorted({*range(cadence, self.until + 1, cadence), self.until, *plateau})
        return dict(zip(ends, [1, *(end + 1 for end in ends)], strict=False))

    def point(self, step: int, steps: Mapping[int, StepRecord]) -> LossPoint | None:
        """The point at a step; None if there is none, or no line told of its steps.

        Args:
            steps: of the log; those that are missing are left out of the mean.
        """
        if step not in self.begins:
            return None
        losses = [steps[each].loss for each in range(self.begins[step], step + 1) if each in steps]
        if not losses:
            return None
        return LossPoint(
            step=step,
            loss=math.fsum(losses) / len(losses),
            learning_rate=_rate(steps, step, self.first_rate),
            tokens=step * self.step_tokens,
        )

    def points(self, steps: Mapping[int, StepRecord], *, until: int | None = None) -> tuple[LossPoint, ...]:
        """All points, or those up to a step."""
        last = self.until if until is None else until
        found = (self.point(step, steps) for step in self.begins if step <= last)
        return tuple(point for point in found if point is not None)


def _rate(steps: Mapping[int, StepRecord], step: int, first_rate: float) -> float:
    """A step's learning rate, which the line of the step before tells."""
    if step == 1:
        return first_rate
    near = steps.get(step - 1) or steps[max(known for known in steps if known <= step)]
    return near.next_rate
