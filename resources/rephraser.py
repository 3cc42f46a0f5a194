"""The rephraser as a resource: it keeps engines, and sends a cell's documents through one.

An engine takes tens of seconds to start, so a process that runs several cells of one generator keeps it:
`engines_kept` holds engines open over several runs; without it an engine stops with its run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.study.artifact import Artifact
from finephrase_dagster.study.fingerprint import fingerprint
from finephrase_dagster.study.lineage import Lineage
from finephrase_dagster.study.spec import Cell

if TYPE_CHECKING:
    from finephrase_dagster.rephrase.engine import Engine

_engines: dict[str, Engine] = {}
_keepers = 0


@contextlib.contextmanager
def engines_kept() -> Iterator[None]:
    """Within this block engines outlive their runs; at its end they stop."""
    global _keepers
    _keepers += 1
    try:
        yield
    finally:
        _keepers -= 1
        _stop_engines()


def _stop_engines() -> None:
    if _keepers == 0:
        while _engines:
            _engines.popitem()[1].stop()


class Rephraser(dg.ConfigurableResource):
    """vLLM on this machine, driven by the rephrasing pipeline."""

    concurrency: int = Field(default=128, ge=1, description="requests in flight")
    chunk_rows: int = Field(default=64, ge=1, description="documents between two points of no return")

    def rephrase(
        self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], *, log: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """The manifests of a cell's datasets by prompt, made where they are not complete."""
        from finephrase_dagster.rephrase.pipeline import rephrase

        model = lineage.generator(cell.generator).folder / "model"
        try:
            return rephrase(
                corpus=lineage.source(cell.source).folder,
                datasets=datasets,
                prompts={prompt: lineage.prompts[prompt] for prompt in datasets},
                generator=lineage.study.generators[cell.generator],
                model=model,
                engine=lambda: self._engine(lineage, cell, model, log),
                concurrency=self.concurrency,
                chunk_rows=self.chunk_rows,
                log=log,
            )
        finally:
            _stop_engines()

    @staticmethod
    def _engine(lineage: Lineage, cell: Cell, model: Path, log: Callable[[str], None]) -> Engine:
        from finephrase_dagster.rephrase.engine import Engine

        generator = lineage.study.generators[cell.generator]
        key = fingerprint([str(model), generator.context, generator.engine])
        engine = _engines.get(key)
        if engine is None or not engine.running:
            log(f"starting an engine for {cell.generator}")
            engine = Engine.of(
                generator,
                model=model,
                name=cell.generator,
                log=lineage.places.data / "logs" / f"engine-{cell.generator}.log",
            )
            _engines[key] = engine.start()
        return engine
