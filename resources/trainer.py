"""The trainer as a resource: which one trains the students, and how this machine does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.study.artifact import Product
from finephrase_dagster.study.lineage import Lineage
from finephrase_dagster.train.order import ORDER
from finephrase_dagster.train.training import Execution


class Trainer(dg.ConfigurableResource):
    """transformers' Trainer on this machine."""

    checkpoint_steps: int | None = Field(
        default=None, description="steps between checkpoints that a killed run continues from; None for none"
    )
    micro_batch: int | None = Field(
        default=None, ge=1, description="sequences on the device at once; None for the whole batch"
    )
    bf16: bool | None = Field(default=None, description="compute products in bfloat16; None: where there is a GPU")
    compile: bool = Field(default=False, description="compile the model first")
    attention: str | None = Field(
        default=None,
        description="transformers' attention kernel, such as flash_attention_2; None for PyTorch's fused one",
    )

    def train(self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None]) -> Product:
        """Trains one student run into a folder, from its plateau where one was trained."""
        from finephrase_dagster.train.trainer import train_student

        base = lineage.study.student_runs[run].base
        begun = base.name if base else run
        plateau = lineage.plateau(begun).folder if begun in lineage.study.plateaus else None
        facts = train_student(folder, **self._course(lineage, run, log), plateau=plateau, other_data=base is not None)
        files = [folder / "losses.parquet", folder / ORDER, *(folder / "model").iterdir()]
        return Product(files=files, facts=asdict(facts))

    def train_plateau(self, lineage: Lineage, run: str, folder: Path, *, log: Callable[[str], None]) -> Product:
        """Trains one student run until its learning rate would decay."""
        from finephrase_dagster.train.trainer import STATE, train_plateau

        facts = train_plateau(folder, **self._course(lineage, run, log))
        return Product(files=(folder / STATE).iterdir(), facts=asdict(facts))

    def _course(self, lineage: Lineage, run: str, log: Callable[[str], None]) -> dict[str, Any]:
        """The arguments that both have."""
        student_run = lineage.study.student_runs[run]
        components = lineage.study.mixtures[student_run.mixture].components
        return {
            "student": lineage.study.students[student_run.student],
            "sequence": lineage.sequence,
            "seeds": student_run.seeds,
            "mixture": lineage.mixture(student_run.mixture).folder,
            "components": {component: lineage.tokens(component).folder for component in components},
            "tokenizer": lineage.tokenizer().folder,
            "log": log,
            "execution": Execution(
                checkpoint_steps=self.checkpoint_steps,
                micro_batch=self.micro_batch,
                bf16=self.bf16,
                compile=self.compile,
                attention=self.attention,
            ),
        }
