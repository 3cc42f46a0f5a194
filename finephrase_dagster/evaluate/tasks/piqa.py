"""PIQA: how to reach a goal with everyday objects."""

from __future__ import annotations

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, choice, cloze_answers, cloze_prompt


class PiqaRow(BenchmarkRow):
    """A row of ybisk/piqa."""

    goal: str
    sol1: str
    sol2: str
    label: int

    def prompt(self) -> str:
        return cloze_prompt(self.goal)

    def golds(self) -> tuple[str, ...]:
        return cloze_answers([choice([self.sol1, self.sol2], self.label, "label")])


BENCHMARK = Benchmark(
    name="piqa_cf",
    folder="piqa",
    category="RES",
    row=PiqaRow,
    hub="ybisk/piqa",
    revision="refs/convert/parquet",  # the main branch is a loading script, which `datasets` no longer runs
    evaluation_split="validation",
    few_shot_split="train",
    position=8,
)
