"""ARC-Easy: questions from school science tests; and the row that ARC-Challenge shares."""

from __future__ import annotations

from finephrase_dagster.evaluate.benchmark import (
    Benchmark,
    BenchmarkRow,
    LabelledChoices,
    cloze_answers,
    cloze_prompt,
)


class ArcRow(BenchmarkRow):
    """A row of allenai/ai2_arc."""

    id: str
    question: str
    choices: LabelledChoices
    answerKey: str  # noqa: N815 - the dataset's column

    def prompt(self) -> str:
        return cloze_prompt(self.question)

    def golds(self) -> tuple[str, ...]:
        return cloze_answers([self.choices.labelled(self.answerKey)])


BENCHMARK = Benchmark(
    name="arc_cf:easy",
    folder="arc_easy",
    category="GK",
    row=ArcRow,
    hub="allenai/ai2_arc",
    subsets=("ARC-Easy",),
    evaluation_split="test",
    few_shot_split="validation",
    position=1,
)
