"""`rephrase`: documents through any set of prompts of one generator, one exact dataset a prompt.

A DataTrove pipeline (reader, inference step) under DataTrove's local executor. What is finished is said by
the datasets' files alone; DataTrove's own markers are not used. What a recipe holds is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

from finephrase_dagster.rephrase.dataset import Dataset, LedgerError
from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.reader import InputReader
from finephrase_dagster.rephrase.render import RendererLike
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.step import RephraseStep, Request
from finephrase_dagster.rephrase.survey import Survey


class LocalExecutor(LocalPipelineExecutor):
    """DataTrove's local executor, in this process.

    One task reads all files, so that the window slides from one to the next. The original forks a manager
    process; that would inherit the datasets' locks and the engine's pipe, and outlive a driver that is killed.
    """

    def __init__(self, pipeline: list[PipelineStep]) -> None:
        logs = "memory://datatrove"  # nothing to be left behind by a killed driver
        super().__init__(pipeline=pipeline, tasks=1, workers=1, logging_dir=logs, skip_completed=False)

    def run(self) -> PipelineStats:
        logger.disable("datatrove")
        try:
            return self._run_for_rank(0)
        finally:
            logger.enable("datatrove")


def rephrase(
    *,
    survey: Survey,
    datasets: Mapping[str, Dataset],
    renderer: Callable[[], RendererLike],
    request: Request,
    engines: Callable[[], Sequence[EngineLike]],
    settings: ExecutionSettings,
    keep_raw: bool = False,
) -> dict[str, dict[str, Any]]:
    """Makes the datasets that are not complete yet, all prompts of a document together.

    The arguments are those of `RephraseStep`, and so are the errors.

    Returns:
        The manifest of each dataset, by prompt name.
    """
    manifests = [dataset.manifest() for dataset in datasets.values()]  # which refuses another recipe's
    if not all(manifests):
        step = RephraseStep(
            datasets=datasets,
            renderer=renderer,
            request=request,
            engines=engines,
            settings=settings,
            survey=survey,
            keep_raw=keep_raw,
        )
        LocalExecutor([InputReader(survey.files, survey.limit), step]).run()
    return {name: _complete(dataset) for name, dataset in datasets.items()}


def _complete(dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest()
    if manifest is None:
        raise LedgerError(f"{dataset.folder}: its manifest was taken away; run again")
    return manifest
