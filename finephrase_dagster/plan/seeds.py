"""What a study's seeds can show: the smallest difference in sight before launch, and the cost of more seeds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.key import CHECKPOINT, SCORES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.evaluate.categories import unscored_tasks
from finephrase_dagster.plan.cost import Estimator
from finephrase_dagster.plan.measured import Measured
from finephrase_dagster.plan.published import Published
from finephrase_dagster.results.arms import arms
from finephrase_dagster.results.decision import POWER, visible_difference
from finephrase_dagster.results.figure import as_score
from finephrase_dagster.results.noise import pool_of, published_spread
from finephrase_dagster.results.scored_runs import ScoredRun, read_runs
from finephrase_dagster.results.warehouse import NoWarehouse, reading

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, kw_only=True)
class Sight:
    """The smallest difference in macro score that a study finds for one student.

    Attributes:
        mixtures: how many are compared, the baseline among them.
        seeds: of the mixture that has fewest.
        in_sd: the difference in standard deviations of one seed; None if the noise stays unknown.
        sd: that standard deviation; None if it is unknown before launch.
        difference: in macro score; None if one of the two is unknown.
        source: where `sd` comes from.
    """

    student: str
    mixtures: int
    seeds: int
    in_sd: float | None
    sd: float | None
    difference: float | None
    source: str

    def __str__(self) -> str:
        several = f"{self.mixtures} mixtures with at least {self.seeds} seed{'s' * (self.seeds > 1)} each"
        if self.in_sd is None:
            return (
                f"{self.student}, {several}: no difference can be told from noise, which one seed does not show. Add "
                "seeds, 3 or more for each mixture"
            )
        chance = f"with a chance of {100 * POWER:g} %"
        if self.difference is None:
            return (
                f"{self.student}, {several}: sees a difference to the baseline of {self.in_sd:.1f} standard deviations "
                f"of a seed {chance}; how large that is shows after training"
            )
        return (
            f"{self.student}, {several}: sees a difference to the baseline of {as_score(self.difference)} macro "
            f"{chance} (one seed: ± {as_score(self.sd or 0)}, {self.source})"
        )


def sights(lineage: Lineage) -> list[Sight]:
    """Return the smallest difference that a study finds for each of its students."""
    study = lineage.study
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for run in study.student_runs.values():
        if run.decay_from is None and study.mixtures[run.mixture].origin is None:
            counts[run.student][run.mixture] += 1
    runs = _scored(lineage)
    uncounted = (*lineage.evaluation.held_out, *unscored_tasks(lineage.evaluation.tasks)) if counts else ()
    result = []
    for student, mixtures in counts.items():
        if len(mixtures) < 2:
            continue
        seeds = min(mixtures.values())
        parameters = study.students[student].parameters(lineage.vocabulary)
        known = _own_spread(run for run in runs if run.student == student) or published_spread(
            student, parameters, "macro", uncounted
        )
        sd, source = known or (None, "unknown")
        in_sd = visible_difference(sd=1.0, seeds=seeds, arms=len(mixtures)) if seeds > 1 or sd is not None else None
        result.append(
            Sight(
                student=student,
                mixtures=len(mixtures),
                seeds=seeds,
                in_sd=in_sd,
                sd=sd,
                difference=None if sd is None or in_sd is None else sd * in_sd,
                source=source,
            )
        )
    return result


def _scored(lineage: Lineage) -> list[ScoredRun]:
    try:
        with reading(lineage.paths.warehouse) as connection:
            return read_runs(connection, [lineage.study.name])
    except NoWarehouse:
        return []


def _own_spread(runs: Iterable[ScoredRun]) -> tuple[float, str] | None:
    """Return the pooled standard deviation of the students that are scored already."""
    freedom, variance = pool_of([arm.replicates("macro") for arm in arms(runs)])
    return (variance**0.5, f"measured here with {freedom} degree{'s' * (freedom > 1)} of freedom") if freedom else None


@dataclass(frozen=True, kw_only=True)
class SeedCost:
    """What some student runs take."""

    gpu_hours: float
    dollars: float
    hours: float

    def times(self, seeds: int) -> dict[str, float]:
        """Return the figures of several seeds."""
        return {name: round(seeds * value, 4) for name, value in vars(self).items()}


def seed_cost(
    runs: Sequence[ScoredRun], lineage: Lineage | None, connection: duckdb.DuckDBPyConnection
) -> SeedCost | None:
    """Return what training and scoring runs like these costs once more; None if that is unknown.

    A run of the study in hand costs what a plan says, one of another study of one's own what it cost when it was
    recorded, and a published one the published training, scaled by parameters and tokens.

    Args:
        lineage: the study in hand, if there is one.
        connection: to the warehouse.
    """
    published = Published.read()
    gpu_hours = hours = 0.0
    planned = []
    for run in runs:
        if lineage is not None and run.study == lineage.study.name:
            planned.append(run.run)
        elif run.external:
            if run.parameters is None or run.tokens is None:
                return None
            known = published.training
            gpu_hours += known.gpu_hours * (run.parameters / known.parameters) * (run.tokens / known.tokens)
        else:
            recorded = connection.execute(_RECORDED, [run.study, run.run, CHECKPOINT.asset, SCORES.asset]).fetchall()
            if not recorded or recorded[0][1] is None:
                return None
            gpu_hours, hours = gpu_hours + recorded[0][0], hours + recorded[0][1]
    if planned and lineage is not None:
        estimator = Estimator(lineage, published=published, measured=Measured(lineage.paths.data))
        for item in items(lineage):
            if item.key.kind in (CHECKPOINT, SCORES) and item.key.run in planned:
                cost = estimator.cost(item)
                gpu_hours, hours = gpu_hours + cost.gpu_hours, hours + cost.hours
    return SeedCost(gpu_hours=gpu_hours, dollars=gpu_hours * published.gpu_hour_dollars, hours=hours)


_RECORDED = (
    "SELECT coalesce(sum(gpu_hours), 0), sum(seconds) / 3600 FROM costs WHERE study = ? AND part = ? "
    "AND asset IN (?, ?)"
)
