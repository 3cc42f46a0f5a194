"""`rephrase`: a corpus through any set of prompts of one generator, one exact dataset a prompt.

A DataTrove pipeline (reader, inference step) under DataTrove's local executor, one task a shard. What is
finished is said by the datasets' files alone; DataTrove's own markers are not used. The recipe that an
artifact stands for is the caller's.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.ledger import Ledger
from finephrase_dagster.rephrase.reader import CorpusReader, check_ids, shards_of
from finephrase_dagster.rephrase.render import Renderer
from finephrase_dagster.rephrase.sampling import sampling_of
from finephrase_dagster.rephrase.step import Figures, RephraseStep
from finephrase_dagster.study.artifact import Artifact
from finephrase_dagster.study.prompt import Prompt
from finephrase_dagster.study.spec import Generator


class NothingCompleted(RuntimeError):
    """Every request of a dataset failed; the message holds the most common reason."""


class LocalExecutor(LocalPipelineExecutor):
    """DataTrove's local executor, one task after the other in this process.

    The original forks a manager process to hand out ranks. That process would inherit the datasets'
    locks and the engine's pipe, and outlive a driver that is killed, so that no later run got the locks.
    """

    def __init__(self, pipeline: list[PipelineStep], *, tasks: int, logs: Path) -> None:
        super().__init__(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=str(logs), skip_completed=False)

    def run(self) -> PipelineStats:
        """Runs all tasks; the statistics are those of all of them."""
        logger.disable("datatrove")
        try:
            stats = PipelineStats()
            for rank in range(self.tasks):
                stats = self._run_for_rank(rank)
            return stats
        finally:
            logger.enable("datatrove")


def rephrase(
    *,
    corpus: Path,
    datasets: Mapping[str, Artifact],
    prompts: Mapping[str, Prompt],
    generator: Generator,
    model: Path,
    engine: Callable[[], EngineLike],
    concurrency: int,
    chunk_rows: int,
    log: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Makes the datasets that are not complete yet, all prompts of a document together.

    Args:
        corpus: a folder of `shard-*.parquet` with the columns id, text and sha256.
        datasets: by prompt name, what is to be made; complete ones are left alone.
        prompts: by name, those of the datasets at least.
        generator: limits and sampling; the model's own generation_config fills in what it leaves out.
        model: the generator's folder, for its tokenizer, chat template and generation_config.
        engine: gives the engine; called once, and only if there is something to send.
        concurrency: requests in flight at most.
        chunk_rows: input rows that become one file.
        log: takes lines about progress.

    Returns:
        The manifest of each dataset, by prompt name.

    Raises:
        ArtifactBusy: another process is making one of them.
        DuplicateId, CorpusUnreadable: the corpus cannot be accounted for.
        EngineFailed: the engine cannot answer; what is finished is kept and the next run goes on there.
        LedgerError: files cannot be written, or are not of this corpus.
        NothingCompleted: all requests of a dataset failed.
    """
    if concurrency < 1 or chunk_rows < 1:
        raise ValueError(f"concurrency {concurrency} and chunk_rows {chunk_rows} must be at least 1")
    with contextlib.ExitStack() as claims:
        folders: dict[str, Path] = {}
        for name, dataset in datasets.items():
            if not dataset.complete:
                folder = claims.enter_context(dataset.claim())
                if not dataset.complete:  # it may have become so while its claim was held elsewhere
                    folders[name] = folder
        if folders:
            shards = shards_of(corpus)
            check_ids(shards)
            step = RephraseStep(
                shards=shards,
                ledgers={name: Ledger(folder, name) for name, folder in folders.items()},
                renderer=Renderer(
                    model=model,
                    prompts={name: prompts[name] for name in folders},
                    context=generator.context,
                    max_tokens=generator.max_tokens,
                ),
                sampling=sampling_of(generator, model),
                max_tokens=generator.max_tokens,
                engine=engine,
                concurrency=concurrency,
                chunk_rows=chunk_rows,
                log=log,
            )
            with tempfile.TemporaryDirectory(prefix="finephrase-datatrove-") as logs:
                LocalExecutor([CorpusReader(corpus), step], tasks=len(shards), logs=Path(logs)).run()
            rows = sum(pq.read_metadata(shard).num_rows for shard in shards)
            _publish({name: datasets[name] for name in folders}, step.ledgers, rows, step.figures, log)
    return {name: dataset.manifest() for name, dataset in datasets.items()}


def _publish(
    datasets: Mapping[str, Artifact],
    ledgers: Mapping[str, Ledger],
    rows: int,
    figures: Figures,
    log: Callable[[str], None],
) -> None:
    """Accounts for every row and writes the manifests, of all datasets that have anything."""
    run = {
        "prompts": list(datasets),
        "wall_seconds": round(figures.seconds, 3),
        "completion_tokens": figures.completion_tokens,
        "tokens_per_second": round(figures.tokens_per_second, 1),
    }
    nothing = []
    for name, dataset in datasets.items():
        ledger = ledgers[name]
        account = ledger.account(rows)
        reasons = {f"{status}: {why}": count for (status, why), count in account.rejected.most_common(20)}
        if account.failed and not account.completed:
            nothing.append(f"{name}: {account.failed} of {rows} rows {next(iter(reasons))}")
            ledger.discard()
            continue
        rejected = ledger.reject_file()
        dataset.publish([*ledger.parts(), rejected], {**account.facts(), "reasons": reasons, "run": run})
        ledger.tidy()
        log(
            f"{name}: {account.completed} completed, {account.skipped} skipped, {account.failed} failed; "
            f"{account.completion_tokens:,} output tokens"
        )
    if nothing:
        raise NothingCompleted("; ".join(nothing) + ". Nothing is kept of it: correct the cause and run again")
