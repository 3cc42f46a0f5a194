"""What the rows of all benchmarks have in common.

A row has the column names and the nesting of its original dataset; it knows its question as a prompt
and the texts that count as right. What is not here: where rows come from, few-shot examples, models.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict, model_validator

from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint


class Strict(BaseModel):
    """A frozen record whose fields have exactly their types."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())


class Row(Strict):
    """One item of a benchmark; columns that a dataset has beyond these are not read."""

    @abstractmethod
    def prompt(self) -> str:
        """The text before the answer; the answer follows after one space."""

    @abstractmethod
    def golds(self) -> tuple[str, ...]:
        """The right answers, any of which counts; empty where the item has none to score."""

    def key(self) -> str:
        """The item's id in its dataset; a hash of what is read of it where the dataset has none."""
        return fingerprint(self)[:SHORT]

    @model_validator(mode="after")
    def _can_be_asked(self) -> Row:
        if not self.prompt().strip():
            raise ValueError("the text before the answer is empty")
        if any(not gold.strip() for gold in self.golds()):
            raise ValueError("a right answer is empty")
        return self


def choice(options: Sequence[str], index: int, field: str) -> str:
    """The option at an index; ValueError naming the field if there is none."""
    if not 0 <= index < len(options):
        raise ValueError(f"{field} points at choice {index} of {len(options)}")
    return options[index]


def asked(question: str, context: str = "") -> str:
    """A question in the form that its answer continues, below its context; ValueError if it is empty."""
    if not question.strip():
        raise ValueError("the question is empty")
    above = f"{capitalized(context)}\n" if context.strip() else ""
    return f"{above}Question: {capitalized(question)}\nAnswer:"


def answers(texts: Iterable[str]) -> tuple[str, ...]:
    """Alternative answers as they stand behind a question: capitalised, each once, in their order."""
    return tuple(dict.fromkeys(capitalized(text) for text in texts))


def capitalized(text: str) -> str:
    """A text without space around it, its first letter a capital, as the study's cloze forms have it."""
    text = text.strip()
    return text[:1].upper() + text[1:]
