"""GSM8K: word problems of grade-school mathematics."""

from __future__ import annotations

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, cloze_prompt


class Gsm8kRow(BenchmarkRow):
    """A row of openai/gsm8k: of the worked answer only the number after `####` counts."""

    question: str
    answer: str

    def prompt(self) -> str:
        return cloze_prompt(self.question)

    def golds(self) -> tuple[str, ...]:
        _, mark, number = self.answer.partition("####")
        if not mark:
            raise ValueError("answer has no '####' before its number")
        return (number.strip(),)


BENCHMARK = Benchmark(
    name="gsm8k",
    folder="gsm8k",
    category="MATH",
    row=Gsm8kRow,
    hub="openai/gsm8k",
    subsets=("main",),
    evaluation_split="test",
    few_shot_split="train",
    position=9,
)
