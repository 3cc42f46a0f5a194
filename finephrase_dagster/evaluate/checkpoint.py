"""Scoring one checkpoint on the benchmark suite, with lighteval on its own transformers model.

Importing this module is cheap; lighteval, whose import takes seconds, comes with the first call.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finephrase_dagster.evaluate.scores import Scores, scores, task_score
from finephrase_dagster.study.artifact import whole_file
from finephrase_dagster.study.spec import Evaluation

if TYPE_CHECKING:
    from lighteval.models.abstract_model import LightevalModel

SAMPLES = "samples.parquet"


class CheckpointError(ValueError):
    """A checkpoint folder is not there or does not hold a model with its tokenizer."""


def evaluate_checkpoint(
    checkpoint: Path, output: Path, *, evaluation: Evaluation, batch_size: int, threads: int = 1
) -> Scores:
    """Scores a checkpoint and writes `output/samples.parquet`, one row an item.

    The columns are task, item, query (the item's own prompt), gold (the best of its golds),
    log_probability (natural, summed over the gold's tokens), tokens, prob_norm_token, shots (examples
    that fit the context) and cut_tokens (tokens of the question that did not).

    Args:
        checkpoint: a Hugging Face folder of a decoder and its fast tokenizer.
        output: an existing folder or one to create.
        evaluation: items, tasks, shots and samples; this alone determines the result.
        batch_size: sequences a forward pass; changes nothing but time and memory.
        threads: of torch. Students of a few million parameters are fastest on one: more of them mostly
            wait for one another, on a busy machine for longer than the computation takes.

    Raises:
        CheckpointError: no usable model or tokenizer in the folder.
        ItemsError: a task's items are missing or wrong.
        AnswerTooLong: a gold answer does not fit the model's context.
        NotAProbability: the model gives NaN.
    """
    with _undisturbed_process(threads):
        rows = _measured(_loaded(checkpoint, batch_size), evaluation)
    output.mkdir(parents=True, exist_ok=True)
    _write(rows, output / SAMPLES)
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        values[row["task"]].append(row["prob_norm_token"])
    return scores({task: task_score(of_task) for task, of_task in values.items()})


def _measured(model: LightevalModel, evaluation: Evaluation) -> list[dict[str, Any]]:
    from finephrase_dagster.evaluate.context import fit
    from finephrase_dagster.evaluate.metric import best_gold
    from finephrase_dagster.evaluate.tasks import build_docs

    fitted = [(task, fit(doc, model)) for task, docs in build_docs(evaluation).items() for doc in docs]
    responses = model.loglikelihood([item.doc for _, item in fitted])
    rows = []
    for (task, item), response in zip(fitted, responses, strict=True):
        gold = best_gold(item.doc, response)
        rows.append(
            {
                "task": task,
                "item": item.doc.id,
                "query": item.doc.query,
                "gold": gold.text,
                "log_probability": gold.log_probability,
                "tokens": gold.tokens,
                "prob_norm_token": gold.prob_norm_token,
                "shots": item.shots,
                "cut_tokens": item.cut_tokens,
            }
        )
    return rows


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with whole_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)


def _loaded(checkpoint: Path, batch_size: int) -> LightevalModel:
    import torch
    from transformers import AutoModelForCausalLM

    from finephrase_dagster.evaluate.model import checkpoint_model

    for name in ("config.json", "tokenizer.json"):
        if not (checkpoint / name).is_file():
            raise CheckpointError(f"{checkpoint} holds no {name}: it is not a checkpoint; train the student")
    try:
        network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
        model = checkpoint_model(checkpoint.absolute(), network, batch_size=batch_size)
    except Exception as error:  # what a damaged file raises depends on the library that reads it
        raise CheckpointError(f"{checkpoint} cannot be loaded, train the student again: {error}") from error
    if len(model.tokenizer) > network.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint}: the tokenizer has {len(model.tokenizer)} entries, the model only "
            f"{network.config.vocab_size}: they do not belong together"
        )
    return model


@contextlib.contextmanager
def _undisturbed_process(threads: int) -> Iterator[None]:
    """Computes on `threads` threads, and puts back what lighteval changes for the whole process.

    Its import switches gradients off, which would end training in the same process, and sets an
    environment variable; its few-shot sampler seeds Python's generator; it warns at every batch.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    lighteval_logger = logging.getLogger("lighteval")
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(torch.set_grad_enabled, torch.is_grad_enabled())
        afterwards.callback(torch.set_num_threads, torch.get_num_threads())
        afterwards.callback(random.setstate, random.getstate())
        afterwards.callback(_set_variable, "TOKENIZERS_PARALLELISM", os.environ.get("TOKENIZERS_PARALLELISM"))
        afterwards.callback(lighteval_logger.setLevel, lighteval_logger.level)
        afterwards.callback(transformers_logging.set_verbosity, transformers_logging.get_verbosity())
        if transformers_logging.is_progress_bar_enabled():
            afterwards.callback(transformers_logging.enable_progress_bar)
        torch.set_num_threads(threads)
        lighteval_logger.setLevel(logging.ERROR)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        yield


def _set_variable(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
