"""Word problems by rule: quantities of a text, a situation, and the calculation that solves it.

The numbers are what the text says of itself (so many sections, so many mentions of a word) and what it
counts; only a rate, such as minutes a section, is made up, and stated.
"""

from __future__ import annotations

from random import Random

from finephrase_dagster.generators.outline import Outline, shorten

_PEOPLE = (
    "Ana",
    "Ben",
    "Carla",
    "Dev",
    "Emil",
    "Fatma",
    "Goran",
    "Hana",
    "Ida",
    "Jonas",
    "Lea",
    "Mira",
    "Noor",
    "Otto",
)


def _counted(found: Outline) -> list[tuple[int, str]]:
    """Numbers and what they count, at least two."""
    counted = [(quantity.number, quantity.noun) for quantity in found.quantities]
    for values, noun in (
        (found.sections, "sections"),
        (found.items, "list items"),
        (found.commands, "lines of code"),
        (found.sentences, "sentences"),
        (found.definitions, "definitions"),
    ):
        if len(values) >= 2:
            counted.append((len(values), noun))
    counted += [(count, f"mention{'s' * (count > 1)} of {word}") for word, count in found.words[:3]]
    if found.words:
        word = found.words[0][0]
        counted.append((len(word), f"letters in the word {word}"))
    return counted


def problem(found: Outline, rng: Random) -> str | None:
    """A problem of two or three steps with its worked solution; None where nothing can be counted."""
    counted = _counted(found)
    if len(counted) < 2:
        return None
    (first, one), (second, other) = rng.sample(counted, 2)
    title = shorten(found.title, 36)
    return rng.choice((_time, _total, _rest, _copies))(title, (first, one), (second, other), rng)


def _written(statement: str, steps: list[str], answer: str) -> str:
    return "\n".join([f"Problem: {statement}", "", "Solution:", *steps, "", f"Answer: {answer}"])


def _time(title: str, first: tuple[int, str], second: tuple[int, str], rng: Random) -> str:
    (a, one), (b, other) = first, second
    c, d = rng.randint(2, 6), rng.randint(2, 6)
    person = rng.choice(_PEOPLE)
    statement = rng.choice(
        (
            f"{person} studies {title}. There are {a} {one} and {b} {other}.",
            f"A page on {title} has {a} {one} and {b} {other}.",
            f"In {title} there are {a} {one} and {b} {other}.",
        )
    )
    statement += f" Each of the first takes {c} minutes and each of the second {d}. How many minutes is that in all?"
    return _written(
        statement,
        [f"{a} x {c} = {a * c}", f"{b} x {d} = {b * d}", f"{a * c} + {b * d} = {a * c + b * d}"],
        f"{a * c + b * d} minutes",
    )


def _total(title: str, first: tuple[int, str], second: tuple[int, str], rng: Random) -> str:
    (a, one), (b, other) = first, second
    c = rng.randint(2, 9)
    statement = rng.choice(
        (
            f"The text on {title} has {a} {one} and {b} {other}.",
            f"Suppose that {title} comes with {a} {one} and {b} {other}.",
            f"{rng.choice(_PEOPLE)} counts {a} {one} and {b} {other} in {title}.",
        )
    )
    statement += f" A second page has {c} more of both together. How many are there on the two pages?"
    total = a + b
    return _written(
        statement,
        [f"{a} + {b} = {total}", f"{total} + {c} = {total + c}", f"{total} + {total + c} = {2 * total + c}"],
        str(2 * total + c),
    )


def _rest(title: str, first: tuple[int, str], second: tuple[int, str], rng: Random) -> str:
    (a, one), (b, other) = first, second
    person, done = rng.choice(_PEOPLE), rng.randint(1, max(1, min(a + b - 1, 9)))
    statement = rng.choice(
        (
            f"{person} wants to go through {a} {one} and {b} {other} of {title}.",
            f"To learn {title}, {person} has {a} {one} and {b} {other} to read.",
            f"Of {title}, {person} marks {a} {one} and {b} {other}.",
        )
    )
    statement += f" After a day {done} of them are done. How many are left?"
    return _written(statement, [f"{a} + {b} = {a + b}", f"{a + b} - {done} = {a + b - done}"], str(a + b - done))


def _copies(title: str, first: tuple[int, str], second: tuple[int, str], rng: Random) -> str:
    (a, one), (b, other) = first, second
    copies = rng.randint(2, 5)
    statement = rng.choice(
        (
            f"One copy of the text on {title} holds {a} {one} and {b} {other}.",
            f"{title} holds {a} {one} and {b} {other}.",
            f"Each reader of {title} meets {a} {one} and {b} {other}.",
        )
    )
    statement += f" How many of both together do {copies} copies hold?"
    return _written(
        statement, [f"{a} + {b} = {a + b}", f"{copies} x {a + b} = {copies * (a + b)}"], str(copies * (a + b))
    )
