"""The trainer as a resource: which one trains the students, and how often it saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import dagster as dg
from pydantic import Field

from finephrase_dagster.study.artifact import Product
from finephrase_dagster.study.lineage import Lineage


class Trainer(dg.ConfigurableResource):
    """transformers' Trainer on this machine."""

    checkpoint_steps: int | None = Field(
        default=None, description="steps between checkpoints that a killed run continues from; None for none"
    )

    def train(self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None]) -> Product:
        """Trains one student run into a folder."""
        from finephrase_dagster.train.trainer import train_student

        student_run = lineage.study.student_runs[run]
        components = lineage.study.mixtures[student_run.mixture].components
        facts = train_student(
            folder,
            student=lineage.study.students[student_run.student],
            sequence=lineage.study.sequence,
            seeds=student_run.seeds,
            mixture=lineage.mixture(student_run.mixture).folder,
            components={component: lineage.tokens(component).folder for component in components},
            tokenizer=lineage.tokenizer().folder,
            log=log,
            checkpoint_steps=self.checkpoint_steps,
        )
        files = [folder / "losses.parquet", *(folder / "model").iterdir()]
        return Product(files=files, facts=asdict(facts))
