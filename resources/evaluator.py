"""The evaluator as a resource: how a checkpoint is run through the benchmark suite."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import dagster as dg
from pydantic import Field

from finephrase_dagster.study.artifact import Product
from finephrase_dagster.study.lineage import Lineage


class Evaluator(dg.ConfigurableResource):
    """lighteval on this machine."""

    batch_size: int = Field(default=16, ge=1, description="sequences a forward pass; leaves the scores alone")

    def evaluate(self, lineage: Lineage, run: str, folder: Path) -> Product:
        """Scores one student run into a folder."""
        from finephrase_dagster.evaluate.checkpoint import SAMPLES, evaluate_checkpoint

        scores = evaluate_checkpoint(
            lineage.checkpoint(run).folder / "model",
            folder,
            evaluation=lineage.study.evaluation,
            batch_size=self.batch_size,
        )
        return Product(files=[folder / SAMPLES], facts=asdict(scores))
