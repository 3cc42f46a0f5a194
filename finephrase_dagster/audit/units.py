"""Units of measurement behind a number, by which a quantity is recognized in another unit."""

from __future__ import annotations

import re
from typing import NamedTuple

from finephrase_dagster.corpora.quantities import listed

_SIZES = {
    "length": "mm .001 millimeter .001 cm .01 centimeter .01 meter 1 km 1e3 kilometer 1e3 inch .0254 inche .0254"
    " ft .3048 foot .3048 feet .3048 yard .9144 mile 1609.344",
    "weight": "mg .001 milligram .001 g 1 gram 1 kg 1e3 kilogram 1e3 ton 1e6 tonne 1e6 ounce 28.3495 pound 453.592",
    "volume": "ml .001 milliliter .001 liter 1 l 1 gallon 3.78541",
    "time": "second 1 minute 60 hour 3600 day 86400 week 604800 month 2629746 year 31556952 decade 315569520",
    "number": "hundred 100 thousand 1e3 million 1e6 billion 1e9 trillion 1e12",
}
_MEASURES = {
    unit: (kind, float(size))
    for kind, sizes in _SIZES.items()
    for unit, size in zip(listed(sizes)[::2], listed(sizes)[1::2], strict=True)
}
_PER = re.compile(r" ?/ ?([a-z]+)| (?:per|an?|each|every) ([a-z]+)")
_WORD = re.compile(r"[-*_ \u00a0]*([A-Za-z]+)")
_DEGREES = re.compile(r" ?(?:\u00b0|\u00ba|degrees?) ?([CF])", re.IGNORECASE)
_METERS = re.compile(r"[ \u00a0-]?m\b(?!\w)")


class Unit(NamedTuple):
    """What a unit measures, its size in the kind's basic unit, and the word after "per" of a rate, or nothing."""

    kind: str
    size: float
    rate: str


def unit_after(text: str, end: int) -> Unit | None:
    """Return the unit after a number that ends at a place; "m" alone, which may stand for million, is none."""
    if not (match := _WORD.match(text, end)):
        return None
    word = match[1].lower().removesuffix("s") if len(match[1]) > 2 else match[1]
    measure = _MEASURES.get(word.replace("metre", "meter").replace("litre", "liter"))
    rate = _PER.match(text, match.end())
    return Unit(*measure, (rate[1] or rate[2]) if rate else "") if measure else None


def unit_or_meters_after(text: str, end: int) -> Unit | None:
    """Return the unit after a number, where "m" is meters."""
    return Unit("length", 1.0, "") if _METERS.match(text, end) else unit_after(text, end)


def degrees_after(text: str, end: int) -> str | None:
    """Return "c" or "f" after a temperature."""
    match = _DEGREES.match(text, end)
    return match[1].lower() if match else None
