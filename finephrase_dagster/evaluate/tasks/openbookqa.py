"""OpenBookQA: questions that apply a fact of elementary science."""

from __future__ import annotations

from finephrase_dagster.evaluate.benchmark import (
    Benchmark,
    BenchmarkRow,
    LabelledChoices,
    cloze_answers,
    cloze_prompt,
)


class OpenBookQaRow(BenchmarkRow):
    """A row of allenai/openbookqa."""

    id: str
    question_stem: str
    choices: LabelledChoices
    answerKey: str  # noqa: N815 - the dataset's column

    def prompt(self) -> str:
        return cloze_prompt(self.question_stem)

    def golds(self) -> tuple[str, ...]:
        return cloze_answers([self.choices.labelled(self.answerKey)])


BENCHMARK = Benchmark(
    name="openbookqa_cf",
    folder="openbookqa",
    category="RES",
    row=OpenBookQaRow,
    hub="allenai/openbookqa",
    revision="388097ea7776314e93a529163e0fea805b8a6454",
    subsets=("main",),
    evaluation_split="validation",
    few_shot_split="train",
    position=6,
)
