"""WinoGrande: sentences with a blank that one of two nouns fills."""

from __future__ import annotations

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow


class WinograndeRow(BenchmarkRow):
    """A row of allenai/winogrande: the prompt ends at the blank; the answer fills it and completes the sentence."""

    sentence: str
    option1: str
    option2: str
    answer: str

    def prompt(self) -> str:
        return self._parts()[0]

    def golds(self) -> tuple[str, ...]:
        if self.answer not in ("1", "2"):
            raise ValueError(f"answer {self.answer!r} is neither '1' nor '2'")
        return ((self.option1 if self.answer == "1" else self.option2) + self._parts()[1],)

    def _parts(self) -> tuple[str, str]:
        """Return the sentence before and after its blank."""
        if self.sentence.count("_") != 1:
            raise ValueError("sentence needs exactly one blank '_'")
        before, after = self.sentence.split("_")
        return before.rstrip(), after.rstrip()


BENCHMARK = Benchmark(
    name="winogrande_cf",
    folder="winogrande",
    category="NLU",
    row=WinograndeRow,
    hub="allenai/winogrande",
    subsets=("winogrande_xl",),
    evaluation_split="validation",
    few_shot_split="train",
    position=7,
)
