"""The throughput sweep of a generator: tier after tier, each from the best setting of the tier before it.

Every finished measurement is a file, so a sweep that is interrupted loses at most the one that was running.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact, Contents, write_json
from finephrase_dagster.artifacts.engine_flags import flag_name
from finephrase_dagster.artifacts.fingerprint import fingerprint, plain
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recipe import resolve_precision
from finephrase_dagster.artifacts.sweep import sweep_artifact
from finephrase_dagster.corpora.shards import make_corpus
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.generators.product import make_generator
from finephrase_dagster.rephrase.engine import CPU_FLAGS, FLAGS
from finephrase_dagster.rephrase.job import cell_job
from finephrase_dagster.rephrase.model_source import DeviceLeases
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.study.component import Cell
from finephrase_dagster.study.fields import no_such_name
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.paths import ENDPOINTS
from finephrase_dagster.throughput.halving import halve
from finephrase_dagster.throughput.machine import (
    Machine,
    NotApplicable,
    NothingToSweep,
    applicable_concurrency,
    applicable_values,
)
from finephrase_dagster.throughput.measurement import Bench
from finephrase_dagster.throughput.setting import SPECULATION, Flags, Setting
from finephrase_dagster.throughput.sweep_file import SweepSpec
from finephrase_dagster.throughput.tier import TierOutcome, cost, speed, tier_outcome
from finephrase_dagster.throughput.workload import Workload, work_folder

MEASUREMENTS, LOGS = "measurements", "logs"


class SweepFailed(FinephraseError):
    """No setting could be measured."""


@dataclass(kw_only=True)
class _Sweep:
    """A sweep under way."""

    bench: Bench
    generator: Generator
    machine: Machine
    folder: Path
    log: Callable[[str], None]
    runs: dict[Setting, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: list[NotApplicable] = field(default_factory=list)

    @property
    def spec(self) -> SweepSpec:
        return self.bench.spec

    @property
    def known(self) -> Flags:
        """The engine's flags, with the defaults that are known."""
        own = {flag_name(name): value for name, value in self.generator.engine.items()}
        return {"tensor_parallel_size": 1, **FLAGS, **(CPU_FLAGS if self.machine.cpu else {}), **own}

    def prepare(self) -> list[tuple[dict[str, list[Any]], list[int]]]:
        """Return the axes of each tier and its numbers of requests in flight; log what is not measured, and why."""
        usable, left_out = applicable_concurrency(self.spec.concurrency, self.bench.workload.requests)
        tiers = []
        for tier in self.spec.tiers:
            context = self.generator.context
            axes, others = applicable_values(tier, self.known, self.machine, concurrency=usable[-1], context=context)
            left_out += others
            tiers.append((axes, usable if SPECULATION in axes else usable[-1:]))
        self.left_out = left_out
        for axis, value, reason in left_out:
            self.log(f"not applicable: {axis} {value}: {reason}")
        return tiers

    def tier(
        self, number: int, axes: Mapping[str, Sequence[Any]], concurrency: Sequence[int], base: Setting
    ) -> TierOutcome:
        """Measure the settings of a tier, and return its outcome.

        Raises:
            SweepFailed: every setting failed.
        """
        combinations = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
        swept = [base.with_values(values, self.known, many) for values in combinations for many in concurrency]
        settings = list(dict.fromkeys([base, *swept]))
        self.log(f"tier {number}: {len(settings)} settings, compared with {base.name}")
        measure = partial(self._measure, f"tier {number}")
        for most, left in halve(settings, self.spec.replicates, measure, always=base):
            self.log(f"tier {number}: runs per setting: {most}; settings: {len(left)}")
        runs = {setting: self.runs[setting] for setting in settings}
        outcome = tier_outcome(base, runs, self.spec.confidence, self.spec.replicates[-1])
        if outcome is None:
            kinds = Counter(run["failure"]["kind"] for some in runs.values() for run in some if "failure" in run)
            raise SweepFailed(
                f"every setting failed ({', '.join(f'{count} x {kind}' for kind, count in kinds.items())}). The logs "
                f"are in {self.folder / LOGS}; to measure again, delete {self.folder / MEASUREMENTS}"
            )
        self.log(f"tier {number}: {outcome.found['why']}")
        return outcome

    def _measure(self, what: str, setting: Setting, number: int) -> float | None:
        """Return the output tokens per second and GPU of one run, from its file if it was measured before."""
        path = self.folder / MEASUREMENTS / f"{fingerprint(setting.name)[:12]}-{number}.json"
        known = path.exists()
        if not known:
            generator = self.generator.model_copy(update={"engine": setting.flags(self.generator.engine)})
            log = self.folder / LOGS / f"{path.stem}.log"
            figures = self.bench.measure(generator.engine, setting.concurrency, log)
            gpus = 0 if self.machine.cpu else generator.gpus
            write_json(path, {"setting": setting.name, "run": number, "gpus": gpus, **figures})
        figures = json.loads(path.read_bytes())
        runs = self.runs.setdefault(setting, [])
        if len(runs) == number:  # an earlier tier may have measured it, too
            runs.append(figures)
        before = "measured before, " if known else ""
        self.log(f"{what}, run {number + 1}, {setting.name}: {before}{_in_words(figures)}")
        return None if "failure" in figures else speed(figures)


