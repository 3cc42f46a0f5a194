"""The rows of the benchmarks whose answers are free text or numbers: reading, sums, tables."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from finephrase_dagster.evaluate.row import Row, Strict, answers, asked


class SquadAnswers(Strict):
    """Answers as spans of the context; no span where the context does not answer."""

    text: list[str]


class SquadV2(Row):
    """rajpurkar/squad_v2; a question without an answer has no gold and is not scored."""

    id: str
    context: str
    question: str
    answers: SquadAnswers

    def prompt(self) -> str:
        return asked(self.question, self.context)

    def golds(self) -> tuple[str, ...]:
        return answers(text for text in self.answers.text if text)

    def key(self) -> str:
        return self.id


class DropSpans(Strict):
    """The answers of several annotators as texts."""

    spans: list[str] = Field(min_length=1)


class DropDate(Strict):
    """A date, each part of which may be empty."""

    day: str
    month: str
    year: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.day, self.month, self.year) if part)


class DropAnswer(Strict):
    """An answer by its kind: a number, spans of the passage, or a date; the others are empty."""

    number: str | None
    spans: list[str]
    date: DropDate | None

    def texts(self) -> Iterator[str]:
        """What there is of it."""
        yield from (text for text in (self.number, *self.spans, str(self.date or "")) if text)


class Drop(Row):
    """lighteval/drop_harness (`answer`) or ucinlp/drop (`answers_spans`); each answer stands for itself."""

    query_id: str
    passage: str
    question: str
    answer: DropAnswer | None = None
    answers_spans: DropSpans | None = None

    @model_validator(mode="after")
    def _has_one_kind_of_answer(self) -> Drop:
        if (self.answer is None) == (self.answers_spans is None):
            raise ValueError("needs either answer or answers_spans")
        return self

    def prompt(self) -> str:
        return asked(self.question, self.passage)

    def golds(self) -> tuple[str, ...]:
        if self.answers_spans is not None:
            return answers(self.answers_spans.spans)
        return answers(self.answer.texts()) if self.answer else ()

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
    """lighteval/wikitablequestions (`table_md`) or stanfordnlp/wikitablequestions (`table`).

    Of several answers each stands for itself, as in the study.
    """

    id: str = ""
    question: str
    answers: list[str] = Field(min_length=1)
    table: Table | None = None
    table_md: str | None = None

    def prompt(self) -> str:
        if self.table is not None:
            return asked(self.question, self.table.markdown())
        if not (self.table_md or "").strip():
            raise ValueError("needs either table or table_md")
        return asked(self.question, self.table_md or "")

    def golds(self) -> tuple[str, ...]:
        return answers(self.answers)

    def key(self) -> str:
        return self.id or super().key()


class TableReasoning(Row):
    """lighteval/treb_table_retrieval, a part of TReB; a question on several tables is not scored."""

    id: str = ""
    question: str
    answer: str | int | float
    Table_markdown: list[str] = Field(min_length=1)

    def prompt(self) -> str:
        return asked(self.question, self.Table_markdown[0])

    def golds(self) -> tuple[str, ...]:
        return answers([str(self.answer)]) if len(self.Table_markdown) == 1 else ()

    def key(self) -> str:
        return self.id or super().key()
