"""WikiTableQuestions: questions on a table of Wikipedia."""

from __future__ import annotations

from pydantic import Field, model_validator

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, Record, cloze_answers, cloze_prompt


class QuestionTable(Record):
    """A table with one header row."""

    header: list[str] = Field(min_length=1)
    rows: list[list[str]]

    @model_validator(mode="after")
    def _is_rectangular(self) -> QuestionTable:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"row {number} has {len(row)} cells, the header {len(self.header)}")
        return self

    def markdown(self) -> str:
        """Return the table in Markdown, without padding."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class WikiTableQuestionsRow(BenchmarkRow):
    """A row of lighteval/wikitablequestions (`table_md`) or stanfordnlp/wikitablequestions (`table`).

    Any one of its answers counts, as in the published study.
    """

    id: str = ""
    question: str
    answers: list[str] = Field(min_length=1)
    table: QuestionTable | None = None
    table_md: str | None = None

    def prompt(self) -> str:
        if self.table is not None:
            return cloze_prompt(self.question, self.table.markdown())
        if not (self.table_md or "").strip():
            raise ValueError("needs either table or table_md")
        return cloze_prompt(self.question, self.table_md or "")

    def golds(self) -> tuple[str, ...]:
        return cloze_answers(self.answers)


BENCHMARK = Benchmark(
    name="wikitablequestions",
    folder="wikitablequestions",
    category="TABLE",
    row=WikiTableQuestionsRow,
    hub="lighteval/wikitablequestions",  # its card was not available: split names are those of the original
    evaluation_split="test",
    few_shot_split="train",
    position=11,
)
