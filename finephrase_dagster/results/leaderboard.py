"""The leaderboard of a study: its mixtures compared by the benchmark scores of their students."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing, Contents, write_json
from finephrase_dagster.artifacts.fingerprint import fingerprint, plain
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.key import AUDIT, MIXTURE, SCORES
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.artifacts.recorded import AUDIT_PAGE
from finephrase_dagster.evaluate.benchmark import CATEGORIES
from finephrase_dagster.evaluate.categories import means_without, partial_words, unscored_tasks
from finephrase_dagster.evaluate.evaluation import SAMPLES
from finephrase_dagster.evaluate.metric import Metric
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.results.arms import Arm, arms, mismatches
from finephrase_dagster.results.checks import check_arms
from finephrase_dagster.results.early import look_early
from finephrase_dagster.results.noise import noise_of_one, published_spread
from finephrase_dagster.results.scored_runs import ORIGINS, ScoredRun, read_runs
from finephrase_dagster.results.standing import standings
from finephrase_dagster.results.verdict import check_metric, compare_arms
from finephrase_dagster.results.warehouse import key_of, mark_current, record_manifests, recorded

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """The compared mixtures and how well early scores predict final ones.

    Attributes:
        rows: one per mixture, student and variant, best first; see `compose_leaderboard`.
        early: one per step at which students were scored before their end; see `early.EarlyLook`.
    """

    rows: list[dict[str, Any]]
    early: list[dict[str, Any]]

    def write(self, folder: Path) -> Contents:
        """Fill the folder of the leaderboard's artifact."""
        write_json(folder / "leaderboard.json", self.rows)
        write_json(folder / "early.json", self.early)
        return Contents(files=folder.glob("*.json"), facts={"rows": len(self.rows)})


def study_leaderboard(lineage: Lineage, connection: duckdb.DuckDBPyConnection, metric: str = "macro") -> Leaderboard:
    """Compare all finished student runs of a study, which `record_study` has recorded in the warehouse."""
    runs = read_runs(connection, [lineage.study.name])
    with contextlib.suppress(ArtifactMissing):  # the early stop is undecided
        finishing = set(lineage.finishing_runs())
        runs = [run for run in runs if run.run in finishing]
    return compose_leaderboard(runs, metric) if runs else Leaderboard(rows=[], early=[])


def compose_leaderboard(runs: Iterable[ScoredRun], metric: str = "macro") -> Leaderboard:
    """Compare runs by their mixtures.

    Args:
        metric: the score that ranks them, as `evaluate/metric.py` names it; its measure and its estimate are those of
            all scores of a row.

    Raises:
        NotComparable: no run has this score.

    Returns:
        Rows, best score first, then by micro score, with
        `mixture`, `student`, `decay_from` (None: trained from scratch), `seeds` (number of student runs);
        the `score` by the `metric`; `macro` (None where tasks are missing), its standard deviation over seeds
        `macro_sd`, `micro`, `categories` and `tasks`; `held_out`: the mean of `held_out_tasks`, which no other mean
        counts; `macro_interval`: mean of the runs' intervals over items, which more seeds do not narrow;
        `tokens`, `epochs` of the component that was repeated most, `mix_in`, the shares of original text, and
        `despite_audits`, the reason for using datasets that failed their audit;
        `comparable`: the number of rows, including this one, of the same student, budget and mix-in;
        `behind` the best of these, and the `verdict` on this row against it, as one of all pairs (`best` for itself);
        `noise`: sd of one seed, with its `noise_source`; `rank_interval`, `p_best`, `shrunk`: see `standing.py`;
        `check`: what an arm of an A/A pair or a control, which has no standing, shows about the study (`checks.py`);
        `against_original`: the verdict on a mixture with synthetic text against the best original text that matches it.
    """
    complete, score = [run for run in runs if run.complete], Metric.read(metric)
    if str(score) != "macro":
        check_metric(str(score), complete)
    every = arms(complete)
    rows = {id(arm): _row(arm, score) for arm in every}
    groups: dict[object, list[Arm]] = {}
    candidates = [arm for arm in every if arm.origin is None]
    for arm in candidates:
        groups.setdefault(_comparable(arm), []).append(arm)
    for group in groups.values():
        _stand(group, every, rows, score)
    _against_original(candidates, every, rows, score)
    for check in check_arms(every, str(score)):
        rows[id(check.verdict.arm)] |= {"check": check.as_json(), "verdict": check.verdict.verdict}
    ordered = sorted(rows.values(), key=lambda row: (*_order(row, score), row["mixture"]))
    looks = look_early({run.run: _course(run, score) for run in complete})
    return Leaderboard(
        rows=ordered,
        early=[{**asdict(look), "regret": {f"{part:g}": lost for part, lost in look.regret.items()}} for look in looks],
    )


