"""Problems: what is wrong with the fields that a person wrote, each with its place and its remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from finephrase_dagster.errors import FinephraseError

Place = tuple[str | int, ...]
"""Where something stands: names of fields and indices of lists, from the outside in."""

SECTIONS = ("generators", "sources", "mixtures", "students")
SHOWN = 20
NAME = "lower-case words joined by single underscores, 64 characters at most"

_TYPES = {
    "string_type": "a text (in quotes where YAML reads it otherwise)",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list ([a, b], or lines that begin with '- ')",
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type"),
        "fields ('name: value', a line each, indented below it)",
    ),
}
"""What belongs where another type stands, by pydantic's name for the mistake."""


class Problem(NamedTuple):
    """One mistake: where it stands, and what is wrong and what to do."""

    place: Place
    message: str


class InvalidFields(FinephraseError, ValueError, exit_status=2):
    """Fields that are right one by one and do not go together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{dotted(place)}: {message}" for place, message in problems))
        self.problems = list(problems)


def found_in(error: ValidationError, fields: object) -> list[Problem]:
    """What a validation found wrong, each mistake once.

    Args:
        fields: what was validated; places are told as they stand there.
    """
    types: dict[tuple[Place, str], list[str]] = {}
    others: list[Problem] = []
    for problem in error.errors(include_url=False):
        place, kind = _place(problem["loc"], fields, problem["type"]), problem["type"]
        if kind == "too_short" and problem["input"]:  # its entries were refused, each by itself
            continue
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, InvalidFields):
            others += [Problem((*place, *inner), message) for inner, message in cause.problems]
        elif kind in _TYPES:
            wanted = types.setdefault((place, shown(problem["input"])), [])
            if _TYPES[kind] not in wanted:  # a union says the same of several of its members
                wanted.append(_TYPES[kind])
        else:
            others.append(Problem(place, _message(kind, problem["msg"], problem["input"])))
    wrong = [Problem(place, f"is {value}; must be {' or '.join(wanted)}") for (place, value), wanted in types.items()]
    return list(dict.fromkeys([*wrong, *others]))


def told(problems: Iterable[Problem]) -> list[str]:
    """A line a mistake; the same mistake in several entries of a section is one line."""
    grouped: dict[tuple[Place, str], list[str]] = {}
    for place, message in problems:
        named = len(place) > 1 and place[0] in SECTIONS
        key = (place[0], "", *place[2:]) if named else place
        names = grouped.setdefault((key, message), [])
        if named and str(place[1]) not in names:
            names.append(str(place[1]))
    lines = []
    for (place, message), names in grouped.items():
        if names:
            entry = names[0] if len(names) == 1 else f"{{{shortened(names, 5)}}}"
            place = (place[0], entry, *place[2:])
        lines.append(f"{dotted(place)}: {message}" if place else message)
    return lines


def dotted(place: Place) -> str:
    """A place as people write it: `cells[0].prompts`."""
    parts = [part if isinstance(part, int) or (part and part.isprintable()) else shown(part) for part in place]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def unknown(name: object, names: Iterable[str]) -> str:
    """That there is nothing of a name, and what could have been meant."""
    known = list(names)
    near = difflib.get_close_matches(name, known[:1000], n=3) if isinstance(name, str) else []
    meant = f"did you mean {' or '.join(near)}?" if near else f"known: {shortened(known) or 'none'}"
    return f"there is no {shown(name)}; {meant}"


def shortened(names: Sequence[str], most: int = SHOWN) -> str:
    """Names with commas between them, the first ones of many."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def shown(value: object) -> str:
    """A value as YAML would write it, in a few words."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a set of fields"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def has(value: object, part: str | int) -> bool:
    """Whether fields or a list have such an entry."""
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value)


def _place(where: Place, fields: object, kind: str) -> Place:
    """A place without what pydantic puts into it: the names of a union's members, and that a key is meant."""
    place: list[str | int] = []
    value: Any = fields
    for index, part in enumerate(where):
        if has(value, part):
            value = value[part]
        elif not (kind == "missing" and index == len(where) - 1):
            continue
        place.append(part)
    return tuple(place)


def _message(kind: str, said: str, value: Any) -> str:
    if kind == "missing":
        return "is missing; add it"
    if kind == "extra_forbidden":
        return "is not a field here; remove it or correct its name"
    if kind in ("too_short", "string_too_short"):
        return "is empty; write at least one" if kind == "too_short" else "is empty; write it"
    if kind in ("string_pattern_mismatch", "string_too_long"):
        return f"{shown(value)} is no name; write {NAME}"
    if said.startswith("Input should be "):
        return f"is {shown(value)}; must be {said.removeprefix('Input should be ')}"
    return said.removeprefix("Value error, ")
