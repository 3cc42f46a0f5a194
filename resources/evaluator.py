"""The evaluator as a resource: how checkpoints are evaluated on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.verification import check_artifact
from finephrase_dagster.evaluate.metric import BITS
from finephrase_dagster.orchestration.devices import leased_here
from finephrase_dagster.orchestration.progress import Progress, report


class Evaluator(dg.ConfigurableResource):
    """How this machine evaluates: the batch size of transformers."""

    batch_size: int = Field(
        default=16, ge=1, description="sequences per forward pass, at least 1; does not change the scores"
    )

    def evaluate(self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None]) -> Contents:
        """Evaluate a student run: its last model, and each model that was kept during training."""
        from finephrase_dagster.evaluate.evaluation import SAMPLES

        checkpoint, artifact = lineage.checkpoint(run), lineage.scores(run)
        checkpoint_folder = check_artifact(checkpoint)
        curve = []
        with leased_here(f"the scores of {run}", log=log):
            for model in _kept_models(checkpoint_folder):
                scores = self._scores(lineage, artifact, model, folder, f"{model.parent.name}/{model.name}")
                curve.append({"step": int(model.name), **curve_point(scores)})
            scores = self._scores(lineage, artifact, checkpoint_folder / "model", folder)
        curve.append({"step": checkpoint.manifest()["steps"], **curve_point(scores)})
        facts = {**scores, "curve": curve}
        return Contents(files=sorted(folder.rglob(SAMPLES)), facts=facts)

    def evaluate_early(self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None]) -> Contents:
        """Evaluate a student run at the step of the early stop, where it is compared with others."""
        from finephrase_dagster.evaluate.evaluation import SAMPLES

        with leased_here(f"the early scores of {run}", log=log):
            model = check_artifact(lineage.early(run)) / "model"
            scores = self._scores(lineage, lineage.early_scores(run), model, folder)
        return Contents(files=[folder / SAMPLES], facts=scores)

    def _scores(
        self, lineage: Lineage, artifact: Artifact, model: Path, folder: Path, output: str = "."
    ) -> dict[str, Any]:
        """Score one model into a folder below that of the scores; tasks that were scored before are not again."""
        from finephrase_dagster.evaluate.evaluation import SAMPLES, evaluate_checkpoint
        from finephrase_dagster.evaluate.reuse import known_samples

        scores = evaluate_checkpoint(
            model,
            folder / output,
            evaluation=lineage.evaluation,
            batch_size=self.batch_size,
            backend=lineage.evaluation.backend,
            engine=lineage.evaluation.engine,
            known=known_samples(lineage.labels / artifact.name, plain(artifact.recipe), f"{output}/{SAMPLES}"),
            show=_shown(),
        )
        return asdict(scores)


def _shown() -> Callable[[int, int], None]:
    """Return a function that shows to whoever watches this process how many answers are scored."""
    began = time.monotonic()

    def show(done: int, total: int) -> None:
        elapsed = time.monotonic() - began
        left = elapsed * (total - done) / done
        report(Progress(done=done, total=total, unit="answers", rate=f"{done / elapsed:,.0f}/s", seconds_left=left))

    return show


def curve_point(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of a manifest in short, as its curve lists them."""
    tasks = {task: score["mean"] for task, score in scores["tasks"].items()}
    bits = {BITS: curve_point(scores[BITS])} if BITS in scores else {}
    return {**{name: scores[name] for name in ("macro", "micro", "categories")}, "tasks": tasks, **bits}


def _kept_models(checkpoint: Path) -> list[Path]:
    """Return the models that were kept during training, by step."""
    return sorted((checkpoint / "steps").glob("*"), key=lambda path: int(path.name))