def _order(row: Mapping[str, Any], metric: Metric) -> tuple[bool, float, float]:
    """Return what sorts rows, best first."""
    return row["score"] is None, -metric.sign * (row["score"] or 0.0), -metric.sign * (row["micro"] or 0.0)


def _row(arm: Arm, metric: Metric) -> dict[str, Any]:
    """Return the means of an arm, and what does not depend on others."""
    means = {name: arm.scores[metric.of(name)] for name in arm.scores if metric.of(name) in arm.scores}
    macros, first = arm.replicates(metric.of("macro")), arm.first
    is_default = not (metric.bits or metric.averaged)
    intervals = [run.macro_interval for run in arm.runs if run.macro_interval and is_default]
    return {
        "mixture": arm.mixture,
        "student": arm.student,
        "decay_from": first.decay_from,
        "external": first.external,
        "seeds": len(arm.runs),
        "metric": str(metric),
        "score": means.get(metric.name),
        "macro": means.get("macro"),
        "macro_sd": macros.variance**0.5 if macros.freedom else None,
        "micro": means.get("micro"),
        "categories": {name: means[name] for name in CATEGORIES if name in means},
        "tasks": {name: means[name] for name in benchmarks() if name in means},
        "held_out": means.get("held_out"),
        "held_out_tasks": list(first.held_out),
        "partial": partial_words(first.unscored) or None,
        "macro_interval": [fmean(ends) for ends in zip(*intervals, strict=True)] or None,
        "tokens": first.tokens,
        "epochs": first.epochs,
        "mix_in": None if first.mix_in is None else dict(first.mix_in),
        "despite_audits": first.despite_audits,
        "against_original": None,
        "check": None,
        "comparable": 1,
        **dict.fromkeys(_STANDING),
    }


def _comparable(arm: Arm) -> object:
    """Return what arms have in common that differ in their synthetic part alone."""
    one = arm.first
    mix_in = None if one.mix_in is None else tuple(one.mix_in.items())
    return one.study, one.student, one.decay_from, one.tokens, one.step, one.evaluation, mix_in


def _stand(group: list[Arm], every: list[Arm], rows: dict[int, dict[str, Any]], metric: Metric) -> None:
    """Add to the rows of comparable arms where they stand among each other."""
    for arm in group:
        rows[id(arm)]["comparable"] = len(group)
    name, sign = str(metric), metric.sign
    scored = [(arm, sample.times(sign)) for arm in group if (sample := arm.replicates(name))]
    if not scored:
        return
    best = max(scored, key=lambda pair: pair[1].mean)[0]
    of_student = [arm for arm in every if arm.student == best.student]
    pool = [arm.replicates(name) for arm in of_student]
    spread = published_spread(best.student, best.first.parameters, name, best.first.uncounted)
    placed = standings([sample for _, sample in scored], pool, spread) or []
    for arm, sample in scored:
        sd, _, source = noise_of_one(sample, pool, spread) or (None, None, None)
        rows[id(arm)] |= {"noise": sd, "noise_source": source}
    for (arm, _), standing in zip(scored, placed, strict=False):
        rows[id(arm)] |= asdict(standing) | {"shrunk": sign * standing.shrunk}
    rows[id(best)] |= {"behind": 0.0, "verdict": "best" if placed else "undecided"}
    pairs = [(best, arm) for arm, _ in scored if arm is not best]
    for verdict in compare_arms(pairs, every, metric=name, question="pairs"):
        rows[id(verdict.arm)] |= {"behind": -sign * (verdict.difference or 0.0), "verdict": verdict.verdict}


_STANDING = ("noise", "noise_source", "rank_interval", "p_best", "shrunk", "behind", "verdict")


