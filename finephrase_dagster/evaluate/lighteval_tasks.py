"""The benchmarks as a custom-tasks module of lighteval's own command; see docs/evaluation.md for the command.

The tasks are called `finephrase:<benchmark>`, with `:<subset>` where there are several; `finephrase` names them all.
Items, examples, prompts and metric are those of `evaluate_checkpoint`, whose scores the command reproduces:
- lighteval's few-shot sampler depends on the order of files and can show an item its own answer, so the documents
  bring their examples along;
- lighteval cuts tokens off the beginning of a prompt that is too long, so examples that do not fit the checkpoint are
  dropped here. The documents are built before the model is loaded: the checkpoint is read from the command line;
- lighteval 0.13's probability metric with token normalization raises IndexError, counts the padding of shorter answers
  as tokens, and considers all choices.

Environment:
    FINEPHRASE_ITEMS: as `evaluation.items` in a study file; default: embedded.
    FINEPHRASE_SAMPLES: as `evaluation.samples`; default: 1000.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.evaluate.evaluation import NotAProbability
from finephrase_dagster.evaluate.questions import Question, build_questions, fit
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.study.student import Evaluation

GROUP = "finephrase"
METRIC = "prob_norm_token"
PADDING = -1  # what lighteval fills the shorter of several answers with


class ProbNormToken(SampleLevelComputation):
    """exp(mean log-probability per token) of the correct answer; of several, the largest."""

    def compute(self, doc: Doc, model_response: ModelResponse, **_: Any) -> float:
        golds = [doc.gold_index] if isinstance(doc.gold_index, int) else doc.gold_index
        values = []
        for index in golds:
            log_probability = float(model_response.logprobs[index])
            if not math.isfinite(log_probability):
                raise NotAProbability(
                    f"a log-probability in task {doc.task_name} is not finite. Train the model again."
                )
            tokens = sum(int(token) != PADDING for token in model_response.output_tokens[index])
            values.append(math.exp(log_probability / tokens))
        return max(values)


def prob_norm_token() -> SampleLevelMetric:
    """Return the metric for a lighteval task."""
    return SampleLevelMetric(
        metric_name=METRIC,
        higher_is_better=True,
        category=SamplingMethod.LOGPROBS,
        sample_level_fn=ProbNormToken(),
        corpus_level_fn=np.mean,
    )


class QuestionDoc(Doc):
    """A document with its own few-shot examples: of those that lighteval assigns, only their number is used."""

    own_examples: Sequence[Doc] | None = None
    shots = 0

    @property
    def fewshot_samples(self) -> list[Doc]:
        return self._examples

    @fewshot_samples.setter
    def fewshot_samples(self, assigned: list[Doc]) -> None:
        if self.own_examples is None or not assigned:
            self._examples = assigned
        elif len(assigned) != self.shots:
            raise ValueError(
                f"{self.task_name} asks for {len(assigned)} examples, another task of this command for {self.shots}. "
                "Use one command per number of examples."
            )
        else:
            self._examples = list(self.own_examples)


def document(row: dict[str, Any], task: str) -> Doc:
    """Return a prepared question as lighteval's document; its choices are the correct answers alone."""
    line = json.loads(row["question"])
    golds = line["golds"]
    doc = QuestionDoc(
        task_name=task,
        query=line["prompt"],
        choices=[f" {gold}" for gold in golds],
        gold_index=list(range(len(golds))),
        specific={"item": line["item"], "digest": line["digest"]},
    )
    doc.own_examples = [
        Doc(task_name=task, query=example["prompt"], choices=[f" {example['answer']}"], gold_index=0)
        for example in line["examples"]
    ]
    doc.shots = line["shots"]
    return doc


def task_configs(evaluation: Evaluation, checkpoint: Path | None) -> list[LightevalTaskConfig]:
    """Write the questions of an evaluation where lighteval reads them, and return its tasks.

    Args:
        checkpoint: the checkpoint whose context the examples must fit; None: all examples are kept.

    Raises:
        ItemsError: items are missing or wrong, or there are fewer examples than shots.
        UnknownTask: there is no benchmark of this name.
    """
    questions = build_questions(evaluation)
    fitted = questions if checkpoint is None else _fitted(questions, checkpoint)
    pairs = zip(questions, fitted, strict=True)
    return [
        _task_config(task, subset, list(of_subset), evaluation.shots)
        for (task, subset), of_subset in groupby(pairs, key=lambda pair: (pair[0].task, pair[0].subset))
    ]


