"""The plan: what a study would run, what exists already, and what it costs. Making a plan starts nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.graph import Item, State, items, states
from finephrase_dagster.artifacts.key import STAGES
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.sampling import sampling_words
from finephrase_dagster.plan.cost import Cost, Estimator
from finephrase_dagster.plan.epochs import repetition_warnings
from finephrase_dagster.plan.measured import Measured
from finephrase_dagster.plan.published import Published
from finephrase_dagster.plan.seeds import Sight, sights
from finephrase_dagster.plan.warnings import (
    failed_audit_warnings,
    failed_gates,
    study_warnings,
    version_warnings,
)
from finephrase_dagster.study.file import StudyError

PRICED = ("gpu_hours", "dollars", "wall_hours")
"""The figures that are null where a part of them is unknown."""
FIGURES = ("documents", "input_tokens", "output_tokens", "gpu_hours", "dollars", "wall_hours", "disk_bytes")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The assumptions that a plan's cost is computed with; none of them is part of an artifact's identity.

    Attributes:
        gpus: number of GPUs that work at the same time.
        gpu_hour_dollars: price of one GPU-hour.
        goodput: share of the GPUs' time that is spent working; 1 is ideal, the published production run reached 0.44.
    """

    gpus: int = 1
    gpu_hour_dollars: float = 3.0
    goodput: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An item with its state and its cost; `failed_gates` names those that a complete audit did not pass."""

    item: Item
    state: State
    cost: Cost
    failed_gates: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The items of a study with their states and costs.

    Attributes:
        warnings: what a person should know before starting anything.
        sights: the smallest difference that the study's seeds can show, by student.
        sampling: the sampling values that requests have, with the names of the generators.
    """

    study: str
    file: Path
    data: Path
    terms: Terms
    items: tuple[Planned, ...]
    warnings: tuple[str, ...]
    sights: tuple[Sight, ...]
    sampling: tuple[str, ...] = ()

    @property
    def dollars(self) -> float:
        """The cost of everything that would run."""
        return self._total(self._to_do)["dollars"]

    @property
    def unknown(self) -> tuple[str, ...]:
        """The missing figures without which the cost of some items that would run is unknown."""
        return tuple(dict.fromkeys(planned.cost.unknown for planned in self._to_do if planned.cost.unknown))

    @property
    def _to_do(self) -> list[Planned]:
        return [planned for planned in self.items if planned.state.status in ("stale", "missing")]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as `finephrase plan --json` prints it.

        `stages` and `total` sum up what would run, each with what `exists` already, without the `failed` audits;
        `items` lists every item. Of what would run, `unpriced` items have an unknown cost: then `known` has the sums of
        the others, and the sum is null.
        """
        used = [stage for stage in STAGES if any(planned.item.stage == stage for planned in self.items)]
        return {
            "study": self.study,
            "file": str(self.file),
            "data": str(self.data),
            "gpus": self.terms.gpus,
            "gpu_hour_dollars": self.terms.gpu_hour_dollars,
            "goodput": self.terms.goodput,
            "stages": {stage: self._summary([p for p in self.items if p.item.stage == stage]) for stage in used},
            "total": self._summary(self.items),
            "warnings": list(self.warnings),
            "sampling": list(self.sampling),
            "visible_differences": [asdict(sight) for sight in self.sights],
            "unknown": list(self.unknown),
            "items": [
                {
                    "name": planned.item.name,
                    "stage": planned.item.stage,
                    "asset": planned.item.asset,
                    "partition": planned.item.partition,
                    "state": planned.state.status,
                    **_place(planned),
                    "reasons": [
                        *planned.state.reasons,
                        *([f"did not pass ({planned.failed_gates})"] if planned.failed_gates else []),
                    ],
                    **self._figures(planned.cost),
                    **(dict.fromkeys(PRICED) if planned.cost.unknown else {}),
                    "basis": list(planned.cost.basis),
                    "unknown": planned.cost.unknown,
                }
                for planned in self.items
            ],
        }

    def _summary(self, some: Collection[Planned]) -> dict[str, Any]:
        by_status = {
            status: [planned for planned in some if planned.state.status == status]
            for status in ("stale", "missing", "current", "stopped")
        }
        to_do = [*by_status["stale"], *by_status["missing"]]
        passed = [planned for planned in by_status["current"] if not planned.failed_gates]
        total, unpriced = self._total(to_do), sum(planned.cost.unknown is not None for planned in to_do)
        basis = dict.fromkeys(line for planned in to_do or some for line in planned.cost.basis)
        return {
            **total,
            **(dict.fromkeys(PRICED) if unpriced else {}),
            "known": {name: total[name] for name in PRICED},
            "unpriced": unpriced,
            "stale": len(by_status["stale"]),
            "missing": len(by_status["missing"]),
            "stopped": len(by_status["stopped"]),
            "failed": len(by_status["current"]) - len(passed),
            "exists": self._total(passed),
            "basis": list(basis),
        }

    def _total(self, some: Collection[Planned]) -> dict[str, Any]:
        rows = [self._figures(planned.cost) for planned in some]
        return {"partitions": len(some), **{name: sum(row[name] for row in rows) for name in FIGURES}}

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


def _place(planned: Planned) -> dict[str, str | None]:
    """Return the fingerprint and the folder of an artifact that exists."""
    if planned.state.status != "current":
        return {"fingerprint": None, "folder": None}
    artifact = planned.item.artifact()
    return {"fingerprint": artifact.fingerprint, "folder": str(artifact.folder)}


def plan(lineage: Lineage, terms: Terms | None = None) -> Plan:
    """Return the plan of a study; reads manifests and starts nothing.

    Raises:
        StudyError: the data folder is not a folder.
    """
    lineage, data = lineage.snapshot(), lineage.paths.data
    if data.exists() and not data.is_dir():
        raise StudyError(f"FINEPHRASE_DATA {data} is not a folder; set it to the folder that holds the artifacts")
    published = Published.read()
    terms = terms or Terms(gpu_hour_dollars=published.gpu_hour_dollars)
    graph = {item.name: item for item in items(lineage)}
    state = states(graph)
    estimator = Estimator(lineage, published=published, measured=Measured(data))
    planned = tuple(
        Planned(item=item, state=state[name], cost=estimator.cost(item), failed_gates=failed_gates(item))
        for name, item in graph.items()
    )
    warnings = [
        *_unreadable_sources(planned),
        *failed_audit_warnings(graph, state),
        *version_warnings(graph, state),
        *repetition_warnings(lineage.study, estimator.expected),
        *study_warnings(lineage, published, gpus=terms.gpus),
        *_ideal_throughput(planned, terms),
    ]
    return Plan(
        study=lineage.study.name,
        file=lineage.paths.study,
        data=data,
        terms=terms,
        items=planned,
        warnings=tuple(warnings),
        sights=tuple(sights(lineage)),
        sampling=tuple(_sampling(lineage)),
    )


def _sampling(lineage: Lineage) -> Iterator[str]:
    """Yield the sampling values of the generators that cells use; those with the same values together."""
    alike: dict[str, list[str]] = {}
    for name in dict.fromkeys(cell.generator for cell in lineage.study.cells):
        alike.setdefault(sampling_words(lineage.study.generators[name], partial(lineage.generator, name)), []).append(
            name
        )
    return (f"{', '.join(names)}: {words}" for words, names in alike.items())


def _unreadable_sources(planned: Iterable[Planned]) -> Iterable[str]:
    for one in planned:
        if one.item.stage == "sources" and one.state.status == "missing":
            yield from one.state.reasons


def _ideal_throughput(planned: Iterable[Planned], terms: Terms) -> Iterable[str]:
    if terms.goodput == 1 and any("published sweep" in line for one in planned for line in one.cost.basis):
        yield (
            "GPU-hours assume the ideal throughput of the published sweep; the published study took about twice as "
            "many. Pass --goodput to allow for that"
        )
