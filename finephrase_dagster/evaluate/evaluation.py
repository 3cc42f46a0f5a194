"""Evaluate one checkpoint on the benchmarks.

Importing this module is cheap; torch and transformers are imported by the first call.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.corpora.quiet import quiet_transformers
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.metric import BITS
from finephrase_dagster.evaluate.questions import EncodedQuestion, Question, build_questions, fit
from finephrase_dagster.evaluate.scores import Scores, scores
from finephrase_dagster.study.student import Evaluation

if TYPE_CHECKING:
    from finephrase_dagster.evaluate.scorer import Scorer, Show

SAMPLES = "samples.parquet"

Backend = Literal["transformers", "vllm"]


class CheckpointError(FinephraseError):
    """A checkpoint's folder is missing or does not hold a model with its tokenizer."""


class NotAProbability(FinephraseError):
    """A model's log-probability is not a number: its weights or its context are broken."""


def evaluate_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    evaluation: Evaluation,
    batch_size: int,
    threads: int = 1,
    backend: Backend = "transformers",
    engine: Mapping[str, Any] | None = None,
    known: Sequence[Mapping[str, Any]] = (),
    show: Show = lambda done, total: None,
) -> Scores:
    """Score a checkpoint and write `output/samples.parquet` with one row per item.

    The columns are
    - task, subset (the dataset's, such as a subject of MMLU; empty for our own items), item (its id), digest (the
      hash of its row);
    - query (the item's own prompt), examples (ids of those that were put before it), shots (how many),
      prompt_tokens, cut_tokens (tokens of the question that did not fit);
    - golds with gold_log_probabilities (natural, summed over the gold's tokens) and gold_tokens;
    - gold (the most probable of them per token) with log_probability, tokens and prob_norm_token;
    - bits_per_byte, the fewest of all golds: -log2 of its probability by its UTF-8 bytes, the space before it included.

    Args:
        checkpoint: a Hugging Face folder of a decoder and its fast tokenizer.
        output: an existing folder or one to create.
        evaluation: items, tasks, shots and samples; they determine the result up to rounding.
        batch_size: sequences per forward pass of transformers; changes nothing but time and memory.
        threads: threads of torch. Students of a few million parameters are fastest on one: more of them mostly wait
            for one another.
        backend: transformers computes in float32, vLLM in the checkpoint's precision unless `engine` sets `dtype`.
        engine: arguments of `vllm.LLM`.
        known: samples of tasks that are not evaluated again; see `reuse.known_samples`.
        show: called after each batch with the number of answers that are scored, and that of all.

    Raises:
        CheckpointError: there is no usable model or tokenizer in the folder.
        ItemsError: a benchmark's items are missing or wrong.
        UnknownTask: there is no benchmark of this name.
        AnswerTooLong: a correct answer does not fit the model's context.
        NotAProbability: the model returns NaN.
        EngineUnavailable: the backend is vLLM, which is not installed or does not start.
    """
    _check(checkpoint)
    tasks = [task for task in evaluation.tasks if task not in {sample["task"] for sample in known}]
    samples = [dict(sample) for sample in known]
    if tasks:
        # Before anything is loaded: missing items show at once.
        questions = build_questions(evaluation.model_copy(update={"tasks": tuple(tasks)}))
        loaded = _loaded(checkpoint.absolute(), backend, batch_size, engine or {})
        with quiet_transformers(), _computing_on(threads), loaded as scorer:
            samples += _score(scorer, questions, show)
    samples.sort(key=lambda sample: evaluation.tasks.index(sample["task"]))
    result = scores(*(_values(evaluation.tasks, samples, column) for column in ("prob_norm_token", BITS)))
    output.mkdir(parents=True, exist_ok=True)
    _write(samples, output / SAMPLES)
    return result


def _values(tasks: Sequence[str], samples: Sequence[Mapping[str, Any]], column: str) -> dict[str, Any]:
    values: dict[str, dict[str, list[float]]] = {task: {} for task in tasks}
    for sample in samples:
        values[sample["task"]].setdefault(sample["subset"], []).append(sample[column])
    return values


