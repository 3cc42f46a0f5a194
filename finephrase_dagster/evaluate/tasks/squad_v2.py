"""SQuAD 2.0: questions whose answer is a span of a paragraph."""

from __future__ import annotations

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, Record, cloze_answers, cloze_prompt


class SquadAnswers(Record):
    """Answers as spans of the context; empty if the context does not answer the question."""

    text: list[str]


class SquadV2Row(BenchmarkRow):
    """A row of rajpurkar/squad_v2. A question without an answer is not scored."""

    id: str
    context: str
    question: str
    answers: SquadAnswers

    def prompt(self) -> str:
        return cloze_prompt(self.question, self.context)

    def golds(self) -> tuple[str, ...]:
        return cloze_answers(text for text in self.answers.text if text)


BENCHMARK = Benchmark(
    name="squad_v2",
    folder="squad_v2",
    category="RC",
    row=SquadV2Row,
    hub="rajpurkar/squad_v2",
    subsets=("squad_v2",),
    evaluation_split="validation",
    few_shot_split="train",
    position=5,
)
