"""The turns of a prompt's template, and where the document is in them.

A template is one user turn, or a conversation, for example with worked examples before the document. Each turn of a
conversation begins with a line `[[USER]]` or `[[ASSISTANT]]`. Turns alternate; the first and the last are the user's.
The template contains the placeholder `[[DOCUMENT]]` once, in a user turn.
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
    """A template is wrong; the message says what to do.

    Attributes:
        line: the line of the template, from 1.
    """

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Role
    text: str


def parse_turns(template: str) -> tuple[Turn, ...]:
    """Return the turns of a template.

    Raises:
        TemplateError: there is not exactly one placeholder, or it is in an assistant's turn; a turn is empty; turns do
            not alternate; a marker is not alone on its line.
    """
    _check_placeholder(template)
    lines = template.split("\n")
    starts = [number for number, line in enumerate(lines, 1) if _is_marker(line, number)]
    if not starts:
        return (Turn("user", template),)
    stray = next((number for number, line in enumerate(lines[: starts[0] - 1], 1) if line.strip()), None)
    if stray is not None:
        raise TemplateError(stray, "there is text before the first turn; put a line [[USER]] above it")
    turns: list[Turn] = []
    for start, end in zip(starts, [*starts[1:], len(lines) + 1], strict=True):
        turn = Turn(_ROLES[lines[start - 1].strip()], "\n".join(lines[start : end - 1]).strip())
        expected = "assistant" if turns and turns[-1].role == "user" else "user"
        if turn.role != expected:
            raise TemplateError(
                start,
                f"a turn [[{turn.role.upper()}]] follows where [[{expected.upper()}]] is expected; turns alternate, "
                "beginning with [[USER]]",
            )
        if not turn.text:
            raise TemplateError(start, f"the turn [[{turn.role.upper()}]] is empty; write its text, or remove it")
        if turn.role == "assistant" and PLACEHOLDER in turn.text:
            place = next(number for number in range(start, end) if PLACEHOLDER in lines[number - 1])
            raise TemplateError(place, f"{PLACEHOLDER} is in an assistant's turn; move it to a turn of the user")
        turns.append(turn)
    if turns[-1].role != "user":
        raise TemplateError(
            starts[-1], "the last turn is the assistant's, but the model writes that turn; end with a turn [[USER]]"
        )
    return tuple(turns)


def positions(turns: tuple[Turn, ...]) -> tuple[Position, ...]:
    """Return where the document is: `first`, `last`, both if there is nothing else, or `inside`."""
    places: list[Position] = []
    if turns[0].text.lstrip().startswith(PLACEHOLDER):
        places.append("first")
    if turns[-1].text.rstrip().endswith(PLACEHOLDER):
        places.append("last")
    return tuple(places) or ("inside",)


def _check_placeholder(template: str) -> None:
    places = [template.count("\n", 0, match.start()) + 1 for match in re.finditer(re.escape(PLACEHOLDER), template)]
    if len(places) != 1:
        line = places[1] if places else 1
        raise TemplateError(line, f"the template contains {PLACEHOLDER} {len(places)} times; write it once")


def _is_marker(line: str, number: int) -> bool:
    """Return whether a turn begins here; refuse a marker that is almost one, which would be sent as text."""
    match = _MARKER.fullmatch(line)
    if match is None:
        return False
    if match["role"].lower() == "system":
        raise TemplateError(number, "write a system message as the field 'system' of the front matter")
    if line.strip() not in _ROLES:
        marker = f"[[{match['role'].upper()}]]"
        raise TemplateError(number, f"write {marker} in capitals and alone on its line")
    return True
