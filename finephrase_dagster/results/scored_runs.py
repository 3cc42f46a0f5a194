"""Scored runs: students with their scores by step, in one shape for one's own studies and for published ones."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finephrase_dagster.artifacts.key import MIXTURE, SCORES
from finephrase_dagster.evaluate.metric import LAST, Curve, Metric, final_scores, point_scores

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """One student run with its scores.

    Attributes:
        fingerprint: of the artifact or the file that the scores are read from.
        seed: the label of its random seed; None if it is unknown.
        decay_from: the mixture whose run it continues before the decay; None for a run from scratch.
        external: whether the run belongs to an imported study.
        complete: whether it was scored at its last step.
        parameters: size of the student; None if it is unknown.
        training: hash of all that determines a student apart from its mixture and seeds; None if it is unknown.
        tokens: training tokens at its last step; None if they are unknown.
        mix_in: the share of each original text in the mixture; None if it is unknown.
        original: whether the mixture holds nothing but original text; None if it is unknown.
        epochs: how often the student saw the component that was repeated most; None if it is unknown.
        despite_audits: why the mixture uses datasets that failed their audit; None if it uses none.
        replicate_of: the mixture that its mixture repeats with other seeds, as the other arm of an A/A pair.
        control_of: the mixture whose text its mixture has with shuffled words, as a negative control.
        evaluation: what computed the scores, and on which items.
        samples: the Parquet file with the score of each item; None if there is none.
        held_out: tasks that are evaluated and count for none of its means.
        unscored: tasks that count for means elsewhere and that its study does not evaluate, so that its means are
            partial.
        macro_interval: of the macro score at the last step, over items; None if it is unknown.
    """

    study: str
    run: str
    fingerprint: str
    mixture: str
    student: str
    seed: str | None
    decay_from: str | None
    external: bool
    complete: bool
    parameters: int | None
    tokens: int | None
    mix_in: Mapping[str, float] | None
    original: bool | None
    epochs: float | None
    evaluation: str
    samples: Path | None
    curve: Curve
    macro_interval: tuple[float, float] | None = None
    despite_audits: str | None = None
    replicate_of: str | None = None
    control_of: str | None = None
    training: str | None = None

    @property
    def origin(self) -> str | None:
        """The mixture that its mixture checks the study with, as an A/A pair or a control; None for a candidate."""
        return self.replicate_of or self.control_of

    held_out: tuple[str, ...] = ()
    unscored: tuple[str, ...] = ()

    @property
    def uncounted(self) -> tuple[str, ...]:
        """The tasks that count for none of its means."""
        return (*self.held_out, *self.unscored)

    @property
    def step(self) -> int:
        """The last step at which it was scored."""
        return max(self.curve)

    @cached_property
    def scores(self) -> Mapping[str, float]:
        """The scores at the last step and the means over the last five steps, by the text of their `Metric`."""
        return final_scores(self.curve)

    def sample_files(self, metric: Metric) -> list[Path]:
        """Return the Parquet files with the items that a score is computed from."""
        if self.samples is None:
            return []
        before = sorted(self.curve)[-LAST:-1] if metric.averaged else []
        return [*(self.samples.parent / "steps" / str(step) / self.samples.name for step in before), self.samples]


def read_runs(connection: duckdb.DuckDBPyConnection, studies: Collection[str] | None = None) -> list[ScoredRun]:
    """Return the scored runs of some studies, or of all, by study and in the order of their names."""
    rows = connection.execute(
        "SELECT study, external, fingerprint, asset, part, names, manifest FROM facts WHERE asset IN (?, ?) "
        "AND (? IS NULL OR list_contains(?, study)) ORDER BY study, part",
        [SCORES.asset, MIXTURE.asset, *[None if studies is None else list(studies)] * 2],
    ).fetchall()
    mixtures: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    scored = []
    for study, external, fingerprint, asset, part, names, manifest in rows:
        if asset == MIXTURE.asset:
            mixtures[study, part] = _mixture(json.loads(manifest), json.loads(names))
        else:
            scored.append((study, external, fingerprint, part, json.loads(names), json.loads(manifest)))
    return [
        ScoredRun(
            study=study,
            run=run,
            fingerprint=fingerprint,
            external=external,
            mixture=names["mixture"],
            student=names["student"],
            seed=names["seed"],
            decay_from=names["decay_from"],
            complete=names.get("complete", True),
            parameters=names["parameters"],
            training=names.get("training"),
            evaluation=names["evaluation"],
            samples=Path(names["samples"]) if names["samples"] else None,
            curve={point["step"]: point_scores(point) for point in names.get("curve", manifest["curve"])},
            held_out=tuple(names.get("held_out", ())),
            unscored=tuple(names.get("unscored", ())),
            macro_interval=_interval(manifest, names),
            **{**_UNKNOWN_MIXTURE, **mixtures[study, names["mixture"]], **_given(names, "tokens", "epochs")},
        )
        for study, external, fingerprint, run, names, manifest in scored
    ]


ORIGINS = ("replicate_of", "control_of")
_UNKNOWN_MIXTURE = dict.fromkeys(("tokens", "mix_in", "original", "epochs", "despite_audits", *ORIGINS))


def _given(names: Mapping[str, Any], *fields: str) -> dict[str, Any]:
    return {field: names[field] for field in fields if names.get(field) is not None}


def _interval(manifest: Mapping[str, Any], names: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the interval of the macro score over items; it is unknown without held-out tasks."""
    ends = None if names.get("held_out") else manifest.get("macro_interval")
    return (ends[0], ends[1]) if ends else None


def _mixture(manifest: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a mixture's manifest says about comparability, with the study's names for its components."""
    described = names["components"]
    shares: dict[str, float] = {}
    for part in manifest["components"]:
        component = described[part["version"]]
        if component["original"]:
            shares[component["name"]] = round(part["weight"], 6)
    epochs = [part["epochs"] for part in manifest["components"]]
    return {
        "tokens": manifest["tokens"],
        "mix_in": dict(sorted(shares.items())),
        "original": all(described[part["version"]]["original"] for part in manifest["components"]),
        "epochs": None if None in epochs else max(epochs),
        "despite_audits": (manifest.get("despite_audits") or {}).get("reason"),
        **{name: names.get(name) for name in ORIGINS},
    }
