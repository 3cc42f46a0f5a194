"""HellaSwag: how a description of an everyday situation continues."""

from __future__ import annotations

import re

from pydantic import Field

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, capitalized, choice


class HellaSwagRow(BenchmarkRow):
    """A row of Rowan/hellaswag: the prompt is the beginning of the text itself, the answer its end."""

    ind: int
    ctx: str
    endings: list[str] = Field(min_length=2)
    source_id: str = ""
    label: str

    def prompt(self) -> str:
        return capitalized(without_markers(self.ctx))

    def golds(self) -> tuple[str, ...]:
        if not self.label.isdecimal():
            raise ValueError(f"label {self.label!r} is not the number of an ending")
        return (without_markers(choice(self.endings, int(self.label), "label")),)

    def key(self) -> str:
        return f"{self.source_id}#{self.ind}" if self.source_id else str(self.ind)


def without_markers(text: str) -> str:
    """Return a text without the bracketed markers of WikiHow articles.

    `[title]` begins a sentence; all others, such as `[header]`, only label what follows.
    """
    text = re.sub(r"[.\s]*\[title\]\s*", ". ", text)
    text = re.sub(r"\[[^\]]*\]", " ", text)
    return re.sub(r"\s+", " ", text).strip().removeprefix(". ")


BENCHMARK = Benchmark(
    name="hellaswag_cf",
    folder="hellaswag",
    category="NLU",
    row=HellaSwagRow,
    hub="Rowan/hellaswag",
    evaluation_split="validation",
    few_shot_split="train",
    position=2,
)
