"""ARC-Challenge: the harder questions of ARC. It counts for no mean, as in the published study."""

from __future__ import annotations

from finephrase_dagster.evaluate.benchmark import Benchmark
from finephrase_dagster.evaluate.tasks.arc_easy import ArcRow

BENCHMARK = Benchmark(
    name="arc_cf:challenge",
    folder="arc_challenge",
    category=None,
    row=ArcRow,
    hub="allenai/ai2_arc",
    subsets=("ARC-Challenge",),
    evaluation_split="test",
    few_shot_split="validation",
    position=13,
)
