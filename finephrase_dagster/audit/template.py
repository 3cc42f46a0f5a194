"""Templates of sentences: words that many sentences have in the same order, with other words in the slots between."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

SLOT = "..."
FEWEST_ROWS = 10  # that must have a template in common
FEWEST_WORDS = 4  # of a template, apart from its slots; and no less than half of a sentence that has it
FEWEST_OWN = 2  # words of a template that are found mostly in it: "the ... of the ..." is grammar, no template
FEWEST_IN_ALL = 7  # words and own words
_RARER = (1, 2, 4, 8)  # times the share of a template: words that so few sentences have fill a slot
_SEED = 0.125  # of the share of a template: the sentences that differ in its slots by rare words alone
_SEEDS = 30
_SLOT_WORDS = 6  # the most that fill a slot
_ANY = rf"\S+(?: \S+){{0,{_SLOT_WORDS - 1}}}"


@dataclass(frozen=True)
class Template:
    """Words with slots between them, and the share of the sentences that have it.

    Attributes:
        parts: the words, and `SLOT` in place of others.
    """

    parts: tuple[str, ...]
    share: float = 0.0

    @cached_property
    def words(self) -> list[str]:
        """The words without the slots."""
        return [part for part in self.parts if part != SLOT]

    @property
    def text(self) -> str:
        """The words and slots, for people."""
        return " ".join(self.parts)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(" ".join(_ANY if part == SLOT else re.escape(part) for part in self.parts))

    def fits(self, sentence: str) -> bool:
        """Return whether a sentence, as words with single spaces, has the template."""
        return 2 * len(self.words) > sentence.count(" ") and self._pattern.fullmatch(sentence) is not None


def templates(sentences: Sequence[str], share: float) -> list[Template]:
    """Return the templates that more than a share of some sentences have, the most common first.

    A template whose sentences mostly have a more common one is left out. Memory and time grow with the number of the
    sentences; ten thousand take about a second.
    """
    frequency = Counter(word for sentence in sentences for word in set(sentence.split(" ")))
    chosen = []
    for parts in _seeds(sentences, frequency, share):
        template = Template(parts)
        rows = {row for row, sentence in enumerate(sentences) if template.fits(sentence)}
        own = sum(2 * len(rows) >= frequency[word] for word in set(template.words))
        is_own = own >= FEWEST_OWN and own + len(template.words) >= FEWEST_IN_ALL
        if is_own and len(rows) > max(share * len(sentences), FEWEST_ROWS - 1):
            chosen.append((rows, Template(parts, len(rows) / len(sentences))))
    chosen.sort(key=lambda one: (-len(one[0]), one[1].parts))
    covered = set[int]()
    result = []
    for rows, template in chosen:
        if 2 * len(rows - covered) > len(rows):
            result.append(template)
            covered |= rows
    return result


def _seeds(sentences: Sequence[str], frequency: Counter[str], share: float) -> Iterator[tuple[str, ...]]:
    """Yield what may be templates: sentences with slots in place of their rare words."""
    counts = Counter[tuple[str, ...]]()
    for factor in _RARER:
        common = {word for word, count in frequency.items() if count > factor * share * len(sentences)}
        for sentence in sentences:
            filled = groupby(sentence.split(" "), key=common.__contains__)
            parts = tuple(part for is_common, words in filled for part in (words if is_common else (SLOT,)))
            if len(parts) - parts.count(SLOT) >= FEWEST_WORDS and SLOT in parts:
                counts[parts] += 1
    fewest = max(_SEED * share * len(sentences), 2)
    seeds = [parts for parts, count in counts.items() if count > fewest]
    yield from sorted(seeds, key=lambda parts: (-counts[parts] * len(parts), parts))[:_SEEDS]
