"""The questions of an evaluation: each item with its few-shot examples, as text and as tokens that fit a model.

A prompt that is too long loses complete examples, the earliest first, so that no example begins in the middle and no
answer is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.categories import check_tasks
from finephrase_dagster.evaluate.reading import row_source
from finephrase_dagster.evaluate.selection import BenchmarkItem, Selection, select
from finephrase_dagster.study.student import Evaluation

SEPARATOR = "\n\n"
"""Separates the examples from one another and from the question, as in lighteval."""

Encode = Callable[[str], Sequence[int]]
"""Turns a text into tokens, without special tokens."""


class AnswerTooLong(FinephraseError):
    """A correct answer alone fills the model's context, so it has no probability given the question."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A solved question that is put before the question of an item."""

    item: str
    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Question:
    """An item as it is asked.

    Attributes:
        subset: the benchmark's subset; "" where there are none.
        item: the item's id.
        digest: the hash of the item's row.
        prompt: the text of the question alone.
    """

    task: str
    subset: str
    item: str
    digest: str
    prompt: str
    golds: tuple[str, ...]
    examples: tuple[Example, ...]

    @property
    def full_prompt(self) -> str:
        """The examples and the question, to be continued with a space and an answer."""
        solved = (f"{example.prompt} {example.answer}" for example in self.examples)
        return SEPARATOR.join([*solved, self.prompt])


@dataclass(frozen=True, kw_only=True)
class EncodedQuestion:
    """A question as tokens that fit a model's context.

    Attributes:
        question: the question with the examples that fit.
        prompt: the tokens of the complete prompt, before it is cut.
        cut_tokens: how many tokens the question loses at its beginning, where it does not fit without any example.
    """

    question: Question
    prompt: Sequence[int]
    golds: tuple[Sequence[int], ...]
    cut_tokens: int


def build_questions(evaluation: Evaluation) -> list[Question]:
    """Return the questions of an evaluation, task by task and subset by subset.

    Raises:
        ItemsError: items are missing or wrong, or there are fewer examples than shots.
        UnknownTask: there is no benchmark of this name.
    """
    check_tasks(evaluation.tasks)
    questions = []
    for task in evaluation.tasks:
        source = row_source(task, evaluation.items)
        selection = select(source, samples=evaluation.samples, shots=evaluation.shots)
        items = sorted(selection.items, key=lambda item: source.subsets.index(item.subset))
        questions += [_question(task, item, selection) for item in items]
    return questions


def _question(task: str, item: BenchmarkItem, selection: Selection) -> Question:
    examples = (example.row for example in selection.examples_of(item))
    return Question(
        task=task,
        subset=item.subset,
        item=item.row.key(),
        digest=item.digest,
        prompt=item.row.prompt(),
        golds=item.row.golds(),
        examples=tuple(Example(item=row.key(), prompt=row.prompt(), answer=row.golds()[0]) for row in examples),
    )


def fit(question: Question, encode: Encode, context: int) -> EncodedQuestion:
    """Encode a question, without the earliest examples that the model's context has no room for.

    Args:
        question: the question with all its examples.
        context: the number of tokens of prompt and answer together at most.

    Raises:
        AnswerTooLong: a correct answer leaves no room for even one token of the question.
    """
    golds = tuple(encode(f" {gold}") for gold in question.golds)
    longest = max(map(len, golds))
    if longest >= context:
        raise AnswerTooLong(
            f"task {question.task}, item {question.item}: an answer of {longest} tokens does not fit a context of "
            f"{context}. Remove the item, or train the student with a longer sequence."
        )
    for dropped in range(len(question.examples) + 1):
        fitted = replace(question, examples=question.examples[dropped:])
        prompt = encode(fitted.full_prompt)
        if len(prompt) + longest <= context:
            break
    return EncodedQuestion(
        question=fitted, prompt=prompt, golds=golds, cut_tokens=max(len(prompt) + longest - context, 0)
    )
