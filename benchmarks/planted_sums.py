"""Arithmetic statements, right or wrong, in many ways of writing them."""

from __future__ import annotations

import random
from fractions import Fraction

from finephrase_dagster.corpora.quantities import listed

ONES = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
UNITS = ("apples", "km", "kg", "pages", "hours", "liters", "boxes", "meters")
NAMES = ("Anna", "Omar", "Rosa", "Mary")
KINDS = 46


def spelled(number: int) -> str:
    """Return a whole number below 1,000 in words."""
    if number < 20:
        return ONES[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{ONES[number % 10]}" if number % 10 else "")
    return f"{ONES[number // 100]} hundred" + (f" and {spelled(number % 100)}" if number % 100 else "")


def decimal(value: Fraction) -> str:
    """Return a number with as few decimals as it needs."""
    return f"{float(value):,.3f}".rstrip("0").rstrip(".")


def statement(draw: random.Random, kind: int, *, wrong: bool) -> str:
    """Return a statement of one of `KINDS` kinds."""
    a, b, c = draw.randint(12, 60), draw.randint(3, 11), draw.randint(2, 9)
    unit, name, sign = draw.choice(UNITS), draw.choice(NAMES), draw.choice("\u00d7*x")
    off = draw.choice((1, 2, -1, 10)) if wrong else 0
    quotient, half = a * b // b + off, Fraction(a, 2)
    tenths = Fraction(draw.randint(11, 95), 10)
    percent = draw.choice((10, 20, 25, 50))
    base = draw.choice((40, 80, 120, 200, 360))
    part = decimal(Fraction(base * percent, 100) + off)
    price = Fraction(draw.randint(101, 999), 100)
    return (
        f"{a} + {b} = {a + b + off}",
        f"{a} {sign} {b} = {a * b + off}",
        f"{a} \u2212 {b} = {a - b + off}",
        f"{a * b} \u00f7 {b} = {quotient}",
        f"{a * b} / {b} = {quotient}",
        f"{a}+{b}={a + b + off}",
        f"{a} plus {b} is {a + b + off}.",
        f"{a} times {b} equals {a * b + off}.",
        f"{a} minus {b} leaves {a - b + off}.",
        f"{a * b} divided by {b} gives {quotient}.",
        f"{spelled(a).capitalize()} plus {spelled(b)} equals {spelled(a + b + off)}.",
        f"{spelled(c).capitalize()} times {spelled(b)} is {spelled(c * b + off)}.",
        f"{spelled(a).capitalize()} minus {spelled(b)} is {spelled(a - b + off)}.",
        f"{a} {unit} + {b} {unit} = {a + b + off} {unit}",
        f"{c} boxes {sign} {b} {unit} per box = {c * b + off} {unit}",
        f"${float(price):.2f} \u00d7 {c} = ${float(price * c) + off:.2f}",
        f"{decimal(tenths)} kg + {decimal(half)} kg = {decimal(tenths + half + off)} kg",
        f"{percent}% of {base} is {part}.",
        f"{percent}% of ${base} = ${part}",
        f"{percent} percent of {base} is {part}.",
        f"{c}/{b} + 1/{b} = {c + 1 + off}/{b}",
        f"3/4 of {4 * a} is {3 * a + off}.",
        f"2/3 \u00d7 {3 * a} = {2 * a + off}",
        f"Half of {2 * a} is {a + off}.",
        f"One third of {3 * a} is {a + off}.",
        f"({a} + {b}) \u00d7 {c} = {(a + b) * c + off}",
        f"{a} + {b} \u00d7 {c} = {a + b * c + off}",
        f"{a} + {b} = {a + b}, and {a + b} {sign} {c} = {(a + b) * c + off}.",
        f"{a} + {b} + {c} = {a + b + c + off}",
        f"$$\\frac{{{a * b}}}{{{b}}} = {quotient}$$",
        f"\\( {a} \\times {b} = {a * b + off} \\)",
        f"{b}^2 = {b * b + off}",
        f"The sum of {a} and {b} is {a + b + off}.",
        f"The product of {a} and {b} is {a * b + off}.",
        f"1,{a}0 + {b}50 = {1000 + a * 10 + b * 100 + 50 + off:,}",
        f"{name} had {a} {unit} and got {b} more, so {name} has {a} + {b} = {a + b + off} {unit} now.",
        f"Adding {b} to {a} gives {a + b + off}.",
        f"Subtracting {b} {unit} from {a} {unit} leaves {a - b + off} {unit}.",
        f"Multiplying {a} by {c} gives {a * c + off}.",
        f"Dividing {a * b} by {b} yields {quotient}.",
        f"Twice {a} is {2 * a + off}.",
        f"${percent}\\% \\cdot {base} = {part}$",
        f"{percent} per cent of {base} equals {part}",
        f"{a} + {b} - {c} = {a + b - c + (11 if wrong else 0)} are left over.",
        f"{a * 10} / 7 \u2248 {a * 10 / 7 + (20 if wrong else 0):.2f}",
        f"45 minutes + {b} minutes + 30 minutes = 1 hour {15 + b + off} minutes.",
    )[kind]