def sweep(
    lineage: Lineage,
    name: str,
    spec: SweepSpec,
    *,
    devices: Sequence[str],
    leases: DeviceLeases | None = None,
    gpu_hour_dollars: float | None = None,
    log: Callable[[str], None] = lambda line: None,
    show: Callable[[RunStatistics], None] = lambda statistics: None,
) -> Artifact:
    """Sweep a generator of a study, unless that was done; return the complete artifact, whose manifest has all figures.

    The model and the corpus of the generator's first cell are materialized if they are not yet.

    Args:
        devices: those that engines may use.
        leases: reserves devices for each engine.
        log: receives a line per measurement and decision.
        show: called with the statistics of the running measurement twice a second.

    Raises:
        NothingToSweep: the study does not use the generator, or it has too few documents.
        ModelError, CorpusError: the model or the corpus cannot be had.
        SweepFailed: no setting could be measured.
    """
    cell = _cell(lineage, name)
    generator, source = lineage.study.generators[name], lineage.study.sources[cell.source]
    corpus, requirements = lineage.source(cell.source), lineage.paths.requirements
    lineage.generator(name).materialize(lambda folder: make_generator(generator, folder))
    corpus.materialize(lambda folder: make_corpus(source, cell.source, requirements, folder, log))
    artifact = sweep_artifact(lineage, cell, plain(spec))

    def measure(folder: Path) -> Contents:
        datasets = {prompt: lineage.dataset(cell, prompt) for prompt in lineage.study.prompts_of(cell)}
        work = Workload.of(
            cell_job(lineage, cell, datasets), corpus, documents=spec.documents, warmup=spec.warmup_documents
        )
        for part in (MEASUREMENTS, LOGS):
            (folder / part).mkdir(exist_ok=True)
        bench = Bench(workload=work, spec=spec, folder=work_folder(folder), leases=leases, log=log, show=show)
        run = _Sweep(
            bench=bench,
            generator=resolve_precision(generator),
            machine=Machine.of_devices(devices),
            folder=folder,
            log=log,
        )
        try:
            facts = _facts(run, gpu_hour_dollars)
        finally:
            shutil.rmtree(bench.folder, ignore_errors=True)
        return Contents(files=list((folder / MEASUREMENTS).iterdir()), facts=facts)

    artifact.materialize(measure)
    return artifact


def _facts(run: _Sweep, gpu_hour_dollars: float | None) -> dict[str, Any]:
    """Measure all tiers, and return what the manifest says of them."""
    tiers = run.prepare()
    base = chosen = Setting(concurrency=tiers[0][1][-1])
    outcomes = []
    for number, (axes, concurrency) in enumerate(tiers):
        outcome = run.tier(number, axes, concurrency, chosen)
        outcomes.append(outcome.found)
        chosen = outcome.chosen
    best = next(row for row in outcomes[-1]["settings"] if row["chosen"])
    default = next(row for row in outcomes[0]["settings"] if row["name"] == base.name)
    ratio = best["tokens_per_second"] / default["tokens_per_second"] if default["tokens_per_second"] else None
    own = run.generator.engine
    return {
        "best": {
            **{name: best[name] for name in ("name", "concurrency", "tokens_per_second", "low", "high", "runs")},
            "engine": chosen.flags(own),
            "gpus": run.runs[chosen][0]["gpus"],
        },
        "speedup": None if ratio is None else round(ratio, 4),
        "requests": run.bench.workload.requests,
        "not_applicable": [one._asdict() for one in run.left_out],
        "tiers": outcomes,
        "cost": cost(run.runs, run.spec.replicates[-1], None if run.machine.cpu else gpu_hour_dollars),
    }


def _cell(lineage: Lineage, name: str) -> Cell:
    """Return the first cell of a generator, whose documents and prompts are the work."""
    if lineage.paths.endpoints:
        raise NothingToSweep(f"{ENDPOINTS} is set: others run the engines, so there is nothing to sweep; unset it")
    if name not in lineage.study.generators:
        raise NothingToSweep(f"--generator {name}: {no_such_name(name, lineage.study.generators)}")
    for cell in lineage.study.cells:
        if cell.generator == name:
            return cell
    raise NothingToSweep(f"--generator {name}: no cell of the study uses it, so it has no documents; add a cell")


def _in_words(figures: Mapping[str, Any]) -> str:
    if failure := figures.get("failure"):
        return f"{failure['kind']}: {failure['line']}"
    steady = figures["steady"]
    shares = {"prefix cache hits": "prefix_cache_hit_rate", "drafts accepted": "speculation_acceptance"}
    more = "".join(f", {steady[share]:.0%} {what}" for what, share in shares.items() if steady[share] is not None)
    return (
        f"{speed(figures):,.0f} tokens/s in {steady['seconds']:.1f} s steady{more}; start "
        f"{figures['start_seconds']:.1f} s, warm-up {figures['warmup_seconds']:.1f} s"
    )
