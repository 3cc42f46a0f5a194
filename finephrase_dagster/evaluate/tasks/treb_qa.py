"""TReB table retrieval: questions on a table, a part of the TReB benchmark."""

from __future__ import annotations

from pydantic import Field

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, cloze_answers, cloze_prompt


class TrebRow(BenchmarkRow):
    """A row of lighteval/treb_table_retrieval. A question on several tables is not scored."""

    id: str = ""
    question: str
    answer: str | int | float
    Table_markdown: list[str] = Field(min_length=1)

    def prompt(self) -> str:
        return cloze_prompt(self.question, self.Table_markdown[0])

    def golds(self) -> tuple[str, ...]:
        return cloze_answers([str(self.answer)]) if len(self.Table_markdown) == 1 else ()


BENCHMARK = Benchmark(
    name="treb_qa",
    folder="treb_qa",
    category="TABLE",
    row=TrebRow,
    hub="lighteval/treb_table_retrieval",
    evaluation_split="test",
    few_shot_split=None,
    position=12,
)
