"""Arms: the runs of one mixture on one student, over seeds; and whether two arms can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from finephrase_dagster.results.noise import Replicates
from finephrase_dagster.results.scored_runs import ScoredRun
from finephrase_dagster.study.student import MANY_EPOCHS

ALIKE = 1.25
"""Up to this ratio of epochs, two mixtures repeat their text equally often."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """One mixture, student and variant, with its runs: one per seed, all scored at their last step."""

    runs: tuple[ScoredRun, ...]

    @property
    def first(self) -> ScoredRun:
        """A run, which stands for what all of them have in common."""
        return self.runs[0]

    @property
    def mixture(self) -> str:
        return self.first.mixture

    @property
    def student(self) -> str:
        return self.first.student

    @property
    def origin(self) -> str | None:
        """The mixture that this arm checks the study with, as an A/A pair or a control; None for a candidate."""
        return self.first.origin

    def replicates(self, metric: str) -> Replicates:
        """Return a score of the runs that have it; a run that lacks a task lacks its means, too."""
        return Replicates(tuple(run.scores[metric] for run in self.runs if metric in run.scores))

    @cached_property
    def scores(self) -> Mapping[str, float]:
        """The mean of each score at the last step, over the runs that have it."""
        names = dict.fromkeys(name for run in self.runs for name in run.scores)
        return {name: fmean(run.scores[name] for run in self.runs if name in run.scores) for name in names}


def arms(runs: Iterable[ScoredRun]) -> list[Arm]:
    """Return the arms of the runs that were scored at their last step, in the order of their first runs."""
    groups: dict[object, list[ScoredRun]] = {}
    for run in runs:
        if run.complete:
            groups.setdefault((run.study, run.mixture, run.student, run.decay_from, run.step), []).append(run)
    return [Arm(runs=tuple(group)) for group in groups.values()]


REPETITION = "repetition"


def mismatches(first: Arm, second: Arm) -> list[str]:
    """Return in what two arms differ apart from the data that is compared; what is unknown is no difference."""
    one, other = first.first, second.first
    is_one_student = one.training is not None and one.training == other.training  # whatever its names
    fields = {
        "student": (one.student, one.student if is_one_student else other.student),
        "parameters": (one.parameters, other.parameters),
        "training settings": (one.training, other.training),
        "tokens": (one.tokens, other.tokens),
        "step": (one.step, other.step),
        "evaluation": (one.evaluation, other.evaluation),
        "tasks without a score": (", ".join(one.unscored) or "none", ", ".join(other.unscored) or "none"),
        "held-out tasks": (", ".join(one.held_out) or "none", ", ".join(other.held_out) or "none"),
        "decay": (one.decay_from or "from scratch", other.decay_from or "from scratch"),
    }
    found = [
        f"{name}: {_shown(theirs)} against {_shown(baseline)}"
        for name, (baseline, theirs) in fields.items()
        if None not in (baseline, theirs) and baseline != theirs
    ]
    runs = [{run.fingerprint for run in arm.runs if not run.external} for arm in (first, second)]
    if shared := len(runs[0] & runs[1]):
        found.append(f"the same on both sides: {shared} of {len(second.runs)} students")
    if not _same_mix_in(one, other):
        found.append(f"mix-in: {_mix(other)} against {_mix(one)}")
    if not _same_repetition(one, other):
        found.append(f"{REPETITION}: {other.epochs:.1f} epochs against {one.epochs:.1f}")
    return found


def unknowns(first: Arm, second: Arm) -> list[str]:
    """Return what cannot be checked, because it is not known of both arms."""
    fields = {"tokens": "tokens", "mix-in": "mix_in", "repetition": "epochs"}
    one, other = first.first, second.first
    if one.study != other.study:
        fields["training settings"] = "training"
    return [name for name, field in fields.items() if getattr(one, field) is None or getattr(other, field) is None]


def _same_mix_in(one: ScoredRun, other: ScoredRun) -> bool:
    """Return whether two mixtures have the same original text next to their synthetic part.

    Original text alone has no synthetic part: it is compared with other original text, and with mixtures that add
    synthetic text to nothing but original text that it has too.
    """
    if one.mix_in is None or other.mix_in is None or (one.original and other.original):
        return True
    if one.original or other.original:
        alone, mixed = (one, other) if one.original else (other, one)
        return set(mixed.mix_in or ()) <= set(alone.mix_in or ())
    return dict(one.mix_in) == dict(other.mix_in)


def _same_repetition(one: ScoredRun, other: ScoredRun) -> bool:
    """Return whether repetition cannot explain a difference: it is equal, or harmless in both mixtures."""
    if one.epochs is None or other.epochs is None:
        return True
    low, high = sorted((max(one.epochs, 1.0), max(other.epochs, 1.0)))
    return high <= MANY_EPOCHS or high <= ALIKE * low


def _shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _mix(run: ScoredRun) -> str:
    return ", ".join(f"{100 * share:g} % {name}" for name, share in (run.mix_in or {}).items()) or "no original text"
