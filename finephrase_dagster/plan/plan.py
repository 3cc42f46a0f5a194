"""The plan: what a study would run, what exists already, and what it costs. It starts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.graph import Item, State, current_manifest, items, states
from finephrase_dagster.artifacts.key import STAGES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.corpora.kinds.hub import HubSource
from finephrase_dagster.plan.cost import Cost, Estimator
from finephrase_dagster.plan.expectation import Expectations
from finephrase_dagster.plan.published import Measured, Published
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.spec import Study
from finephrase_dagster.study.student import MANY_EPOCHS

MOVING = ("main", "master")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Under which a plan is priced; none of it is identity.

    Attributes:
        gpus: that work at the same time.
        gpu_hour_dollars: the price of one for an hour.
        goodput: the part of a GPU's time that does the work; 1 is ideal, the published production run reached .44.
    """

    gpus: int = 1
    gpu_hour_dollars: float = 3.0
    goodput: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One item with its state and its cost."""

    item: Item
    state: State
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study's items with states and costs, and the terms.

    Attributes:
        file: the study's.
        data: the folder of all artifacts.
        warnings: what a person should know before launching.
    """

    study: str
    file: Path
    data: Path
    terms: Terms
    items: tuple[Planned, ...]
    warnings: tuple[str, ...]

    @property
    def dollars(self) -> float:
        """What would run costs."""
        return self._total(self._to_do)["dollars"]

    @property
    def unknown(self) -> tuple[str, ...]:
        """What would have to be known to price what would run."""
        return tuple(dict.fromkeys(planned.cost.unknown for planned in self._to_do if planned.cost.unknown))

    @property
    def _to_do(self) -> list[Planned]:
        return [planned for planned in self.items if planned.state.status in ("stale", "missing")]

    def as_json(self) -> dict[str, Any]:
        """`stages` and `total` of what would run, each with what `exists` already; `items`, the list behind them."""
        used = [stage for stage in STAGES if any(planned.item.stage == stage for planned in self.items)]
        return {
            "study": self.study,
            "file": str(self.file),
            "data": str(self.data),
            "gpus": self.terms.gpus,
            "gpu_hour_dollars": self.terms.gpu_hour_dollars,
            "goodput": self.terms.goodput,
            "stages": {stage: self._stage([p for p in self.items if p.item.stage == stage]) for stage in used},
            "total": self._stage(self.items),
            "warnings": list(self.warnings),
            "unknown": list(self.unknown),
            "items": [
                {
                    "name": planned.item.name,
                    "stage": planned.item.stage,
                    "asset": planned.item.asset,
                    "partition": planned.item.partition,
                    "state": planned.state.status,
                    "reasons": list(planned.state.reasons),
                    **self._figures(planned.cost),
                    "basis": list(planned.cost.basis),
                    "unknown": planned.cost.unknown,
                }
                for planned in self.items
            ],
        }

    def _stage(self, of_stage: Iterable[Planned]) -> dict[str, Any]:
        of_stage = list(of_stage)
        by_status = {
            status: [planned for planned in of_stage if planned.state.status == status]
            for status in ("stale", "missing", "current")
        }
        to_do = [*by_status["stale"], *by_status["missing"]]
        basis = dict.fromkeys(line for planned in to_do or of_stage for line in planned.cost.basis)
        return {
            **self._total(to_do),
            "unpriced": sum(planned.cost.unknown is not None for planned in to_do),
            "stale": len(by_status["stale"]),
            "missing": len(by_status["missing"]),
            "stopped": sum(planned.state.status == "stopped" for planned in of_stage),
            "exists": self._total(by_status["current"]),
            "basis": list(basis),
        }

    def _total(self, some: Iterable[Planned]) -> dict[str, Any]:
        some = list(some)
        rows = [self._figures(planned.cost) for planned in some]
        names = ("documents", "input_tokens", "output_tokens", "gpu_hours", "dollars", "wall_hours", "disk_bytes")
        return {"partitions": len(some), **{name: sum(row[name] for row in rows) for name in names}}

    def _figures(self, cost: Cost) -> dict[str, Any]:
        paid = cost.gpu_hours / self.terms.goodput
        return {
            "documents": cost.documents,
            "input_tokens": cost.input_tokens,
            "output_tokens": cost.output_tokens,
            "gpu_hours": cost.gpu_hours,
            "dollars": paid * self.terms.gpu_hour_dollars,
            "wall_hours": paid / self.terms.gpus + cost.hours,
            "disk_bytes": cost.disk_bytes,
        }


