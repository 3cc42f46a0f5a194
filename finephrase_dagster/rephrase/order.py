"""An order: a generator's work on a corpus, told in full, for a process that has no study at hand.

What a step does itself and what a pod of its own does for it is one and the same order, carried out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.engine import Engine, EngineLike, on_cpu
from finephrase_dagster.rephrase.folder import LocalFolder
from finephrase_dagster.rephrase.pipeline import rephrase
from finephrase_dagster.rephrase.progress import Lines
from finephrase_dagster.rephrase.render import Renderer
from finephrase_dagster.rephrase.sampling import sampling_of
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.rephrase.step import Request
from finephrase_dagster.rephrase.survey import survey
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.prompt import Prompt
from finephrase_dagster.study.spec import Cell

SHARDS = "shard-*.parquet"


class Work(BaseModel):
    """A dataset to be made: where, and by which recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    recipe: Mapping[str, Any]


class Order(BaseModel):
    """What is to be rephrased by which model, and how that is conducted; as JSON it travels.

    Attributes:
        name: of the generator, under which the engine serves it.
        model: its folder.
        corpus: the folder of the source's shards.
        datasets: by prompt.
        log: the file that keeps what the engine says.
        concurrency, chunk_rows, gpu_hour_dollars, log_seconds: as of `resources.rephraser.Rephraser`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    generator: Generator
    model: Path
    corpus: Path
    prompts: Mapping[str, Prompt]
    datasets: Mapping[str, Work]
    log: Path
    concurrency: int
    chunk_rows: int
    gpu_hour_dollars: float | None = None
    log_seconds: float = 30

    @classmethod
    def of(cls, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], **conduct: Any) -> Order:
        """The order of a cell's datasets.

        Raises:
            ArtifactMissing: the model or the corpus is not there.
        """
        corpus, model = lineage.source(cell.source), lineage.generator(cell.generator)
        corpus.manifest()
        return cls(
            name=cell.generator,
            generator=lineage.study.generators[cell.generator],
            model=model.folder / "model",
            corpus=corpus.folder,
            prompts={prompt: lineage.prompts[prompt] for prompt in datasets},
            datasets={
                prompt: Work(folder=artifact.folder, recipe=plain(artifact.recipe))
                for prompt, artifact in datasets.items()
            },
            log=lineage.paths.data / "logs" / f"engine-{cell.generator}.log",
            **conduct,
        )

    @property
    def done(self) -> bool:
        """Whether every dataset is complete already."""
        return all(self._made().values())

    def _made(self) -> dict[str, dict[str, Any] | None]:
        return {prompt: dataset.manifest() for prompt, dataset in self._datasets().items()}

    def _datasets(self) -> dict[str, Dataset]:
        return {
            prompt: Dataset(folder=LocalFolder(work.folder), recipe=work.recipe)
            for prompt, work in self.datasets.items()
        }

    def manifests(self) -> dict[str, dict[str, Any]]:
        """The manifests of the datasets that are complete, by prompt."""
        return {prompt: manifest for prompt, manifest in self._made().items() if manifest is not None}

    def engine(self, **given: Any) -> Engine:
        """An engine for it, not started yet; what is `given` goes to `Engine.of`."""
        return Engine.of(self.generator, model=self.model, name=self.name, log=self.log, **given)

    def carry_out(
        self,
        engines: Callable[[], list[EngineLike]],
        *,
        log: Callable[[str], None],
        watch: Callable[[RunStatistics], None] = lambda statistics: None,
        engines_are_ours: bool = True,
    ) -> dict[str, dict[str, Any]]:
        """The manifests of its datasets by prompt, made where they are not complete.

        Args:
            engines: called if there is something to send.
            log: takes a line now and then.
            watch: takes the run's statistics when it begins; they go on counting.
            engines_are_ours: whether the bill counts the generator's GPUs.
        """
        generator = self.generator
        return rephrase(
            survey=survey([str(shard) for shard in sorted(self.corpus.glob(SHARDS))]),
            datasets=self._datasets(),
            renderer=lambda: Renderer(
                model=self.model, prompts=self.prompts, context=generator.context, max_tokens=generator.max_tokens
            ),
            request=Request.of(self.name, generator.max_tokens, sampling_of(generator, self.model)),
            engines=engines,
            settings=ExecutionSettings(
                concurrency=self.concurrency,
                chunk_rows=self.chunk_rows,
                gpus=None if not engines_are_ours else 0 if on_cpu() else generator.gpus,
                gpu_hour_dollars=self.gpu_hour_dollars,
                watch=watch,
                show=Lines(log, seconds=self.log_seconds),
                log=log,
            ),
            keep_raw=generator.keep_raw,
        )
