"""X-CSQA: common-sense questions, the English ones."""

from __future__ import annotations

from finephrase_dagster.evaluate.benchmark import (
    Benchmark,
    BenchmarkRow,
    LabelledChoices,
    Record,
    cloze_answers,
    cloze_prompt,
)


class XcsqaQuestion(Record):
    """The nested question of a row."""

    stem: str
    choices: LabelledChoices


class XcsqaRow(BenchmarkRow):
    """A row of INK-USC/xcsr. A question that lost one of its choices in translation is not scored."""

    id: str
    question: XcsqaQuestion
    answerKey: str  # noqa: N815 - the dataset's column

    def prompt(self) -> str:
        return cloze_prompt(self.question.stem)

    def golds(self) -> tuple[str, ...]:
        choices = self.question.choices
        if not all(text.strip() for text in choices.text):
            return ()
        return cloze_answers([choices.labelled(self.answerKey)])


BENCHMARK = Benchmark(
    name="xcsqa_cf",
    folder="xcsqa",
    category="RES",
    row=XcsqaRow,
    hub="INK-USC/xcsr",
    subsets=("X-CSQA-en",),
    evaluation_split="validation",
    few_shot_split=None,
    position=4,
)