def plan(lineage: Lineage, terms: Terms | None = None) -> Plan:
    """The plan of a study in an installation; reads manifests, starts nothing.

    Raises:
        StudyError: the folder of artifacts is none.
    """
    if lineage.paths.data.exists() and not lineage.paths.data.is_dir():
        raise StudyError(f"FINEPHRASE_DATA {lineage.paths.data} is no folder; name the one with the artifacts")
    published = Published.read()
    terms = terms or Terms(gpu_hour_dollars=published.gpu_hour_dollars)
    graph = {item.name: item for item in items(lineage)}
    found = states(graph, lineage.paths.data)
    estimator = Estimator(lineage, published=published, measured=Measured(lineage.paths.data))
    planned = tuple(Planned(item=item, state=found[name], cost=estimator.cost(item)) for name, item in graph.items())
    unreadable = [
        f"sources.{item.partition}: {reason}"
        for name, item in graph.items()
        if item.stage == "sources" and found[name].status == "missing"
        for reason in found[name].reasons
    ]
    warnings = [
        *unreadable,
        *_failed_audits(graph, found),
        *_repeated(lineage.study, estimator.expected),
        *_warnings(lineage, terms, published),
    ]
    if any("published sweep" in line for one in planned for line in one.cost.basis) and terms.goodput == 1:
        warnings.append(
            "GPU-hours are ideal, by the published sweep; the study's own runs took about twice as many: see --goodput"
        )
    return Plan(
        study=lineage.study.name,
        file=lineage.paths.study,
        data=lineage.paths.data,
        terms=terms,
        items=planned,
        warnings=tuple(warnings),
    )


def _failed_audits(graph: Mapping[str, Item], found: Mapping[str, State]) -> Iterable[str]:
    """What cannot be made although all that it needs is there."""
    for name, item in graph.items():
        if item.stage != "audits" or found[name].status != "current":
            continue
        manifest = current_manifest(item) or {}
        if manifest.get("passed") is False:
            gates = manifest.get("gates")
            failed = [
                str(gate.get("name"))
                for gate in (gates if isinstance(gates, list) else [])
                if isinstance(gate, dict) and not gate.get("passed")
            ]
            behind = {name}
            for other in graph.values():  # upstream first
                if behind & set(other.needs):
                    behind.add(other.name)
            mixtures = [other for other in behind if graph[other].stage == "mixtures"]
            held_up = ", ".join(sorted(mixtures)) or "nothing"
            yield (
                f"{name}: did not pass ({', '.join(failed) or 'its gates'}); {held_up} "
                f"and {len(behind) - len(mixtures) - 1} partitions behind cannot be made before the prompt, the "
                "generator or the gate changes"
            )


def _repeated(study: Study, expected: Expectations) -> Iterable[str]:
    """Mixtures of which a student will see a dataset more often than is any use, as far as sizes are known."""
    many = {}
    for name, mixture in study.mixtures.items():
        for component, weight in mixture.weights.items():
            size = expected.size(study.datasets[component])
            if size.tokens and (epochs := weight * mixture.tokens / size.tokens) > MANY_EPOCHS:
                many[f"mixtures.{name}: a student sees {component} about {epochs:.1f} times"] = epochs
    if many:
        worst = sorted(many, key=lambda said: -many[said])
        more = f", and {len(worst) - 3} more like this" if len(worst) > 3 else ""
        yield (
            f"{'; '.join(worst[:3])}{more}: beyond {MANY_EPOCHS} times repetition costs score; lower 'tokens' or the "
            "weight, or take more text"
        )


def _early_stop(study: Study, published: Published) -> Iterable[str]:
    """What an early stop does, and what it would have cost the published study."""
    stop = study.early_stop
    if stop is None:
        return
    if not study.rivals:
        yield "early_stop: compares nobody: no two runs, bases of decays apart, have the same student, budget and seeds"
        return
    going_on = sum(stop.going_on(len(group)) for group in study.compared_early.values())
    known = published.early(stop.step / min(study.steps(run) for run in study.rivals), stop.keep)
    cost = "no published figure is so early or so strict"
    if known:
        cost = (
            f"of the published students it would have cost {known.regret:.4f} macro in the mean, at "
            f"{100 * known.part:g} % of the training (rank correlation {known.rank_correlation:.2f})"
        )
    yield f"early_stop: {going_on} of {len(study.rivals)} students go on after step {stop.step}; {cost}"


def _warnings(lineage: Lineage, terms: Terms, published: Published) -> Iterable[str]:
    moving = [f"generators.{name}" for name, spec in lineage.study.generators.items() if _moves(spec)]
    moving += [
        f"sources.{name}"
        for name, spec in lineage.study.sources.items()
        if isinstance(spec, HubSource) and spec.revision in MOVING
    ]
    if moving:
        yield f"{', '.join(moving)}: a branch may move; name a commit in place of it before paying for anything"
    yield from _early_stop(lineage.study, published)
    every = lineage.study.evaluation.every if lineage.study.evaluation else None
    if every and all(lineage.study.steps(run) <= every for run in lineage.study.student_runs):
        yield f"evaluation.every: no run has more than {every} steps; lower it, or remove it"
    tokenizer = lineage.study.tokenizer
    if tokenizer and tokenizer.model.startswith(("/", ".")) and not Path(tokenizer.model).is_dir():
        yield f"tokenizer: there is no folder {tokenizer.model}; put the tokenizer there or correct the path"
    for name, generator in lineage.study.generators.items():
        if generator.model.startswith(("/", ".")) and not Path(generator.model).is_dir():
            yield f"generators.{name}: there is no folder {generator.model}; put the model there or correct the path"
        if generator.gpus > terms.gpus and not generator.trained_here:
            yield f"generators.{name}: an engine holds {generator.gpus} GPUs, the plan has {terms.gpus}"


def _moves(generator: Generator) -> bool:
    return generator.model.rpartition("@")[2] in MOVING
