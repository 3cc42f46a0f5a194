"""The evidence of one study: its scored mixtures with one student, its synthetic datasets, and what they cost."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finephrase_dagster.artifacts.recorded import failed_gates
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.results.arms import Arm, arms, mismatches
from finephrase_dagster.results.checks import ArmCheck, check_arms
from finephrase_dagster.results.noise import noise_of_one, pool_of, published_spread
from finephrase_dagster.results.scored_runs import ScoredRun, read_runs
from finephrase_dagster.results.tables import VIEWS
from finephrase_dagster.results.verdict import Verdict, compare
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.fields import shorten

if TYPE_CHECKING:
    import duckdb


class NoEvidence(FinephraseError, exit_status=2):
    """There are no scored runs of this study, student or mixture; the message lists what there is."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Generation:
    """A synthetic dataset, or a run that generated one.

    Attributes:
        component: the name that mixtures have for it.
        mixtures: the mixtures that hold it.
        made_for: the mixture that a published generation was made for; None: it was made for any.
        gpu_hours: None if they are unknown, as is each of the following.
        proxies: scores of its texts that are cheap to compute; empty if they are unknown or contradict themselves.
        collapse: number of distinct beginnings by their length, and how many documents share the most common one.
    """

    generator: str
    source: str
    prompt: str
    component: str
    mixtures: frozenset[str]
    made_for: str | None
    rows: int
    tokens: int
    gpu_hours: float | None
    dollars: float | None
    tokens_per_second: float | None
    proxies: Mapping[str, float]
    collapse: Sequence[Mapping[str, float]] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry(Arm):
    """An arm with what its mixture holds.

    Attributes:
        components: the share of each component of the mixture.
        synthetic: the share of synthetic text; None if it is unknown.
        datasets: the synthetic datasets that it holds.
    """

    components: Mapping[str, float]
    synthetic: float | None
    datasets: tuple[Generation, ...]

    @property
    def macro(self) -> float:
        """The mean macro score."""
        return self.scores["macro"]

    @property
    def kind(self) -> str:
        """Whether its text is original, synthetic or mixed."""
        if self.synthetic is None:
            return "unknown"
        return "original" if self.synthetic == 0 else "synthetic" if self.synthetic == 1 else "mixed"

    def curve(self, name: str = "macro") -> dict[int, float]:
        """Return the mean of a score by step, at the steps at which every run was scored."""
        steps = set.intersection(*({step for step, at in run.curve.items() if name in at} for run in self.runs))
        return {step: fmean(run.curve[step][name] for run in self.runs) for step in sorted(steps)}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a study knows about its mixtures.

    Attributes:
        student: the student that the mixtures are compared with.
        entries: its mixtures, best macro score first.
        other: the entries of the study's other students.
        times: where the engines' time went, by dataset: the rows of the view `goodput`.
        baseline: the entry that the others are compared with.
        verdicts: on each of the others against the baseline.
        checks: what A/A pairs and negative controls show about the study.
        left_out: runs that trained for another number of tokens than most, which no comparison counts.
        unfinished: entries of the student whose runs have no final score.
        gate_warnings: see `gate_warnings`.
    """

    study: str
    external: bool
    student: str
    entries: tuple[Entry, ...]
    other: Mapping[str, tuple[Entry, ...]]
    times: tuple[Mapping[str, Any], ...]
    datasets: tuple[Generation, ...]
    baseline: Entry
    verdicts: tuple[Verdict, ...]
    checks: tuple[ArmCheck, ...]
    left_out: tuple[str, ...]
    unfinished: tuple[Entry, ...] = ()
    gate_warnings: tuple[GateWarning, ...] = ()

    @property
    def parameters(self) -> int | None:
        """Size of the student; None if it is unknown."""
        return self.entries[0].first.parameters

    @property
    def tokens(self) -> int | None:
        """Tokens that each student trained on; None if they are unknown."""
        return self.entries[0].first.tokens

    @property
    def runs(self) -> int:
        """The number of runs of all students."""
        return sum(len(entry.runs) for entries in (self.entries, *self.other.values()) for entry in entries)

    def entry(self, mixture: str) -> Entry:
        """Return the entry of a mixture."""
        return next(entry for entry in self.entries if entry.mixture == mixture)


def read_evidence(
    connection: duckdb.DuckDBPyConnection, study: str, *, student: str | None = None, baseline: str | None = None
) -> Evidence:
    """Read the evidence of a study from the warehouse.

    Args:
        student: the student to compare mixtures with; the one with the most mixtures unless given.
        baseline: the mixture to compare with. Unless it is given, that of original text alone that the
            best mixture with synthetic text can be compared with.

    Raises:
        NoEvidence: there are no complete runs of this study, student or baseline.
    """
    scored = [run for run in read_runs(connection, [study]) if run.decay_from is None and "macro" in run.scores]
    runs = [run for run in scored if run.complete]
    if not runs:
        known = [name for (name,) in connection.execute("SELECT DISTINCT study FROM current ORDER BY study").fetchall()]
        raise NoEvidence(
            f"the warehouse has no finished runs with all scores of the study {study!r}; its studies are "
            f"{', '.join(known) or 'none'}. Run finephrase materialize, or name another study with --name"
        )
    lengths = {
        name: most_common(run.tokens or run.step for run in runs if run.student == name)
        for name in {run.student for run in runs}
    }
    alike = [run for run in runs if (run.tokens or run.step) == lengths[run.student]]
    components = read_components(connection, study)
    datasets = read_datasets(connection, study, components)
    entries = _entries(alike, datasets, components)
    student = student or max(entries, key=lambda name: (len(entries[name]), name))
    if student not in entries:
        raise NoEvidence(f"the study {study} has no student {student!r}; it has {', '.join(sorted(entries))}")
    chosen = {entry.mixture: entry for entry in entries[student]}
    if baseline is not None and baseline not in chosen:
        raise NoEvidence(
            f"the study {study} has no finished runs of the mixture {baseline!r} with the student {student}; it has "
            f"{', '.join(sorted(chosen)[:20])}"
        )
    baseline = baseline or _baseline(entries[student])
    own = [run for run in alike if run.student == student]
    return Evidence(
        study=study,
        external=runs[0].external,
        student=student,
        entries=entries[student],
        other={name: group for name, group in sorted(entries.items()) if name != student},
        times=_times(connection, study),
        datasets=tuple(datasets),
        baseline=chosen[baseline],
        verdicts=tuple(compare(own, baseline)),
        checks=tuple(check_arms(arms(own))),
        left_out=tuple(run.run for run in runs if run not in alike),
        unfinished=_entries([run for run in scored if not run.complete], datasets, components).get(student, ()),
        gate_warnings=tuple(gate_warnings(connection, study)),
    )


@dataclass(frozen=True, kw_only=True)
class GateWarning:
    """A dataset in mixtures that failed gates which only warn, or which left rows out.

    Attributes:
        failed: the gates by name, each with its value and threshold in words.
        page: where to read more: the path of the audit's page, or the command that shows the audit.
    """

    dataset: str
    mixtures: tuple[str, ...]
    failed: Mapping[str, str]
    page: str

    def __str__(self) -> str:
        return f"{self.dataset} (in {shorten(self.mixtures)}): {'; '.join(self.failed.values())}"


def gate_warnings(connection: duckdb.DuckDBPyConnection, study: str) -> list[GateWarning]:
    """Return the datasets in mixtures that failed gates which only warn, or which left rows out."""
    components = read_components(connection, study)
    found = []
    for item, names, manifest in connection.execute(
        "SELECT asset || '/' || part AS item, names, manifest FROM facts WHERE study = ? AND asset LIKE 'audits/%' "
        "ORDER BY item",
        [study],
    ).fetchall():
        named = json.loads(names)
        dataset = Component(**{field: named.get(field) for field in ("source", "generator", "prompt")}).name
        mixtures = tuple(
            mixture
            for mixture, shares in components.items()
            if any(dataset in component.split(", ") for component in shares)  # equal datasets are one component
        )
        if mixtures and (failed := failed_gates(json.loads(manifest), blocking=False)):
            page = named.get("page") or f"finephrase show {item}"
            found.append(GateWarning(dataset=dataset, mixtures=mixtures, failed=failed, page=page))
    return found


def _baseline(entries: Sequence[Entry]) -> str:
    """Return the mixture of original text alone that the best mixture with synthetic text can be compared with.

    Of several it is one with the same original text, and of those the best. Without any, it is the best original text.
    """
    original = [entry for entry in entries if entry.kind == "original"] or list(entries)
    for entry in entries:
        alike = [other for other in original if entry not in original and not mismatches(other, entry)]
        if alike:
            return max(alike, key=lambda other: set(other.first.mix_in or ()) == set(entry.first.mix_in or ())).mixture
    return original[0].mixture


def read_components(connection: duckdb.DuckDBPyConnection, study: str) -> dict[str, dict[str, float]]:
    """Return the shares of the components of each mixture."""
    shares: dict[str, dict[str, float]] = defaultdict(dict)
    for mixture, component, weight in connection.execute(
        "SELECT mixture, component, weight FROM mixtures WHERE study = ? ORDER BY ALL", [study]
    ).fetchall():
        shares[mixture][component] = weight
    return shares


def _entries(
    runs: Iterable[ScoredRun], datasets: Sequence[Generation], components: Mapping[str, Mapping[str, float]]
) -> dict[str, tuple[Entry, ...]]:
    """Return the entries by student, best first; arms that check the study are no entries."""
    groups: dict[tuple[str, str], list[ScoredRun]] = defaultdict(list)
    for run in runs:
        if run.origin is None:
            groups[run.student, run.mixture].append(run)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for (student, mixture), group in groups.items():
        entries[student].append(
            Entry(
                runs=tuple(group),
                components=components.get(mixture, {}),
                synthetic=_synthetic_share(group[0]),
                datasets=tuple(dataset for dataset in datasets if mixture in dataset.mixtures),
            )
        )
    return {
        name: tuple(sorted(group, key=lambda entry: (-entry.macro, entry.mixture))) for name, group in entries.items()
    }


def _synthetic_share(run: ScoredRun) -> float | None:
    if run.mix_in is None:
        return None
    share = 1 - math.fsum(run.mix_in.values())
    return 0.0 if abs(share) < 1e-4 else round(share, 4)


def read_datasets(
    connection: duckdb.DuckDBPyConnection, study: str, components: Mapping[str, Mapping[str, float]]
) -> list[Generation]:
    """Return the synthetic datasets of a study, each with the mixtures that hold it."""
    holding: dict[str, set[str]] = defaultdict(set)
    for mixture, shares in components.items():
        for component in shares:
            holding[component].add(mixture)
    # A published generation names the mixture that it was made for. Its component is the one that fewest others hold.
    own = {mixture: min(shares, key=lambda name: (len(holding[name]), name)) for mixture, shares in components.items()}
    curves = _collapse(connection, study)
    rows = connection.execute(
        "SELECT generator, source, prompt, completed, completion_tokens, gpu_hours, dollars, tokens_per_second, "
        "training_run, proxies, proxies_valid FROM generations WHERE study = ? ORDER BY ALL",
        [study],
    ).fetchall()
    return [
        Generation(
            generator=generator,
            source=source,
            prompt=prompt,
            component=(component := own.get(training_run) or f"{generator}__{source}/{prompt}"),
            mixtures=frozenset(holding[component]),
            made_for=training_run,
            rows=completed,
            tokens=tokens,
            gpu_hours=hours,
            dollars=dollars,
            tokens_per_second=speed,
            proxies={name: float(value) for name, value in json.loads(proxies).items()} if proxies and valid else {},
            collapse=curves.get((generator, source, prompt), ()),
        )
        for generator, source, prompt, completed, tokens, hours, dollars, speed, training_run, proxies, valid in rows
    ]


def _times(connection: duckdb.DuckDBPyConnection, study: str) -> tuple[Mapping[str, Any], ...]:
    # The query, not the view, which an older warehouse does not have.
    query = " ".join(("WITH goodput AS (", VIEWS["goodput"], ") SELECT * FROM goodput WHERE study = ? ORDER BY ALL"))
    rows = connection.execute(query, [study])
    names = [column[0] for column in rows.description]
    return tuple(dict(zip(names, row, strict=True)) for row in rows.fetchall())


def _collapse(connection: duckdb.DuckDBPyConnection, study: str) -> dict[tuple[str, str, str], list[dict[str, float]]]:
    """Return the prefix curves that the gate `collapse` measured, by dataset."""
    rows = connection.execute(
        "SELECT names->>'$.generator', names->>'$.source', names->>'$.prompt', manifest->'$.gates' FROM facts "
        "WHERE study = ? AND asset LIKE 'audits/%'",
        [study],
    ).fetchall()
    curves: dict[tuple[str, str, str], list[dict[str, float]]] = {}
    for generator, source, prompt, gates in rows:
        for gate in json.loads(gates):
            if prefixes := gate.get("figures", {}).get("prefixes"):
                points = zip(*prefixes.values(), strict=True)  # columns of the curve, by name
                curves[generator, source, prompt] = [dict(zip(prefixes, point, strict=True)) for point in points]
    return curves


def seed_noise(entries: Iterable[Entry], name: str = "macro") -> tuple[float | None, int]:
    """Return the standard deviation of a score over seeds, pooled over entries, and its degrees of freedom."""
    freedom, variance = pool_of([entry.replicates(name) for entry in entries])
    return variance**0.5 if freedom else None, freedom


def most_common(values: Iterable[Any]) -> Any:
    """Return the most common value; of several the smallest."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def mean_interval(evidence: Evidence, entry: Entry) -> tuple[float | None, float | None]:
    """Return the 95 % interval of an entry's mean macro score over seeds; None without any noise."""
    from scipy.stats import t

    spread = published_spread(evidence.student, evidence.parameters, "macro", entry.first.uncounted)
    noise = noise_of_one(entry.replicates("macro"), [one.replicates("macro") for one in evidence.entries], spread)
    if noise is None:
        return None, None
    sd, freedom, _ = noise
    width = float(t.ppf(0.975, freedom)) * sd / math.sqrt(len(entry.runs))
    return entry.macro - width, entry.macro + width
