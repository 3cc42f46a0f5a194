"""What the files of `tasks/` are written with: `Benchmark`, the base of its rows, and the cloze form of questions.

A row has the column names and the nesting of its original dataset. It knows its question as a prompt and the texts
that count as correct answers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint

CATEGORIES: Mapping[str, str] = {
    "GK": "general knowledge",
    "RC": "reading comprehension",
    "RES": "reasoning",
    "NLU": "language understanding",
    "MATH": "mathematics",
    "TABLE": "tables",
}
"""The name of each category, in the order of the published tables."""


class Record(BaseModel):
    """A frozen record whose fields have exactly their types; columns without a field are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())


class BenchmarkRow(Record):
    """One row of a benchmark's dataset."""

    @abstractmethod
    def prompt(self) -> str:
        """Return the text before the answer; the answer follows after one space."""

    @abstractmethod
    def golds(self) -> tuple[str, ...]:
        """Return the correct answers; none if the row cannot be scored.

        Raises:
            ValueError: the row contradicts itself.
        """

    def key(self) -> str:
        """Return the row's `id`; where the dataset has none, a hash of the row's fields."""
        return getattr(self, "id", "") or fingerprint(self)[:SHORT]

    @model_validator(mode="after")
    def _has_texts(self) -> BenchmarkRow:
        if not self.prompt().strip():
            raise ValueError("the text before the answer is empty")
        if any(not gold.strip() for gold in self.golds()):
            raise ValueError("a correct answer is empty")
        return self


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark. Its file in `tasks/` is called like its folder.

    Attributes:
        name: the task's name in study files and results.
        folder: the folder of its items in `evaluate/items/` and in a folder that `evaluation.items` names.
        category: one of `CATEGORIES`, whose mean it counts for; None: it counts for no mean.
        row: the schema of its rows, with the form of its prompt.
        hub: the id of the original dataset on the Hugging Face hub.
        revision: the dataset's branch or commit.
        subsets: the dataset's configurations. With several, the score is the mean of theirs.
        evaluation_split: the split that is evaluated.
        few_shot_split: the split with the examples; None: the evaluated split, without the item itself.
        position: the place among all benchmarks, in the order of the published tables; those without one come last.
    """

    name: str
    folder: str
    category: str | None
    row: type[BenchmarkRow]
    hub: str
    revision: str = "main"
    subsets: tuple[str, ...] = ("default",)
    evaluation_split: str
    few_shot_split: str | None
    position: int | None = None

    def __post_init__(self) -> None:
        assert self.category is None or self.category in CATEGORIES, f"{self.name}: no category {self.category!r}"


class LabelledChoices(Record):
    """Choices as two lists of one length: texts and their labels."""

    text: list[str] = Field(min_length=2)
    label: list[str]

    def labelled(self, key: str) -> str:
        """Return the text of a label."""
        if len(self.text) != len(self.label):
            raise ValueError(f"choices: {len(self.text)} texts, {len(self.label)} labels")
        if key not in self.label:
            raise ValueError(f"answerKey {key!r} is not among the labels {', '.join(self.label)}")
        return self.text[self.label.index(key)]


def choice(options: Sequence[str], index: int, field: str) -> str:
    """Return the option at an index.

    Raises:
        ValueError: there is none; the message names the field.
    """
    if not 0 <= index < len(options):
        raise ValueError(f"{field} points at choice {index} of {len(options)}")
    return options[index]


def cloze_prompt(question: str, context: str = "") -> str:
    """Return a question, below its context, in the form that its answer continues.

    Raises:
        ValueError: the question is empty.
    """
    if not question.strip():
        raise ValueError("the question is empty")
    above = f"{capitalized(context)}\n" if context.strip() else ""
    return f"{above}Question: {capitalized(question)}\nAnswer:"


def cloze_answers(texts: Iterable[str]) -> tuple[str, ...]:
    """Return alternative answers as they follow a cloze prompt: capitalized, without duplicates, in their order."""
    return tuple(dict.fromkeys(capitalized(text) for text in texts))


def capitalized(text: str) -> str:
    """Return a text without surrounding whitespace, its first letter a capital, as in the published cloze forms."""
    text = text.strip()
    return text[:1].upper() + text[1:]
