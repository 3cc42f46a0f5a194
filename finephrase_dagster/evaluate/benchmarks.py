"""The benchmarks: task name, the schema of its rows, and its original on the hub.

Twelve make up the scores; ARC-Challenge is run beside them and not counted. Datasets, subsets and
splits are those of the study. `embedded` items are the project's own, written in the originals'
schemas, so that the suite runs offline; they measure the same skills but are not the published
benchmarks, and their scores compare with one another only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finephrase_dagster.evaluate import free_form, multiple_choice
from finephrase_dagster.evaluate.row import Row


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One task.

    Attributes:
        folder: its items' folder, where the task's name would make an unwise one.
        row: the schema of its rows.
        hub: the original dataset's id.
        evaluation_split: the split there that is evaluated (labels of the others are not public, or
            the study took this one).
        few_shot_split: the split there that examples come from; None: the evaluated one, less the item.
        subsets: the configurations there. With several, the score is the mean of theirs.
        revision: the branch or commit.
    """

    folder: str
    row: type[Row]
    hub: str
    evaluation_split: str
    few_shot_split: str | None
    subsets: tuple[str, ...] = ("default",)
    revision: str = "main"


MMLU_SUBJECTS = (
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
)

# The hub itself was out of reach when this was written: ids, subsets and splits come from the stored task
# definitions and dataset cards; of lighteval/wikitablequestions not even the card was seen.
BENCHMARKS: Mapping[str, Benchmark] = {
    "arc_cf:easy": Benchmark(
        folder="arc_easy",
        row=multiple_choice.Arc,
        hub="allenai/ai2_arc",
        subsets=("ARC-Easy",),
        evaluation_split="test",
        few_shot_split="validation",
    ),
    "hellaswag_cf": Benchmark(
        folder="hellaswag",
        row=multiple_choice.HellaSwag,
        hub="Rowan/hellaswag",
        evaluation_split="validation",
        few_shot_split="train",
    ),
    "mmlu_redux_cf": Benchmark(
        folder="mmlu_redux",
        row=multiple_choice.MmluRedux,
        hub="edinburgh-dawg/mmlu-redux-2.0",
        subsets=MMLU_SUBJECTS,
        evaluation_split="test",
        few_shot_split=None,
    ),
    "xcsqa_cf": Benchmark(
        folder="xcsqa",
        row=multiple_choice.Xcsqa,
        hub="INK-USC/xcsr",
        subsets=("X-CSQA-en",),
        evaluation_split="validation",
        few_shot_split=None,
    ),
    "squad_v2": Benchmark(
        folder="squad_v2",
        row=free_form.SquadV2,
        hub="rajpurkar/squad_v2",
        subsets=("squad_v2",),
        evaluation_split="validation",
        few_shot_split="train",
    ),
    "openbookqa_cf": Benchmark(
        folder="openbookqa",
        row=multiple_choice.OpenBookQa,
        hub="allenai/openbookqa",
        subsets=("main",),
        evaluation_split="validation",
        few_shot_split="train",
        revision="388097ea7776314e93a529163e0fea805b8a6454",
    ),
    "winogrande_cf": Benchmark(
        folder="winogrande",
        row=multiple_choice.Winogrande,
        hub="allenai/winogrande",
        subsets=("winogrande_xl",),
        evaluation_split="validation",
        few_shot_split="train",
    ),
    "piqa_cf": Benchmark(
        folder="piqa",
        row=multiple_choice.Piqa,
        hub="ybisk/piqa",
        evaluation_split="validation",
        few_shot_split="train",
        # The main branch is a loading script, which `datasets` no longer runs.
        revision="refs/convert/parquet",
    ),
    "gsm8k": Benchmark(
        folder="gsm8k",
        row=free_form.Gsm8k,
        hub="openai/gsm8k",
        subsets=("main",),
        evaluation_split="test",
        few_shot_split="train",
    ),
    "drop": Benchmark(
        folder="drop",
        row=free_form.Drop,
        hub="lighteval/drop_harness",
        evaluation_split="validation",
        few_shot_split="train",
    ),
    "wikitablequestions": Benchmark(
        folder="wikitablequestions",
        row=free_form.WikiTableQuestion,
        hub="lighteval/wikitablequestions",
        evaluation_split="test",
        few_shot_split="train",
    ),
    "treb_qa": Benchmark(
        folder="treb_qa",
        row=free_form.TableReasoning,
        hub="lighteval/treb_table_retrieval",
        evaluation_split="test",
        few_shot_split=None,
    ),
    "arc_cf:challenge": Benchmark(
        folder="arc_challenge",
        row=multiple_choice.Arc,
        hub="allenai/ai2_arc",
        subsets=("ARC-Challenge",),
        evaluation_split="test",
        few_shot_split="validation",
    ),
}
