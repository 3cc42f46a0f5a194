"""Scoring one checkpoint on the benchmark suite, with lighteval's tasks on transformers or vLLM.

Importing this module is cheap; lighteval, whose import takes seconds, comes with the first call.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.scores import Scores, scores
from finephrase_dagster.study.spec import Evaluation

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

    from finephrase_dagster.evaluate.model import ScoringModel

SAMPLES = "samples.parquet"

Backend = Literal["transformers", "vllm"]


class CheckpointError(FinephraseError):
    """A checkpoint folder is not there or does not hold a model with its tokenizer."""


def evaluate_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    evaluation: Evaluation,
    batch_size: int,
    threads: int = 1,
    backend: Backend = "transformers",
    engine: Mapping[str, Any] | None = None,
) -> Scores:
    """Scores a checkpoint and writes `output/samples.parquet`, one row an item.

    The columns are
    - task, subset (the dataset's, such as a subject of MMLU; empty for own items), item (its id), digest (the
      hash of its row);
    - query (the item's own prompt), examples (ids of those that were put before it), shots (how many),
      prompt_tokens, cut_tokens (tokens of the question that did not fit);
    - golds with gold_log_probabilities (natural, summed over the gold's tokens) and gold_tokens;
    - gold (the best of them) with log_probability, tokens and prob_norm_token.

    Args:
        checkpoint: a Hugging Face folder of a decoder and its fast tokenizer.
        output: an existing folder or one to create.
        evaluation: items, tasks, shots and samples; they determine the result up to rounding.
        batch_size: sequences a forward pass of transformers; changes nothing but time and memory.
        threads: of torch. Students of a few million parameters are fastest on one: more of them mostly
            wait for one another, on a busy machine for longer than the computation takes.
        backend: transformers computes in float32, vLLM in the checkpoint's precision unless told otherwise.
        engine: flags of vLLM.

    Raises:
        CheckpointError: no usable model or tokenizer in the folder.
        ItemsError: a task's items are missing or wrong.
        UnknownTask: a task that the suite does not have.
        AnswerTooLong: a gold answer does not fit the model's context.
        NotAProbability: the model gives NaN.
        EngineUnavailable: vLLM is asked for, and not installed or not able to start.
    """
    _check(checkpoint)
    with _undisturbed_process(threads):
        from finephrase_dagster.evaluate.lighteval_tasks import build_docs

        docs = build_docs(evaluation)  # before anything is loaded: what is missing shows at once
        with _loaded(checkpoint.absolute(), backend, batch_size, engine or {}) as model:
            rows = _measured(model, docs)
    values: dict[str, dict[str, list[float]]] = {task: {} for task in evaluation.tasks}
    for row in rows:
        values[row["task"]].setdefault(row["subset"], []).append(row["prob_norm_token"])
    found = scores(values)
    output.mkdir(parents=True, exist_ok=True)
    _write(rows, output / SAMPLES)
    return found


def _measured(model: ScoringModel, docs: Mapping[str, list[Doc]]) -> list[dict[str, Any]]:
    from finephrase_dagster.evaluate.context import fit
    from finephrase_dagster.evaluate.metric import best_gold, gold_answers

    fitted = [(task, fit(doc, model)) for task, of_task in docs.items() for doc in of_task]
    responses = model.loglikelihood([item.doc for _, item in fitted])
    rows = []
    for (task, item), response in zip(fitted, responses, strict=True):
        golds, gold = gold_answers(item.doc, response), best_gold(item.doc, response)
        about = item.doc.specific or {}
        rows.append(
            {
                "task": task,
                "subset": about["subset"],
                "item": item.doc.id,
                "digest": about["digest"],
                "query": item.doc.query,
                "examples": about["examples"][len(about["examples"]) - item.shots :],
                "shots": item.shots,
                "prompt_tokens": item.prompt_tokens,
                "cut_tokens": item.cut_tokens,
                "golds": [answer.text for answer in golds],
                "gold_log_probabilities": [answer.log_probability for answer in golds],
                "gold_tokens": [answer.tokens for answer in golds],
                "gold": gold.text,
                "log_probability": gold.log_probability,
                "tokens": gold.tokens,
                "prob_norm_token": gold.prob_norm_token,
            }
        )
    return rows


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)


def _check(checkpoint: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        if not (checkpoint / name).is_file():
            raise CheckpointError(f"{checkpoint} holds no {name}: it is not a checkpoint; train the student")
    try:
        entries = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        tokens = _entries(checkpoint / "tokenizer.json")
    except Exception as error:  # what a damaged file raises depends on the library that reads it
        raise _unloadable(checkpoint, error) from error
    if tokens > entries:
        raise CheckpointError(
            f"{checkpoint}: the tokenizer has {tokens} entries, the model only {entries}: they do not belong together; "
            "train the student again"
        )


def _entries(tokenizer: Path) -> int:
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(tokenizer)).get_vocab_size(with_added_tokens=True))


def _unloadable(checkpoint: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{checkpoint} cannot be loaded, train the student again: {error}")


@contextlib.contextmanager
def _loaded(checkpoint: Path, backend: Backend, batch_size: int, engine: Mapping[str, Any]) -> Iterator[ScoringModel]:
    if backend == "vllm":
        from finephrase_dagster.evaluate.engine import engine_model

        with engine_model(checkpoint, flags=engine) as model:
            yield model
        return
    from finephrase_dagster.evaluate.model import TransformersModel

    try:
        loaded = TransformersModel(checkpoint, batch_size=batch_size)
    except Exception as error:  # what a damaged file raises depends on the library that reads it
        raise _unloadable(checkpoint, error) from error
    yield loaded


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