def _score(scorer: Scorer, questions: Sequence[Question], show: Show) -> list[dict[str, Any]]:
    from finephrase_dagster.evaluate.scorer import TokenizedAnswer

    encoded = [fit(question, scorer.encode, scorer.context) for question in questions]
    answers = [
        TokenizedAnswer(tokens=[*question.prompt, *gold][-scorer.context :], length=len(gold))
        for question in encoded
        for gold in question.golds
    ]
    log_probabilities = iter(scorer.log_probabilities(answers, show))
    return [_sample(question, [next(log_probabilities) for _ in question.golds]) for question in encoded]


def _sample(encoded: EncodedQuestion, log_probabilities: list[float]) -> dict[str, Any]:
    question, lengths = encoded.question, [len(gold) for gold in encoded.golds]
    if not all(map(math.isfinite, log_probabilities)):
        raise NotAProbability(f"a log-probability in task {question.task} is not finite. Train the model again.")
    values = [math.exp(value / length) for value, length in zip(log_probabilities, lengths, strict=True)]
    best = values.index(max(values))
    return {
        "task": question.task,
        "subset": question.subset,
        "item": question.item,
        "digest": question.digest,
        "query": question.prompt,
        "examples": [example.item for example in question.examples],
        "shots": len(question.examples),
        "prompt_tokens": len(encoded.prompt) - encoded.cut_tokens,
        "cut_tokens": encoded.cut_tokens,
        "golds": list(question.golds),
        "gold_log_probabilities": log_probabilities,
        "gold_tokens": lengths,
        "gold": question.golds[best],
        "log_probability": log_probabilities[best],
        "tokens": lengths[best],
        "prob_norm_token": values[best],
        BITS: bits_per_byte(question.golds, log_probabilities),
    }


def bits_per_byte(golds: Sequence[str], log_probabilities: Sequence[float]) -> float:
    """Return how many bits each byte of a correct answer takes, with the space before it; of several the fewest.

    Args:
        log_probabilities: natural, summed over the tokens of each answer.
    """
    pairs = zip(golds, log_probabilities, strict=True)
    return min(-value / math.log(2) / len(f" {gold}".encode()) for gold, value in pairs)


def _write(samples: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist(samples), temporary)


def _check(checkpoint: Path) -> None:
    """Check a checkpoint as far as possible without loading its weights."""
    from tokenizers import Tokenizer

    for name in ("config.json", "tokenizer.json"):
        if not (checkpoint / name).is_file():
            raise CheckpointError(f"{checkpoint} holds no {name}, so it is not a checkpoint. Train the student.")
    try:
        entries = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        tokens = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).get_vocab_size(with_added_tokens=True)
    except Exception as error:  # what a damaged file raises depends on the library that reads it
        raise _unloadable(checkpoint, error) from error
    if tokens > entries:
        raise CheckpointError(
            f"{checkpoint}: the tokenizer has {tokens} entries, the model only {entries}, so they do not belong "
            "together. Train the student again."
        )


def _unloadable(checkpoint: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{checkpoint} cannot be loaded ({error}). Train the student again.")


@contextlib.contextmanager
def _loaded(checkpoint: Path, backend: Backend, batch_size: int, engine: Mapping[str, Any]) -> Iterator[Scorer]:
    if backend == "vllm":
        from finephrase_dagster.evaluate.vllm_scorer import vllm_scorer

        with vllm_scorer(checkpoint, flags=engine) as scorer:
            yield scorer
        return
    from finephrase_dagster.evaluate.scorer import TransformersScorer

    try:
        loaded = TransformersScorer(checkpoint, batch_size=batch_size)
    except Exception as error:  # what a damaged file raises depends on the library that reads it
        raise _unloadable(checkpoint, error) from error
    yield loaded


@contextlib.contextmanager
def _computing_on(threads: int) -> Iterator[None]:
    """Let torch compute on so many threads within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