def _fitted(questions: Sequence[Question], checkpoint: Path) -> list[Question]:
    from transformers import AutoConfig

    from finephrase_dagster.evaluate.scorer import load_tokenizer

    tokenizer = load_tokenizer(checkpoint)
    context = AutoConfig.from_pretrained(checkpoint, local_files_only=True).max_position_embeddings
    return [
        fit(question, lambda text: tokenizer.encode(text, add_special_tokens=False), context).question
        for question in questions
    ]


def _task_config(
    task: str, subset: str, questions: Sequence[tuple[Question, Question]], shots: int
) -> LightevalTaskConfig:
    several = len(benchmarks()[task].subsets) > 1 and subset
    lines = [
        {
            "item": question.item,
            "digest": question.digest,
            "prompt": question.prompt,
            "golds": question.golds,
            "shots": len(question.examples),
            "examples": [{"prompt": example.prompt, "answer": example.answer} for example in fitted.examples],
        }
        for question, fitted in questions
    ]
    # lighteval's sampler must find as many examples as it is asked for, whichever they are.
    examples = [{**lines[0], "item": str(number)} for number in range(max(shots, 1))]
    folder = _prepared({"test": lines, "train": examples})
    return LightevalTaskConfig(
        name=":".join([GROUP, task, *([subset] if several else [])]),
        prompt_function=document,
        hf_repo=str(folder),
        hf_subset="default",
        hf_avail_splits=["train", "test"],
        evaluation_splits=["test"],
        few_shots_split="train",
        few_shots_select="sequential",
        num_fewshots=shots,
        metrics=[prob_norm_token()],
        stop_sequence=["\n"],
    )


def _prepared(splits: dict[str, list[dict[str, Any]]]) -> Path:
    """Write the splits of a dataset next to the cache of `datasets`, in a folder named by their content."""
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / GROUP / fingerprint(splits)[:SHORT]
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in splits.items():
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            with atomic_write(path) as temporary:
                # As strings: `datasets` would guess other types where a split has, say, no examples.
                text = "".join(json.dumps({"question": json.dumps(line)}) + "\n" for line in lines)
                temporary.write_text(text, encoding="utf-8")
    return folder


def _requested(arguments: Sequence[str]) -> tuple[Evaluation, Path | None]:
    """Return the evaluation and the checkpoint that lighteval's command line names."""
    specifications = [part for argument in arguments for part in argument.split(",") if part.startswith(GROUP)]
    names = {part.split("|")[0] for part in specifications}
    tasks = [task for task in benchmarks() if any(f"{GROUP}:{task}:".startswith(f"{name}:") for name in names)]
    tasks += [task for task in benchmarks() if any(name.startswith(f"{GROUP}:{task}:") for name in names)]
    shots = {int(part.rpartition("|")[2]) for part in specifications if "|" in part}
    models = [match[1] for argument in arguments if (match := re.search(r"\bmodel_name=([^,]+)", argument))]
    checkpoint = Path(models[0]) if models and Path(models[0]).is_dir() else None
    evaluation = Evaluation.model_construct(
        items=os.environ.get("FINEPHRASE_ITEMS") or "embedded",
        tasks=tuple(dict.fromkeys(tasks or benchmarks())),
        shots=max(shots, default=3),
        samples=int(os.environ.get("FINEPHRASE_SAMPLES") or 1000),
    )
    return evaluation, checkpoint


@cache
def _tasks_table() -> list[LightevalTaskConfig]:
    return task_configs(*_requested(sys.argv[1:]))


def __getattr__(name: str) -> Any:
    """Return `TASKS_TABLE`, where lighteval looks for tasks; it is built when lighteval asks for it."""
    if name == "TASKS_TABLE":
        return _tasks_table()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
