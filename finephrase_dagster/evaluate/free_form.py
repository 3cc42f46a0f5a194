"""The rows of the benchmarks whose answers are free text or numbers: reading, sums, tables."""

from __future__ import annotations

from pydantic import Field, model_validator

from finephrase_dagster.evaluate.row import Row, Strict, asked, distinct


class SquadAnswers(Strict):
    """Answers as spans of the context; no span where the context does not answer."""

    text: list[str]
    answer_start: list[int]


class SquadV2(Row):
    """rajpurkar/squad_v2; a question without an answer has no gold and is not scored."""

    id: str
    title: str
    context: str
    question: str
    answers: SquadAnswers

    def prompt(self) -> str:
        return f"Context: {self.context.strip()}\n{asked(self.question)}"

    def golds(self) -> tuple[str, ...]:
        return distinct(self.answers.text)

    def key(self) -> str:
        return self.id


class DropAnswers(Strict):
    """The answers of several annotators; each stands for itself."""

    spans: list[str] = Field(min_length=1)
    types: list[str]


class Drop(Row):
    """ucinlp/drop."""

    section_id: str
    query_id: str
    passage: str
    question: str
    answers_spans: DropAnswers

    def prompt(self) -> str:
        return f"Passage: {self.passage.strip()}\n{asked(self.question)}"

    def golds(self) -> tuple[str, ...]:
        return distinct(self.answers_spans.spans)

    def key(self) -> str:
        return self.query_id


class Gsm8k(Row):
    """openai/gsm8k: of the worked answer only the number behind `####` counts."""

    question: str
    answer: str

    def prompt(self) -> str:
        return asked(self.question)

    def golds(self) -> tuple[str, ...]:
        _, mark, number = self.answer.partition("####")
        if not mark:
            raise ValueError("answer has no '####' before its number")
        return (number.strip(),)


class Table(Strict):
    """A table with one header row."""

    header: list[str] = Field(min_length=1)
    rows: list[list[str]]
    name: str

    @model_validator(mode="after")
    def _is_rectangular(self) -> Table:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"row {number} has {len(row)} cells, the header {len(self.header)}")
        return self

    def markdown(self) -> str:
        """The table in Markdown, without padding."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


class WikiTableQuestion(Row):
    """stanfordnlp/wikitablequestions; several answers are one list, all of which is asked for."""

    id: str
    question: str
    answers: list[str] = Field(min_length=1)
    table: Table

    def prompt(self) -> str:
        return f"{self.table.markdown()}\n{asked(self.question)}"

    def golds(self) -> tuple[str, ...]:
        return (", ".join(answer.strip() for answer in self.answers),)

    def key(self) -> str:
        return self.id


class TableReasoning(Row):
    """JT-LM/JIUTIAN-TReB: tables in Markdown beside their titles."""

    id: str
    file_path: list[str]
    instruction: str
    question: str
    answer: str
    title: list[str]
    columnslable: list[int]
    Table_markdown: list[str] = Field(min_length=1)
    Table_html: list[str]
    number_answer: str | float

    def prompt(self) -> str:
        titles = [*self.title, *[""] * len(self.Table_markdown)]
        tables = [
            f"{title}\n{table.strip()}" if title else table.strip()
            for title, table in zip(titles, self.Table_markdown, strict=False)
        ]
        return "\n".join([*tables, asked(self.question)])

    def golds(self) -> tuple[str, ...]:
        return (self.answer.strip(),)

    def key(self) -> str:
        return self.id
