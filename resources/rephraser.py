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
    from finephrase_dagster.rephrase.engine import Engine, EngineLike

SHARDS = "shard-*.parquet"

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

    concurrency: int = Field(default=128, ge=1, description="requests in flight, 1 or more")
    chunk_rows: int = Field(default=5000, ge=1, description="rows a data file, 1 or more")
    endpoints: list[str] = Field(
        default=[], description="servers of the generator under its name in the study; none: an engine is started here"
    )
    gpu_hour_dollars: float | None = Field(
        default=None, ge=0, description="the price of a GPU for an hour, 0 or more; for the bill alone"
    )
    log_seconds: float = Field(default=30, gt=0, description="between two lines on how far a run is, above 0")

    def rephrase(
        self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], *, log: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """The manifests of a cell's datasets by prompt, made where they are not complete."""
        from finephrase_dagster.rephrase.dataset import Dataset
        from finephrase_dagster.rephrase.engine import on_cpu
        from finephrase_dagster.rephrase.folder import LocalFolder
        from finephrase_dagster.rephrase.pipeline import rephrase
        from finephrase_dagster.rephrase.progress import Lines
        from finephrase_dagster.rephrase.render import Renderer
        from finephrase_dagster.rephrase.sampling import sampling_of
        from finephrase_dagster.rephrase.step import Conduct, Request
        from finephrase_dagster.rephrase.survey import survey

        generator = lineage.study.generators[cell.generator]
        model = lineage.generator(cell.generator).folder / "model"
        sampling = sampling_of(generator, model)
        prompts = {prompt: lineage.prompts[prompt] for prompt in datasets}
        try:
            return rephrase(
                survey=survey([str(shard) for shard in sorted(lineage.source(cell.source).folder.glob(SHARDS))]),
                datasets={
                    prompt: Dataset(folder=LocalFolder(artifact.folder), recipe=artifact.recipe)
                    for prompt, artifact in datasets.items()
                },
                renderer=lambda: Renderer(
                    model=model, prompts=prompts, context=generator.context, max_tokens=generator.max_tokens
                ),
                request=Request.of(cell.generator, generator.max_tokens, sampling),
                engines=lambda: self._remotes(cell) or [self._engine(lineage, cell, model, log)],
                conduct=Conduct(
                    concurrency=self.concurrency,
                    chunk_rows=self.chunk_rows,
                    gpus=None if self.endpoints else 0 if on_cpu() else generator.gpus,
                    gpu_hour_dollars=self.gpu_hour_dollars,
                    show=Lines(log, seconds=self.log_seconds),
                    log=log,
                ),
                keep_raw=generator.keep_raw,
            )
        finally:
            _stop_engines()

    def _remotes(self, cell: Cell) -> list[EngineLike]:
        from finephrase_dagster.rephrase.engine import Remote

        return [Remote(url=url, model=cell.generator) for url in self.endpoints]

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
