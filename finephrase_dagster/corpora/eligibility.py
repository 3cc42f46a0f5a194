"""Eligibility: whether a document has what a prompt requires, such as quantities for a word problem.

The rules are part of the recipe of a dataset; raise `ELIGIBILITY` in `artifacts/versions.py` when one changes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from finephrase_dagster.corpora.quantities import NUMBER_WORDS, in_digits, in_words, quantity

NOT_ELIGIBLE = "not eligible: "
"""The beginning of the reason of a row that was skipped because its document does not have what its prompt requires."""
_WORD = re.compile(r"\S+")
_LETTERS = re.compile(r"[a-z]+")


def _quantities(text: str) -> Iterator[float]:
    """Yield the values of numbers in digits and words; a version such as 3.11.2 has none."""
    for match in in_digits(text):
        yield from quantity(match).values[:1]
    for spelled in in_words(text, NUMBER_WORDS.intersection(_LETTERS.findall(text.lower()))):
        yield from spelled.values[:1]


MEASURES: Mapping[str, Callable[[str], Iterator[object]]] = {
    "quantities": _quantities,
    "words": lambda text: (match.start() for match in _WORD.finditer(text)),
}
"""What a prompt can require so many of, each different from the others; `study.prompt.REQUIRED` has their names."""


def not_eligible(text: str, requires: Mapping[str, int]) -> str | None:
    """Return why a document is not eligible, such as "not eligible: fewer than 3 quantities"; None if it is."""
    for name, least in requires.items():
        seen: set[object] = set()
        for one in MEASURES[name](text):
            seen.add(one)
            if len(seen) == least:
                break
        else:
            return f"{NOT_ELIGIBLE}fewer than {least} {name}"
    return None
