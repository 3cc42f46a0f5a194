"""The gate `invented_quantities`: numbers that the source does not state."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow
from finephrase_dagster.audit.gates.invented_quantities import GATE

SOURCE = """The Millbrook Dam was completed on March 3, 1987 after 1,200 workers had spent 4.5 years on it. It cost
$2.4 million, 25% more than planned, and is 310 feet tall. Its reservoir holds 1.5 billion litres. In 2019 twelve
turbines were replaced; three-quarters of the power, about 66.7 megawatts, goes to 48,350 homes. A ticket costs 7 euros
and a guided tour 95. Opening hours are 9-17."""


def flaw(text: str, source: str = SOURCE) -> str | None:
    return GATE.measure(AuditedDataset(files=[]), GATE.defaults).flaw(AuditedRow("1", text, source_text=source))


@pytest.mark.parametrize(
    "text",
    [
        "1200 people, about 1.2 thousand, some twelve hundred, worked 4.5 years: the 1,200-strong crew.",
        "It opened on 1987-03-03, the 3rd of March, 03/03/1987, in nineteen eighty-seven.",
        "It is a dam of the 1980s, or the 20th century.",
        "It cost 2,400,000 dollars, $2.4M or 2.4 million: a quarter, 25 percent, more than planned.",
        "1,500 million litres; 75% of the power, or 67 megawatts, serves nearly 50,000 homes (over 48,000).",
        "32 years after it opened, in 2019, the turbines were replaced.",
        "1. First, look.\n2. Then go.\n\n**3.** Leave.\n\nStep 4: rest, as in section 12 and figure 14 [15].",
        "Q1: What is it?\nA1: A dam.\n\nQ2: When?\nA2: In 1987.",
        "There are three main reasons, and here are 5 tips. The two others are in the first and second part.",
        "| # | Fact |\n| --- | --- |\n| 1 | 310 feet |\n| 2 | 12 turbines |",
        "Run `wait(55)`, or\n```\nprint(99)\n```\nas https://example.org/2044/55 says of COVID-19, GPT-4 and H2O.",
        "Adults pay 7 and the tour is 95, so 7 + 95 = 102 euros; for 3 people, 102 * 3 = 306, and (7 + 95) × 2 = 204.",
    ],
)
def test_a_quantity_that_the_source_states_in_any_way_is_not_invented(text: str) -> None:
    assert flaw(text) is None


@pytest.mark.parametrize(
    "statement",
    [
        "It was built by 1,300 workers.", "It cost 3.1 million dollars.", "It opened on March 14, 1987.",
        "In 1992 it opened.", "It is 450 feet tall.", "40% of the power is lost.",
        "Forty-seven engineers worked there.", "It weighs 800 tonnes.", "Eight engineers worked there.",
        "It holds 2 billion litres.", "It needs six hours.", "It is from the 18th century.", "Tickets are €15.",
        "Some 90,000 homes are served.", "Nine hundred people live there.", "It stood in the 1960s.",
        "| Height | 97 m |", "- Length: 640 m", "**Depth:** 78m", "Q: How many?\nA: Thirty.",
        "Half a million and 3,000 came.", "7 + 95 = 112 euros in all",
        "Each of 8 people has 11 stones, and 8 * 11 = 88.", "Between 20 and 30 visitors came.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", ["{}", "1. It has 12 turbines.\n2. {}\n3. It serves 48,350 homes."])
def test_a_quantity_that_the_source_does_not_state_is_invented(statement: str, text: str) -> None:
    assert flaw(text.format(statement))


@pytest.mark.parametrize(
    "text",
    [
        "In a run, the press at Tromvik prints 2,008 pages.",
        "Of the lamps in Tromvik, 54 are broken and 306 work.",
        "The line through Tromvik has three stops.",
        "Millions of records are kept in Tromvik.",
        "Problem: 15% of 360 lamps broke.\nSolution: 15 per cent of 360 gives 54.\nSubtracting 54 from 360 leaves 306.",
    ],
)
def test_what_follows_from_a_sentence_of_the_source_is_not_invented(text: str) -> None:
    source = (
        "The press at Tromvik prints 251 pages an hour and runs for 8 hours. Of 360 lamps in Tromvik, 15% are broken. "
        "The line through Tromvik has stops at the mill, the church and the quarry. It keeps 2.5 million records."
    )
    assert not flaw(text, source)
    assert flaw("In a run, the press at Tromvik prints 2,009 pages.", source)
    assert flaw("The owners have 2,008 pages.", source)


@pytest.mark.parametrize(
    ("stated", "changed", "converted"),
    [
        ("The road is 12 km long.", "The road is 12 miles long.", "The road is 12,000 m long."),
        ("It earned 2.1 million dollars.", "It earned 2.1 billion dollars.", "It earned 2,100,000 dollars."),
        ("It moves 40 litres per minute.", "It moves 40 litres per hour.", "It moves 40,000 ml per minute."),
        ("The ride takes six weeks.", "The ride takes 45 days.", "The ride takes 42 days."),
        ("The wall is 2.5 km long.", "The wall is 2.5 miles long.", "The wall is 2,500 m."),
        ("The path is 21 km long.", "The path is 21 feet long.", "The path is 13 miles long."),
        ("Bake at 220 degrees C.", "Bake at 465 degrees F.", "Bake at 428 \u00b0F."),
        ("The two boats have seven oars each.", "The boats have 27 sails.", "The boats have 14 oars."),
        ("75% of them left.", "Four quarters of them left.", "Three quarters of them left."),
        ("In all, 5,873 left.", "More than 7,000 left.", "More than 5,000 left."),
        ("The hall has 126 seats, half in rows.", "In rows, the hall has 73 seats.", "In rows, the hall has 63 seats."),
        ("There were 311, later 428.", "From 311 to 428, by 48%.", "From 311 to 428, by about 38%."),
        ("It closes at 14:30.", "It closes at 4:30 pm.", "It closes at 2:30 pm."),
    ],
)
def test_a_number_with_another_unit_is_invented_unless_it_was_converted(
    stated: str, changed: str, converted: str
) -> None:
    assert flaw(changed, stated)
    assert not flaw(converted, stated)
    assert not flaw(stated, stated)


def test_a_sum_or_difference_of_a_source_with_few_numbers_is_not_invented_where_it_is_called_one() -> None:
    source = "Ada was born in 1815 and died in 1852. She had 3 children. The two tickets cost 17 and 24 euros."
    assert flaw("Ada lived for 37 years. Together the tickets cost 41 euros, a difference of 7 euros.", source) is None
    assert flaw("Ada owned 37 horses.", source)
    assert flaw("Ada lived for 39 years.", source)


def test_the_reason_quotes_the_quantity() -> None:
    assert flaw("The dam is 310 feet tall and weighs 800 tonnes.") == (
        "the source does not state: 800 ('m is 310 feet tall and weighs 800 tonnes.')"
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(13, 99_999_999), st.integers(13, 99_999_999))
def test_a_number_is_the_same_however_it_is_written_and_no_other(stated: int, other: int) -> None:
    forms = [
        f"{stated}",
        f"{stated:,}",
        f"{stated:,}".replace(",", "\u202f"),
        f"{stated}.0",
        f"{stated / 1000} thousand",
    ]
    for source in forms:
        for text in forms:
            assert flaw(f"They counted {text} birds.", f"There were {source} birds.") is None
        if other != stated and other % 10:  # one that ends in zeros may be the stated one, rounded
            assert flaw(f"They counted {other} birds.", f"There were {source} birds.")


def test_the_share_of_rows_is_the_same_for_merged_measures() -> None:
    rows = [AuditedRow(str(n), f"It has {n} rooms.", source_text=SOURCE) for n in (95, 96, 310, 311, 2019)]
    first, second = (GATE.measure(AuditedDataset(files=[]), GATE.defaults) for _ in range(2))
    first.add(rows[:2])
    second.add(rows[2:])
    first.merge(second)
    result = first.result()
    assert (result.value, result.failing, [row.id for row in result.examples]) == (0.4, 2, ["96", "311"])
