"""The forms of completions: one rule per value of a prompt's field `check`.

A form is the part of a prompt's request that a program can decide: which parts a completion has, in which order, and
that there is nothing before or after them. Markdown marks (bold markers, heading marks, "Step 1:") are allowed, since
the parts remain recognisable. Whether the content is true is not checked.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from finephrase_dagster.corpora.quantities import NUMBER_WORDS

MOST_PAIRS = 8  # the most questions with answers that the check `qa_pairs` allows

_DRESS = r"(?:\#{1,6}[ ]+)?[*_]{0,2}"


def _marker(words: str) -> re.Pattern[str]:
    """Match a line that begins with a label and a colon: `Q:`, `**Q:**`, `**Q**:`, `### Q1:`."""
    return re.compile(rf"{_DRESS}(?:{words})[*_]{{0,2}}[ ]?:[*_]{{0,2}}(?P<rest>.*)", re.IGNORECASE)


_QUESTION = _marker(r"Q(?:uestion)?[ ]?\d*")
_ANSWER = _marker(r"A(?:nswer)?[ ]?\d*")
_PROBLEM = _marker(r"Problem(?:[ ]statement)?")
_SOLUTION = _marker(r"Solution")
_RESULT = _marker(r"(?:Final[ ])?Answer")
_NUMBER = re.compile(rf"\d|\b(?:{'|'.join(sorted(NUMBER_WORDS))})", re.IGNORECASE)
_SEPARATOR_CELL = re.compile(r":?-+:?")
_HEADING = re.compile(r"\#{1,6}[ ]+\S.*|(?P<bold>\*\*|__)(?!\s).+(?P=bold)")
_UNDERLINE = re.compile(r"=+|-+")
_STEP = re.compile(rf"{_DRESS}(?:Step[ ])?(?P<number>\d+)[*_]{{0,2}}[.):](?P<rest>.*)", re.IGNORECASE)
_ITEM_MARK = re.compile(r"\s*(?:[-*+\u2022]|\d{1,3}[.)])(?:\s+|$)")
_NUMBERED_PAIR = re.compile(rf"{_ITEM_MARK.pattern}{_DRESS}[QA]", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\u0964\u061f][\"'\u201d\u2019)*_\]]*(?=\s|$|[^\x00-\u2fff])")
_SPEAKER = re.compile(
    rf"{_DRESS}(?P<speaker>[^\W\d_][\w.'\u2019-]*(?:[ ][\w.'\u2019-]+){{0,3}})[*_]{{0,2}}(?:[ ]?\([^()]*\))?"
    r"[*_]{0,2}[ ]?:[*_]{0,2}(?!//)(?P<rest>.*)"
)


def has_form(check: str, text: str) -> bool:
    """Return whether a completion has the form of a prompt's check.

    Raises:
        KeyError: there is no such check.
    """
    return form_flaw(check, text) is None


def form_flaw(check: str, text: str) -> str | None:
    """Return why a completion does not have the form of a check; None if it has it.

    Raises:
        KeyError: there is no such check.
    """
    lines = text.strip().splitlines()
    return "empty" if not lines else FORMS[check](lines)


def _words(text: str) -> str:
    """Return a text without Markdown marks."""
    return text.strip(" \t*_#-")


def _faq_flaw(lines: list[str]) -> str | None:
    """Require at least two questions, each followed by its answer, and nothing before, between or after them."""
    parts = _parts(lines, {"question": _QUESTION, "answer": _ANSWER})
    if isinstance(parts, str):
        return parts
    if [name for name, _ in parts] != ["question", "answer"] * (len(parts) // 2):
        return "questions and answers do not alternate"
    if len(parts) < 4:
        return "fewer than two questions with answers"
    return _empty_part(parts) or _trailer(parts[-1])


def _math_flaw(lines: list[str]) -> str | None:
    """Require problem, solution and answer, in this order, each with a number."""
    parts = _parts(lines, {"problem": _PROBLEM, "solution": _SOLUTION, "answer": _RESULT})
    if isinstance(parts, str):
        return parts
    names = [name for name, _ in parts]
    # The prompt asks for lines that begin with "Problem:", so there may be several.
    if names[:1] != ["problem"] or names[-2:] != ["solution", "answer"] or set(names[:-2]) != {"problem"}:
        return "not a problem, a solution and an answer in this order"
    for part in ("problem", "solution", "answer"):
        if not any(_NUMBER.search(line) for name, body in parts if name == part for line in body):
            return f"no number in the {part}"
    return _empty_part(parts) or _trailer(parts[-1])


def _table_flaw(lines: list[str]) -> str | None:
    """Require a table whose rows have as many cells as the header, then one question and its answer."""
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
    if not all(any(row) for row in rows):
        return "an empty row"
    if len(rows) > 1 and any(not any(row[place] for row in rows) for place in range(len(header))):
        return "an empty column"
    if not all(header[1:]):  # the title of the first column may be left out
        return "a column without a title"
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
    """Require a heading, then at least two steps that are numbered from 1 without a gap."""
    underlined = len(lines) > 1 and _UNDERLINE.fullmatch(lines[1].strip())
    if _STEP.fullmatch(lines[0]) or not (_HEADING.fullmatch(lines[0].strip()) or underlined):
        return "no heading at the start"
    if not _words(lines[0]):
        return "an empty heading"
    expected = 1
    for index, line in enumerate(lines[1:], 1):
        step = _STEP.fullmatch(line)  # an indented number belongs to a list within a step
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


def _paragraphs_flaw(lines: list[str]) -> str | None:
    """Require sentences in paragraphs: no list, no table, no labelled lines. Headings are allowed."""
    filled = [line.strip() for line in lines if line.strip()]
    if sum(line.startswith("|") for line in filled) > 1:
        return "a table in place of paragraphs"
    if sum(_ITEM_MARK.match(line) is not None for line in filled) > 1:
        return "a list in place of paragraphs"
    labelled = sum(_SPEAKER.fullmatch(line) is not None for line in filled)
    if 2 * labelled >= len(filled) and (labelled > 1 or len(filled) == 1):  # one "Note: ..." may be a paragraph
        return "labelled lines in place of paragraphs"
    return None if sum(len(_SENTENCE_END.findall(line)) for line in filled) > 1 else "fewer than two sentences"


def _qa_pairs_flaw(lines: list[str]) -> str | None:
    """Require one to eight questions, each followed by its answer, numbered or not, and nothing around them."""
    parts = _parts(
        [_ITEM_MARK.sub("", line) if _NUMBERED_PAIR.match(line) else line for line in lines],
        {"question": _QUESTION, "answer": _ANSWER},
    )
    if isinstance(parts, str):
        return parts
    if [name for name, _ in parts] != ["question", "answer"] * (len(parts) // 2):
        return "questions and answers do not alternate"
    if len(parts) > 2 * MOST_PAIRS:
        return f"more than {MOST_PAIRS} questions"
    return _empty_part(parts) or _trailer(parts[-1])


def _list_flaw(lines: list[str]) -> str | None:
    """Require at least two bullets or numbers with their texts, and nothing before, between or after them."""
    items: list[list[str]] = []
    after_blank = False
    for line in lines:
        mark = _ITEM_MARK.match(line)
        if mark:
            items.append([line[mark.end() :]])
        elif not items:
            return "begins with something other than an item"
        elif line.strip() and after_blank and not line[0].isspace():
            return "text between or after the items"
        else:
            items[-1].append(line)
        after_blank = not line.strip()
    if any(not _words(" ".join(item)) for item in items):
        return "an empty item"
    return "fewer than two items" if len(items) < 2 else None


def _dialogue_flaw(lines: list[str]) -> str | None:
    """Require speeches that begin with a name and a colon; speakers alternate, and two of them speak twice."""
    speeches: list[tuple[str, list[str]]] = []
    speakers: list[str] = []
    for line in lines:
        match = _SPEAKER.fullmatch(line.strip())
        # A name begins with a capital: "he said this: ..." is part of a speech.
        if match and not match["speaker"][0].islower():
            speakers.append(match["speaker"].casefold())
            speeches.append(("speech", [match["rest"]]))
        elif not speeches:
            return "begins with something other than a speaker"
        else:
            speeches[-1][1].append(line)
    if sum(count > 1 for count in Counter(speakers).values()) < 2:
        return "fewer than two speakers who take turns"
    if any(one == next_one for one, next_one in pairwise(speakers)):
        return "a speaker speaks twice in a row"
    return _empty_part(speeches) or _trailer(speeches[-1])


FORMS: dict[str, Callable[[list[str]], str | None]] = {
    "faq": _faq_flaw,
    "math": _math_flaw,
    "table": _table_flaw,
    "tutorial": _tutorial_flaw,
    "qa_pairs": _qa_pairs_flaw,
    "list": _list_flaw,
    "dialogue": _dialogue_flaw,
    "paragraphs": _paragraphs_flaw,
    "prose": _prose_flaw,
}


def _parts(lines: list[str], markers: dict[str, re.Pattern[str]]) -> list[tuple[str, list[str]]] | str:
    """Return the labelled parts with their lines, or a flaw if there is text before the first part."""
    parts: list[tuple[str, list[str]]] = []
    for line in lines:
        for name, marker in markers.items():
            match = marker.fullmatch(line.strip())
            if match:
                parts.append((name, [match["rest"]]))
                break
        else:
            if not parts:
                return f"begins with something other than its {next(iter(markers))}"
            parts[-1][1].append(line)
    return parts


def _empty_part(parts: list[tuple[str, list[str]]]) -> str | None:
    return next((f"an empty {name}" for name, body in parts if not _words(" ".join(body))), None)


def _trailer(part: tuple[str, list[str]]) -> str | None:
    """Return a flaw if text follows the last answer after a blank line: it is an announcement, not the answer."""
    name, body = part
    blank = next((index for index, line in enumerate(body) if index and not line.strip()), len(body))
    if _words(" ".join(body[:blank])) and any(line.strip() for line in body[blank:]):
        return f"text after the last {name}"
    return None


def _cells(line: str) -> list[str]:
    """Return the cells of a Markdown table row; `\\|` is a character of its cell."""
    inner = re.sub(r"(?<!\\)\|$", "", line.strip().removeprefix("|"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", inner)]
