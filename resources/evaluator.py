"""The evaluator as a resource: how a checkpoint is run through the benchmark suite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.devices import leased_here


class Evaluator(dg.ConfigurableResource):
    """The suite on this machine."""

    batch_size: int = Field(
        default=16, ge=1, description="sequences a forward pass, 1 or more; leaves the scores alone"
    )
    engine: dict[str, Any] = Field(default_factory=dict, description="flags of vLLM, such as gpu_memory_utilization")

    def evaluate(self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None]) -> Contents:
        """Scores one student run into a folder: at its end, and at the steps at which its model was kept."""
        from finephrase_dagster.evaluate.evaluation import SAMPLES

        checkpoint = lineage.checkpoint(run)
        curve = []
        with leased_here(f"the scores of {run}", log=log):
            for kept in _kept(checkpoint.folder):
                at = self._scores(lineage, kept, folder / kept.parent.name / kept.name)
                curve.append({"step": int(kept.name), **{name: at[name] for name in ("macro", "micro", "categories")}})
            found = self._scores(lineage, checkpoint.folder / "model", folder)
        last = {name: found[name] for name in ("macro", "micro", "categories")}
        facts = {**found, "curve": [*curve, {"step": checkpoint.manifest()["steps"], **last}]}
        return Contents(files=sorted(folder.rglob(SAMPLES)), facts=facts)

    def evaluate_early(self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None]) -> Contents:
        """Scores one student run into a folder where it is compared with others."""
        from finephrase_dagster.evaluate.evaluation import SAMPLES

        with leased_here(f"the early scores of {run}", log=log):
            found = self._scores(lineage, lineage.early(run).folder / "model", folder)
        return Contents(files=[folder / SAMPLES], facts=found)

    def _scores(self, lineage: Lineage, model: Path, output: Path) -> dict[str, Any]:
        from finephrase_dagster.evaluate.evaluation import evaluate_checkpoint

        found = evaluate_checkpoint(
            model,
            output,
            evaluation=lineage.evaluation,
            batch_size=self.batch_size,
            backend=lineage.evaluation.backend,
            engine=self.engine,
        )
        return asdict(found)


def _kept(checkpoint: Path) -> list[Path]:
    """The models that were kept on the way, by their steps."""
    return sorted((checkpoint / "steps").glob("*"), key=lambda path: int(path.name))