def _against_original(candidates: list[Arm], every: list[Arm], rows: dict[int, dict[str, Any]], metric: Metric) -> None:
    """Add to the rows with synthetic text the verdict against the best original text that they can be compared with."""
    students: dict[object, list[Arm]] = {}
    for arm in candidates:
        if arm.first.decay_from is None and rows[id(arm)]["score"] is not None and arm.first.original is not None:
            students.setdefault((arm.first.study, arm.student, arm.first.tokens), []).append(arm)
    for group in students.values():
        original = sorted((arm for arm in group if arm.first.original), key=lambda arm: _order(rows[id(arm)], metric))
        if original:
            pairs = [(_baseline(arm, original), arm) for arm in group if not arm.first.original]
            for verdict in compare_arms(pairs, every, metric=str(metric)):
                rows[id(verdict.arm)]["against_original"] = verdict.as_json()


def _baseline(arm: Arm, original: list[Arm]) -> Arm:
    """Return the best mixture of original text that an arm can be compared with; without one, the best of all."""
    return next((base for base in original if not mismatches(base, arm)), original[0])


def record_study(lineage: Lineage, connection: duckdb.DuckDBPyConnection) -> int:
    """Record the artifacts of a study that exist and are not recorded yet, and that the study refers to them now.

    Returns:
        The number of artifacts that were not recorded before.
    """
    complete = list(_complete(lineage))
    known = recorded(connection)
    added = [artifact for artifact in complete if key_of(artifact) not in known]
    record_manifests(connection, ((key_of(artifact), artifact.manifest()) for artifact in added))
    mark_current(
        connection, lineage.study.name, ((key_of(artifact), _names(lineage, artifact)) for artifact in complete)
    )
    return len(added)


def _names(lineage: Lineage, artifact: Artifact) -> dict[str, Any]:
    """Return what the study's names for an artifact mean."""
    key = artifact.key
    names = {name: value for name in ("generator", "source", "prompt") if (value := getattr(key, name)) is not None}
    if key.kind is AUDIT:
        names["page"] = str(artifact.folder / AUDIT_PAGE)
    elif key.kind is MIXTURE:
        parts = lineage.parts(artifact.key.mixture or "")
        names["components"] = {
            version: {"name": part.name, "original": part.audit is None} for version, part in parts.items()
        }
        spec = lineage.study.mixtures[artifact.key.mixture or ""]
        names |= {name: origin for name in ORIGINS if (origin := getattr(spec, name))}
    elif key.run is not None:
        run, recipe = lineage.study.student_runs[key.run], plain(artifact.recipe)
        student = lineage.study.students[run.student]
        names |= {
            "mixture": run.mixture,
            "student": run.student,
            "data_seed": run.seeds.data,
            "model_seed": run.seeds.model,
            "seed": f"data {run.seeds.data}, model {run.seeds.model}",
            "decay_from": run.decay_from,
            "parameters": student.parameters(lineage.vocabulary),
            "evaluation": _evaluation(recipe),
            "samples": str(artifact.folder / SAMPLES),
        }
        held_out, unscored = lineage.evaluation.held_out, unscored_tasks(lineage.evaluation.tasks)
        if key.kind is SCORES:
            trained = plain(lineage.checkpoint(key.run).recipe)
            names["training"] = fingerprint({name: trained[name] for name in trained.keys() - _OF_ONE_RUN})[:8]
        if key.kind is SCORES and (held_out or unscored):
            names |= {"held_out": held_out, "unscored": unscored}
            names["curve"] = [means_without(point, held_out) for point in artifact.manifest()["curve"]]
    return names


_OF_ONE_RUN = {"mixture", "seeds", "decay_from", "keep_steps"}
"""What a student's recipe says about one run, and what changes no student."""


def _evaluation(recipe: Mapping[str, Any]) -> str:
    """Return what computes scores, and on which items, in words."""
    if "items" not in recipe:
        return ""
    engine = " ".join(str(value) for value in recipe.get("engine", {}).values())
    backend = f"{recipe.get('backend', 'transformers')} {engine}".strip()
    items = fingerprint(recipe["items"])[:8]
    return f"{backend}, {recipe['shots']} shots, at most {recipe['samples']} items of {items}"


def _complete(lineage: Lineage) -> Iterator[Artifact]:
    """Yield the complete artifacts that a study refers to."""
    for item in items(lineage):
        with contextlib.suppress(ArtifactMissing, StoppedEarly):
            if (artifact := item.artifact()).complete:
                yield artifact


def _course(run: ScoredRun, metric: Metric) -> dict[int, float]:
    """Return a score of a run by step, such that more is better; steps where tasks are missing are left out."""
    name = str(Metric(metric.name, metric.bits))
    return {step: metric.sign * scores[name] for step, scores in run.curve.items() if name in scores}
