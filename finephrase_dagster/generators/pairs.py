"""Restructured documents by rule: what the embedded generator learns to write.

A text's outline is restated as questions, a table, a tutorial or prose; `problems.py` makes the word
problems. The wording varies with the random generator, the content comes from the text: its terms,
sections, items, commands, numbers, and where it has none of these, its words and how often they stand.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import TypeVar

from finephrase_dagster.generators.outline import Definition, Outline, shorten
from finephrase_dagster.generators.problems import problem

# Short enough that a model of this size copies it whole, so that a question ends as one.
_NAMING = re.compile(r"(?<![\w-])[A-Za-z]{4,14}(?![\w-])")
SENTENCE = 120  # characters a restated sentence may have
TITLE = 28  # characters a title may have within a question or a heading
CELL = 34  # characters a table's cell may have

T = TypeVar("T")
Pieces = list[tuple[str, str]]
Table = tuple[tuple[str, str, str], Pieces, str]


def derive(format: str, found: Outline, *, rng: Random) -> str | None:
    """A text restated in a format; None where its outline gives too little for it.

    Args:
        format: `faq`, `math`, `table`, `tutorial` or `prose`.
        found: the outline of a document or of a window of one.
        rng: chooses content and wording.

    Raises:
        KeyError: there is no such format.
    """
    compose = _COMPOSERS[format]
    return compose(found, rng) if found.words else None


def _base(verb: str) -> str:
    """The verb as it stands behind "does"."""
    return verb if verb in ("is", "are") else verb.removesuffix("s")


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _listed(values: list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"


def _some(values: tuple[T, ...], count: int, rng: Random) -> list[T]:
    """At most `count` of the values, in the order of the text."""
    chosen = sorted(rng.sample(range(len(values)), min(count, len(values))))
    return [values[index] for index in chosen]


def _about_definition(definition: Definition, rng: Random) -> tuple[str, str]:
    term, verb = definition.term, definition.verb
    if verb in ("is", "are"):
        question = rng.choice(
            (
                f"What {verb} {term}?",
                f"How would you describe {term}?",
                f"Can you explain {term} in a sentence?",
                f"In short, what {verb} {term}?",
            )
        )
    else:
        question = rng.choice(
            (
                f"What does {term} {_base(verb)}?",
                f"Which thing does {term} {_base(verb)}?",
                f"Why would somebody use {term}?",
            )
        )
    return question, _ended(shorten(definition.sentence, SENTENCE))


def _questions(found: Outline, rng: Random) -> Pieces:
    """Questions with their answers, from what a newcomer asks first to the finer points."""
    title = shorten(found.title, TITLE)
    pieces = [_about_definition(definition, rng) for definition in _some(found.definitions, 2, rng)]
    for sentence in _some(found.sentences, 2, rng):
        word = max(_NAMING.findall(sentence) or [title], key=len)
        question = rng.choice(
            (
                f"What should one know about {word}?",
                f"How does {title} relate to {word}?",
                f"Why is {word} mentioned for {title}?",
                f"Where does {word} come in?",
            )
        )
        pieces.append((question, _ended(shorten(sentence, SENTENCE))))
    if found.sections:
        names = _listed([shorten(name, 30) for name in _some(found.sections, 3, rng)])
        question = rng.choice((f"Which topics belong to {title}?", f"What parts does the page on {title} have?"))
        pieces.append((question, f"The page on {title} has parts on {names}."))
    if found.commands:
        command = rng.choice(found.commands)
        question = rng.choice((f"How do you work with {title}?", f"Which line of code goes with {title}?"))
        pieces.append((question, f"For {title}, write `{shorten(command, 48)}`."))
    if found.items:
        item = shorten(rng.choice(found.items), 80)
        question = rng.choice((f"What is a point about {title}?", f"Is there a point to note about {title}?"))
        pieces.append((question, f"One point about {title} is this: {_ended(item)}"))
    if found.quantities:
        quantity = rng.choice(found.quantities)
        pieces.append((f"How many {quantity.noun} are there?", f"{title} speaks of {quantity.number} {quantity.noun}."))
    for word, count in _some(found.words[:4], 2 if len(pieces) < 2 else 0, rng):
        question = rng.choice(
            (
                f"How often does {title} mention {word}?",
                f"Does {title} mention {word}?",
                f"Is {word} a word that belongs to {title}?",
                f"Can one find {word} in {title}?",
                f"In {title}, how many times does {word} stand?",
            )
        )
        pieces.append((question, f"The word {word} stands {count} time{'s' * (count > 1)} in {title}."))
    by_answer = {answer: question for question, answer in pieces}
    return list({question: answer for answer, question in by_answer.items()}.items())


def _faq(found: Outline, rng: Random) -> str | None:
    pieces = _questions(found, rng)
    if len(pieces) < 2:
        return None
    chosen = _some(tuple(pieces), rng.choice((2, 3, 3)), rng)
    if rng.random() < 0.4:  # any question may come first, lest all completions open alike
        rng.shuffle(chosen)
    return "\n\n".join(f"Q: {question}\nA: {answer}" for question, answer in chosen)


def _cell(text: str) -> str:
    return shorten(" ".join(text.replace("|", "/").split()), CELL)


def _tables(found: Outline) -> list[Table]:
    """Tables that the text allows: header names, rows of two cells, and what is asked of a row."""
    tables: list[Table] = []
    if len(found.definitions) >= 2:
        rows = [(definition.term, f"{definition.verb} {definition.rest}") for definition in found.definitions]
        tables.append((("Term", "Name", "Subject"), rows, "What does the table say of {}?"))
    if len(found.fields) >= 2:
        tables.append((("Field", "Property", "Entry"), list(found.fields), "Which value does {} have?"))
    if len(found.items) >= 2:
        tables.append((("Point", "No.", "Item"), _numbered(found.items), "What is item {}?"))
    if len(found.sections) >= 2:
        rows = [(section, str(number)) for number, section in enumerate(found.sections, 1)]
        tables.append((("Section", "Topic", "Part"), rows, "At which place does {} stand?"))
    if len(found.commands) >= 2:
        tables.append((("Line", "Step", "Command"), _numbered(found.commands), "Which code is in line {}?"))
    if len(found.sentences) >= 2:
        tables.append((("Fact", "Statement", "Key fact"), _numbered(found.sentences), "What is fact {}?"))
    if len(found.words) >= 2:
        rows = [(word, str(count)) for word, count in found.words]
        tables.append((("Word", "Key word", "Mention"), rows, "How often does {} occur?"))
    return tables


def _numbered(values: tuple[str, ...]) -> Pieces:
    return [(str(number), value) for number, value in enumerate(values, 1)]


_VALUES = {
    "Term": ("Meaning", "Description"),
    "Field": ("Value", "Content"),
    "Point": ("Text", "What it says"),
    "Section": ("Place", "Position"),
    "Line": ("Code", "Content"),
    "Fact": ("What is said", "Detail"),
    "Word": ("Count", "Times"),
}


def _table(found: Outline, rng: Random) -> str | None:
    tables = _tables(found)
    if not tables:
        return None
    # The last ones are the fallbacks: words can be counted in any text.
    names, rows, question = rng.choice(tables[:-1] if len(tables) > 1 and rng.random() < 0.8 else tables)
    shortened = [(_cell(left), _cell(right)) for left, right in rows]
    cells = list({left: right for left, right in shortened if left and right}.items())
    if len(cells) < 2:
        return None
    chosen = _some(tuple(cells), rng.choice((2, 3, 3, 4)), rng)
    header = (rng.choice(names), rng.choice(_VALUES[names[0]]))
    lines = [f"| {left} | {right} |" for left, right in (header, ("---", "---"), *chosen)]
    asked, answer = rng.choice(chosen)
    return "\n".join([*lines, "", f"Q: {question.format(asked)}", f"A: {_ended(answer)}"])


def _steps(found: Outline, rng: Random) -> Pieces:
    """Steps with their reasons."""
    steps: Pieces = []
    for definition in _some(found.definitions, 2, rng):
        steps.append(
            (
                f"Learn what {definition.term} {_base(definition.verb)}",
                _ended(shorten(definition.sentence, 90)),
            )
        )
    for section in _some(found.sections, 2, rng):
        start = rng.choice(("Read the part on", "Turn to", "Look at"))
        steps.append(
            (
                f"{start} {shorten(section, 34)}",
                rng.choice(("It shows what comes next.", "Later steps rest on it.")),
            )
        )
    for command in _some(found.commands, 2, rng):
        start = rng.choice(("Write", "Enter", "Try"))
        reason = rng.choice(("It makes the rest work.", "You see at once what it does."))
        steps.append((f"{start} `{shorten(command, 44)}`", reason))
    for item in _some(found.items, 2, rng):
        reason = rng.choice(("It is a point that counts in practice.", "You will meet it again."))
        steps.append((f"{rng.choice(('Note', 'Keep in mind'))}: {shorten(item, 70).rstrip('.')}", reason))
    for sentence in _some(found.sentences, 2, rng):
        start = rng.choice(("Understand the purpose", "Know the background", "Get the idea"))
        steps.append((start, _ended(shorten(sentence, 90))))
    for word, count in _some(found.words[:5], 3 if len(steps) < 3 else 0, rng):
        start = rng.choice(("Find the word", "Look up", "Get to know"))
        steps.append((f"{start} {word}", f"It stands {count} time{'s' * (count > 1)}, so it matters."))
    return list(dict(steps).items())


def _tutorial(found: Outline, rng: Random) -> str | None:
    steps = _steps(found, rng)
    if len(steps) < 2:
        return None
    title = shorten(found.title, TITLE)
    heading = rng.choice(
        (
            f"# How to use {title}",
            f"# Get started with {title}",
            f"# Learn {title}",
            f"# Understand {title}",
            f"# {title}: first steps",
            f"# You can work with {title}",
            f"# Take up {title} step by step",
            f"# Make sense of {title}",
        )
    )
    chosen = _some(tuple(steps), 3, rng)
    lines = [f"{number}. {step}. {reason}" for number, (step, reason) in enumerate(chosen, 1)]
    return "\n".join([heading, "", *lines])


def _prose(found: Outline, rng: Random) -> str | None:
    sentences = [_ended(sentence) for sentence in _some(found.sentences, 3, rng)]
    if not sentences:
        words = _listed([word for word, _ in found.words[:4]])
        sentences = [
            f"{rng.choice(('The subject is', 'This is about'))} {found.title}.",
            f"It speaks of {words}.",
        ]
    return " ".join(sentences)


_COMPOSERS: dict[str, Callable[[Outline, Random], str | None]] = {
    "faq": _faq,
    "math": problem,
    "table": _table,
    "tutorial": _tutorial,
    "prose": _prose,
}
