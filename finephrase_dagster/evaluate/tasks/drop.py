"""DROP: questions that need counting, sorting or arithmetic over a paragraph."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, Record, cloze_answers, cloze_prompt


class DropSpans(Record):
    """The answers of several annotators as texts."""

    spans: list[str] = Field(min_length=1)


class DropDate(Record):
    """A date, each part of which may be empty."""

    day: str
    month: str
    year: str

    def __str__(self) -> str:
        return " ".join(part for part in (self.day, self.month, self.year) if part)


class DropAnswer(Record):
    """An answer by its kind: a number, spans of the passage, or a date; the others are empty."""

    number: str | None
    spans: list[str]
    date: DropDate | None

    def texts(self) -> Iterator[str]:
        """Yield the parts that are not empty."""
        yield from (text for text in (self.number, *self.spans, str(self.date or "")) if text)


class DropRow(BenchmarkRow):
    """A row of lighteval/drop_harness (`answer`) or ucinlp/drop (`answers_spans`); any one of its answers counts."""

    query_id: str
    passage: str
    question: str
    answer: DropAnswer | None = None
    answers_spans: DropSpans | None = None

    @model_validator(mode="after")
    def _has_one_kind_of_answer(self) -> DropRow:
        if (self.answer is None) == (self.answers_spans is None):
            raise ValueError("needs either answer or answers_spans")
        return self

    def prompt(self) -> str:
        return cloze_prompt(self.question, self.passage)

    def golds(self) -> tuple[str, ...]:
        if self.answers_spans is not None:
            return cloze_answers(self.answers_spans.spans)
        return cloze_answers(self.answer.texts()) if self.answer else ()

    def key(self) -> str:
        return self.query_id


BENCHMARK = Benchmark(
    name="drop",
    folder="drop",
    category="RC",
    row=DropRow,
    hub="lighteval/drop_harness",
    evaluation_split="validation",
    few_shot_split="train",
    position=10,
)
