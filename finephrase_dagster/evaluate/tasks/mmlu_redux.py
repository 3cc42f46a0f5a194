"""MMLU-Redux: multiple-choice questions of 57 subjects, annotated again for errors."""

from __future__ import annotations

import re

from pydantic import Field

from finephrase_dagster.evaluate.benchmark import Benchmark, BenchmarkRow, choice, cloze_answers, cloze_prompt

_SUBJECTS = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics
econometrics electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology
high_school_chemistry high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics high_school_microeconomics
high_school_physics high_school_psychology high_school_statistics high_school_us_history high_school_world_history
human_aging human_sexuality international_law jurisprudence logical_fallacies machine_learning management marketing
medical_genetics miscellaneous moral_disputes moral_scenarios nutrition philosophy prehistory
professional_accounting professional_law professional_medicine professional_psychology public_relations
security_studies sociology us_foreign_policy virology world_religions
"""
SUBJECTS = tuple(_SUBJECTS.split())


class MmluReduxRow(BenchmarkRow):
    """A row of edinburgh-dawg/mmlu-redux-2.0.

    MMLU's answer counts where the annotators confirmed it; their own counts where they corrected it. Questions with
    any other flaw are not scored.
    """

    question: str
    choices: list[str] = Field(min_length=2)
    answer: int
    error_type: str
    correct_answer: str | int | None = None

    def prompt(self) -> str:
        return cloze_prompt(self.question)

    def golds(self) -> tuple[str, ...]:
        original = choice(self.choices, self.answer, "answer")
        if self.error_type == "ok":
            return cloze_answers([original])
        corrected = self._corrected_index() if self.error_type == "wrong_groundtruth" else None
        return () if corrected is None else cloze_answers([self.choices[corrected]])

    def _corrected_index(self) -> int | None:
        """Return the choice that the annotators named by a letter or a number; None if there is no such choice."""
        text = str(self.correct_answer or "").strip()
        if self.correct_answer == 0 or text.isdecimal():
            index = int(text or 0)
        elif re.fullmatch("[A-Za-z]", text):
            index = ord(text.upper()) - ord("A")
        else:
            return None
        return index if index < len(self.choices) else None


BENCHMARK = Benchmark(
    name="mmlu_redux_cf",
    folder="mmlu_redux",
    category="GK",
    row=MmluReduxRow,
    hub="edinburgh-dawg/mmlu-redux-2.0",
    subsets=SUBJECTS,
    evaluation_split="test",
    few_shot_split=None,
    position=3,
)
