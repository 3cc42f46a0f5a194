"""The rows of the multiple-choice benchmarks, asked in cloze form.

The answer is the text of the right choice; wrong choices are read, checked and then left alone, since
the metric ignores them.
"""

from __future__ import annotations

import re

from pydantic import Field

from finephrase_dagster.evaluate.row import Row, Strict, answers, asked, capitalized, choice


class LabelledChoices(Strict):
    """Choices as two lists of one length: texts, and the labels they go by."""

    text: list[str] = Field(min_length=2)
    label: list[str]

    def named(self, key: str) -> str:
        """The text of a label."""
        if len(self.text) != len(self.label):
            raise ValueError(f"choices: {len(self.text)} texts, {len(self.label)} labels")
        if key not in self.label:
            raise ValueError(f"answerKey {key!r} is not among the labels {', '.join(self.label)}")
        return self.text[self.label.index(key)]


class Arc(Row):
    """allenai/ai2_arc."""

    id: str
    question: str
    choices: LabelledChoices
    answerKey: str  # noqa: N815 - the dataset's column

    def prompt(self) -> str:
        return asked(self.question)

    def golds(self) -> tuple[str, ...]:
        return answers([self.choices.named(self.answerKey)])

    def key(self) -> str:
        return self.id


class OpenBookQa(Row):
    """allenai/openbookqa."""

    id: str
    question_stem: str
    choices: LabelledChoices
    answerKey: str  # noqa: N815 - the dataset's column

    def prompt(self) -> str:
        return asked(self.question_stem)

    def golds(self) -> tuple[str, ...]:
        return answers([self.choices.named(self.answerKey)])

    def key(self) -> str:
        return self.id


class XcsqaQuestion(Strict):
    """The nested question of XCSQA."""

    stem: str
    choices: LabelledChoices


class Xcsqa(Row):
    """INK-USC/xcsr, X-CSQA; a question that lost one of its choices in translation is not scored."""

    id: str
    question: XcsqaQuestion
    answerKey: str  # noqa: N815 - the dataset's column

    def prompt(self) -> str:
        return asked(self.question.stem)

    def golds(self) -> tuple[str, ...]:
        choices = self.question.choices
        if not all(text.strip() for text in choices.text):
            return ()
        return answers([choices.named(self.answerKey)])

    def key(self) -> str:
        return self.id


class MmluRedux(Row):
    """edinburgh-dawg/mmlu-redux-2.0.

    Where the re-annotation found the question sound, MMLU's answer counts; where it found the answer
    wrong, its own does. Questions with any other flaw are not scored.
    """

    question: str
    choices: list[str] = Field(min_length=2)
    answer: int
    error_type: str
    correct_answer: str | int | None = None

    def prompt(self) -> str:
        return asked(self.question)

    def golds(self) -> tuple[str, ...]:
        right = choice(self.choices, self.answer, "answer")
        if self.error_type == "ok":
            return answers([right])
        corrected = self._corrected() if self.error_type == "wrong_groundtruth" else None
        return () if corrected is None else answers([self.choices[corrected]])

    def _corrected(self) -> int | None:
        """The annotators' answer, a letter or a number; None if it is no choice."""
        text = str(self.correct_answer or "").strip()
        if self.correct_answer == 0 or text.isdecimal():
            index = int(text or 0)
        elif re.fullmatch("[A-Za-z]", text):
            index = ord(text.upper()) - ord("A")
        else:
            return None
        return index if index < len(self.choices) else None


class HellaSwag(Row):
    """Rowan/hellaswag: the prompt is the beginning of the text itself, the answer its end."""

    ind: int
    ctx: str
    endings: list[str] = Field(min_length=2)
    source_id: str = ""
    label: str

    def prompt(self) -> str:
        return capitalized(without_marks(self.ctx))

    def golds(self) -> tuple[str, ...]:
        if not self.label.isdecimal():
            raise ValueError(f"label {self.label!r} is not the number of an ending")
        return (without_marks(choice(self.endings, int(self.label), "label")),)

    def key(self) -> str:
        return f"{self.source_id}#{self.ind}" if self.source_id else str(self.ind)


def without_marks(text: str) -> str:
    """A text without the bracketed marks that articles on how to do things bring along.

    `[title]` begins a sentence; all others, such as `[header]`, only name what follows.
    """
    text = re.sub(r"[.\s]*\[title\]\s*", ". ", text)
    text = re.sub(r"\[[^\]]*\]", " ", text)
    return re.sub(r"\s+", " ", text).strip().removeprefix(". ")


class Winogrande(Row):
    """allenai/winogrande: the sentence up to its blank; the answer fills it and goes on to the end."""

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
        if self.sentence.count("_") != 1:
            raise ValueError("sentence needs exactly one blank '_'")
        before, after = self.sentence.split("_")
        return before.rstrip(), after.rstrip()


class Piqa(Row):
    """ybisk/piqa."""

    goal: str
    sol1: str
    sol2: str
    label: int

    def prompt(self) -> str:
        return asked(self.goal)

    def golds(self) -> tuple[str, ...]:
        return answers([choice([self.sol1, self.sol2], self.label, "label")])
