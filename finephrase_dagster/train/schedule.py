"""The schedule that every trainer keeps: the order of the data, the number of steps, and the learning rate."""

from __future__ import annotations

import numpy as np

from finephrase_dagster.study.student import Student
from finephrase_dagster.train.job import TrainingError, TrainingJob

CURVE_POINTS = 100
"""Points of a loss curve, approximately."""


def data_order(windows: int, *, seed: int) -> np.ndarray:
    """Return the order in which a student sees a mixture's windows; shape (windows,), a permutation."""
    return np.random.default_rng(seed).permutation(windows)


def steps_of(windows: int, *, student: Student) -> int:
    """Return the optimizer steps for a number of windows; windows that do not fill a batch are left out.

    Raises:
        TrainingError: the windows do not fill one batch.
    """
    steps = windows // student.batch_sequences
    if not steps:
        raise TrainingError(
            f"the mixture has {windows} windows, a batch takes {student.batch_sequences}: raise the mixture's "
            "'tokens' or lower the student's 'batch_sequences'"
        )
    return steps


def last_step(job: TrainingJob, steps: int) -> int:
    """Return the step at which a job ends, out of its schedule's steps.

    Raises:
        TrainingError: it is to end before its decay, and there is no stable phase or no decay.
    """
    if job.stop != "decay":
        return job.stop or steps
    stable = job.student.stable_steps(steps)
    if stable in (0, steps):
        raise TrainingError(
            f"{steps - stable} of {steps} steps are decay, so there is no pre-decay checkpoint: correct the student's "
            "'decay_fraction'"
        )
    return stable


def learning_rate_factor(step: int, *, steps: int, student: Student) -> float:
    """Return a step's learning rate as a fraction of the student's `learning_rate`: warm-up, stable, decay.

    The rate rises linearly from zero over the first `warmup_fraction` of the steps and falls linearly to
    `final_learning_rate` over the last `decay_fraction`; the last step has the final rate. (transformers' own schedule
    of this name warms up from the final rate instead.)

    Args:
        step: steps done before, 0 .. steps - 1.
        steps: steps of the schedule.
    """
    warmup = round(student.warmup_fraction * steps)
    decay = steps - student.stable_steps(steps)
    if step < warmup:
        return (step + 1) / warmup
    remaining = steps - 1 - step
    if remaining >= decay or not decay:  # a scheduler asks once more after the last step
        return 1.0
    final = student.final_learning_rate / student.learning_rate
    return final + (1.0 - final) * max(remaining, 0) / decay
