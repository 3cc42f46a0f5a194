"""The form a completion must have, one rule a format.

A form is what the prompt asks for and what a program can decide: which parts stand there, in which
order, and that nothing stands around them. Markdown dress (bold markers, a heading's marks, "Step 1:")
is let through, since it leaves the parts recognisable. Whether the content is true is not judged here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_DRESS = r"(?:\#{1,6}[ ]+)?[*_]{0,2}"


def _marker(words: str) -> re.Pattern[str]:
    """A line that begins with a label and a colon: `Q:`, `**Q:**`, `**Q**:`, `### Q1:`."""
    return re.compile(rf"{_DRESS}(?:{words})[*_]{{0,2}}[ ]?:[*_]{{0,2}}(?P<rest>.*)", re.IGNORECASE)


_QUESTION = _marker(r"Q(?:uestion)?[ ]?\d*")
_ANSWER = _marker(r"A(?:nswer)?[ ]?\d*")
_PROBLEM = _marker(r"Problem(?:[ ]statement)?")
_SOLUTION = _marker(r"Solution")
_RESULT = _marker(r"(?:Final[ ])?Answer")
_NUMBER = re.compile(r"\d")
_SEPARATOR_CELL = re.compile(r":?-+:?")
_HEADING = re.compile(r"\#{1,6}[ ]+\S.*|(?P<bold>\*\*|__)(?!\s).+(?P=bold)")
_UNDERLINE = re.compile(r"=+|-+")
_STEP = re.compile(rf"{_DRESS}(?:Step[ ])?(?P<number>\d+)[*_]{{0,2}}[.):](?P<rest>.*)", re.IGNORECASE)


def has_form(format: str, text: str) -> bool:
    """Whether a completion has the form of a prompt's format.

    Raises:
        KeyError: there is no such format.
    """
    return form_flaw(format, text) is None


def form_flaw(format: str, text: str) -> str | None:
    """What keeps a completion from having the form; None where it has it.

    Raises:
        KeyError: there is no such format.
    """
    lines = text.strip().splitlines()
    return "empty" if not lines else _FLAWS[format](lines)


def _words(text: str) -> str:
    """A text without the marks of Markdown: what is left must say something."""
    return text.strip(" \t*_#-")


def _faq_flaw(lines: list[str]) -> str | None:
    """At least two questions, each followed by its answer, and nothing before, between or behind."""
    parts = _parts(lines, {"question": _QUESTION, "answer": _ANSWER})
    if isinstance(parts, str):
        return parts
    if [name for name, _ in parts] != ["question", "answer"] * (len(parts) // 2):
        return "questions and answers do not alternate"
    if len(parts) < 4:
        return "fewer than two questions with answers"
    return _empty_part(parts) or _trailer(parts[-1])


def _math_flaw(lines: list[str]) -> str | None:
    """Problem, solution and answer, each once, each with a number."""
    parts = _parts(lines, {"problem": _PROBLEM, "solution": _SOLUTION, "answer": _RESULT})
    if isinstance(parts, str):
        return parts
    names = [name for name, _ in parts]
    # The prompt speaks of lines that begin with "Problem:": it may take several of them.
    if names[:1] != ["problem"] or names[-2:] != ["solution", "answer"] or set(names[:-2]) != {"problem"}:
        return "not a problem, a solution and an answer in this order"
    for wanted in ("problem", "solution", "answer"):
        if not any(_NUMBER.search(line) for name, body in parts if name == wanted for line in body):
            return f"no number in the {wanted}"
    return _empty_part(parts) or _trailer(parts[-1])


def _table_flaw(lines: list[str]) -> str | None:
    """A table whose rows all have the header's cells, then one question and its answer."""
    size = next((index for index, line in enumerate(lines) if "|" not in line), len(lines))
    if size < 3:
        return "no table at the start" if size == 0 else "no header, separator and row"
    header, separator, *rows = [_cells(line) for line in lines[:size]]
    if len(header) < 2 or not any(header):
        return "fewer than two columns"
    if not all(_SEPARATOR_CELL.fullmatch(cell) for cell in separator):
        return "no separator row under the header"
    if any(len(row) != len(header) for row in (separator, *rows)):
        return "rows with different numbers of cells"
    if any(all(_SEPARATOR_CELL.fullmatch(cell) for cell in row) for row in rows):
        return "a second separator row"
    if not any(any(row) for row in rows):
        return "no filled row"
    rest = "\n".join(lines[size:]).strip().splitlines()
    if not rest:
        return "no question below the table"
    parts = _parts(rest, {"question": _QUESTION, "answer": _ANSWER})
    if isinstance(parts, str):
        return parts
    if [name for name, _ in parts] != ["question", "answer"]:
        return "not one question and one answer below the table"
    return _empty_part(parts) or _trailer(parts[-1])


def _tutorial_flaw(lines: list[str]) -> str | None:
    """A heading, then at least two steps that are numbered from 1 without a gap."""
    underlined = len(lines) > 1 and _UNDERLINE.fullmatch(lines[1].strip())
    if _STEP.fullmatch(lines[0]) or not (_HEADING.fullmatch(lines[0].strip()) or underlined):
        return "no heading at the start"
    if not _words(lines[0]):
        return "an empty heading"
    expected = 1
    for index, line in enumerate(lines[1:], 1):
        step = _STEP.fullmatch(line)  # an indented number belongs to a list inside a step
        if step is None:
            continue
        if int(step["number"]) != expected:
            return "steps out of order"
        following = next((other for other in lines[index + 1 :] if other.strip()), "")
        if not _words(step["rest"]) and (not _words(following) or _STEP.fullmatch(following)):
            return "an empty step"
        expected += 1
    return "fewer than two numbered steps" if expected < 3 else None


def _prose_flaw(lines: list[str]) -> str | None:
    return None if any(_words(line) for line in lines) else "no words"


_FLAWS: dict[str, Callable[[list[str]], str | None]] = {
    "faq": _faq_flaw,
    "math": _math_flaw,
    "table": _table_flaw,
    "tutorial": _tutorial_flaw,
    "prose": _prose_flaw,
}


def _parts(lines: list[str], markers: dict[str, re.Pattern[str]]) -> list[tuple[str, list[str]]] | str:
    """The labelled parts with their lines; a string, the flaw, where text stands before the first."""
    parts: list[tuple[str, list[str]]] = []
    for line in lines:
        for name, marker in markers.items():
            match = marker.fullmatch(line.strip())
            if match:
                parts.append((name, [match["rest"]]))
                break
        else:
            if not parts:
                return f"begins with something else than its {next(iter(markers))}"
            parts[-1][1].append(line)
    return parts


def _empty_part(parts: list[tuple[str, list[str]]]) -> str | None:
    return next((f"an empty {name}" for name, body in parts if not _words(" ".join(body))), None)


def _trailer(part: tuple[str, list[str]]) -> str | None:
    """Text behind a blank line after the last answer is an announcement, not the answer."""
    name, body = part
    blank = next((index for index, line in enumerate(body) if index and not line.strip()), len(body))
    if _words(" ".join(body[:blank])) and any(line.strip() for line in body[blank:]):
        return f"something stands behind the last {name}"
    return None


def _cells(line: str) -> list[str]:
    """The cells of a Markdown table row; `\\|` is a character of its cell."""
    inner = re.sub(r"(?<!\\)\|$", "", line.strip().removeprefix("|"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", inner)]
