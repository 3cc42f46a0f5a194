"""DataTrove's local executor, in this process."""

from __future__ import annotations

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats


class InProcessExecutor(LocalPipelineExecutor):
    """Runs a pipeline as one task, which reads all files one after the other.

    The original forks a manager process, which would inherit the datasets' locks and the engine's pipe, and outlive
    a driver that is killed. DataTrove's completion markers are not used: the datasets' own files record what is done.
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
