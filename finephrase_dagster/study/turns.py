"""The turns of a prompt's template, and where the document stands in them.

A template is one user turn, or a conversation: worked examples, say, before the document. A turn of a
conversation begins with a line `[[USER]]` or `[[ASSISTANT]]`; turns alternate, and the user has the first
and the last of them. The placeholder `[[DOCUMENT]]` stands once in all of it, in a user turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from finephrase_dagster.errors import FinephraseError

PLACEHOLDER = "[[DOCUMENT]]"

Role = Literal["user", "assistant"]
Position = Literal["first", "last", "inside"]

_MARKER = re.compile(r"\s*\[\[(?P<role>user|assistant|system)\]\](?P<rest>.*)", re.IGNORECASE)
_ROLES: dict[str, Role] = {"[[USER]]": "user", "[[ASSISTANT]]": "assistant"}


class TemplateError(FinephraseError, ValueError, exit_status=2):
    """A template is wrong; the message names the remedy.

    Attributes:
        line: the line of the template, counted from 1.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Role
    text: str


def parse_turns(template: str) -> tuple[Turn, ...]:
    """The turns of a template, the user's first and last.

    Raises:
        TemplateError: not exactly one placeholder, or one in an assistant's turn; an empty turn; turns that do
            not alternate; a marker that does not stand alone on its line.
    """
    _check_placeholder(template)
    lines = template.split("\n")
    starts = [number for number, line in enumerate(lines, 1) if _is_marker(line, number)]
    if not starts:
        return (Turn("user", template),)
    stray = next((number for number, line in enumerate(lines[: starts[0] - 1], 1) if line.strip()), None)
    if stray is not None:
        raise TemplateError(stray, "text stands before the first turn; put a line [[USER]] above it")
    turns: list[Turn] = []
    for start, end in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        turn = Turn(_ROLES[lines[start - 1].strip()], "\n".join(lines[start : end - 1]).strip())
        expected = "assistant" if turns and turns[-1].role == "user" else "user"
        if turn.role != expected:
            raise TemplateError(
                start,
                f"a turn [[{turn.role.upper()}]] stands where [[{expected.upper()}]] has its turn; turns alternate, "
                "beginning with [[USER]]",
            )
        if not turn.text:
            raise TemplateError(start, f"the turn [[{turn.role.upper()}]] is empty; write what is said, or remove it")
        if turn.role == "assistant" and PLACEHOLDER in turn.text:
            place = next(number for number in range(start, end) if PLACEHOLDER in lines[number - 1])
            raise TemplateError(place, f"{PLACEHOLDER} stands in an assistant's turn; move it to one of the user's")
        turns.append(turn)
    if turns[-1].role != "user":
        raise TemplateError(
            starts[-1], "the last turn is the assistant's, which the model is to write; end with a turn [[USER]]"
        )
    return tuple(turns)


def positions(turns: tuple[Turn, ...]) -> tuple[Position, ...]:
    """Where the document stands: `first`, `last`, both where it is all there is, else `inside`."""
    found: list[Position] = []
    if turns[0].text.lstrip().startswith(PLACEHOLDER):
        found.append("first")
    if turns[-1].text.rstrip().endswith(PLACEHOLDER):
        found.append("last")
    return tuple(found) or ("inside",)


def _check_placeholder(template: str) -> None:
    places = [template.count("\n", 0, match.start()) + 1 for match in re.finditer(re.escape(PLACEHOLDER), template)]
    if len(places) != 1:
        line = places[1] if places else 1
        raise TemplateError(line, f"{PLACEHOLDER} stands {len(places)} times in the template; write it once")


def _is_marker(line: str, number: int) -> bool:
    """Whether a turn begins here; a marker that is nearly one is refused rather than sent as text."""
    match = _MARKER.fullmatch(line)
    if match is None:
        return False
    if match["role"].lower() == "system":
        raise TemplateError(number, "a system message is no turn; write it as the field 'system' of the front matter")
    if line.strip() not in _ROLES:
        marker = f"[[{match['role'].upper()}]]"
        raise TemplateError(number, f"a turn begins with {marker} alone on its line, in capitals; write it so")
    return True
