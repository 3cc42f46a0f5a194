"""Arithmetic statements in running text: which are found, and which of them are wrong."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_parts import flaw, measured
from finephrase_dagster.audit.equations import equations

RIGHT = [
    "The average of 3, 6 and 9 is 6.",
    "17 less 9 is 8",
    "25 ÷ 7 = 3 R 4",
    "21 is 30% of 70",
    "1.1 + 2.2 = 3.3000000000000003",
    "80 increased by 25% is 100.",
    "Subtracting 15 from 84 leaves 69.",
    "Twice 35 is 70.",
    "$15\\% \\cdot 240 = 36$",
    "100 / 7 \u2248 14.3",
    "3 hours 20 minutes + 50 minutes = 4 hours 10 minutes",
    "\\sqrt{64} = 8",
    "60 per cent of 500 equals 300",
    "17 minus 6 leaves you 11.",
    "11 + 6\n= 17\n= 20 - 3",
    "17 / 5 = 3 remainder 2",
    "48/2 = <<48/2=24>>24 clips",
    "So, 12 - 5 = 7 and 7 + 3 = 10.",
    "Area = 5 m × 4 m = 20 m²",
    "Speed = distance / time = 120 km / 2 h = 60 km/h",
    "19 = 12 + 7",
    "The average is (80 + 90 + 100) / 3 = 90.",
    "12 + 7 = 19",
    "3 boxes × $4 = $12",
    "$1,250 + $750 = $2,000",
    "10 / 3 = 3.33",
    "10 ÷ 3 ≈ 3.3",
    "20 / 3 = 6.66",
    "22/7 ≈ 3.14",
    "1/2 + 1/4 = 3/4",
    "1 1/2 + 2 = 3 1/2",
    "15% of 200 = 30",
    "200 × 15% = 30",
    "30 / 200 = 15%",
    "(30/200) × 100 = 15%",
    "100% - 20% = 80%",
    "$50 - 20% = $40",
    "10 + 5 = 15 - 3 = 12",
    "2 + 3 + 4 = 5 + 4 = 9",
    "2(3 + 4) = 14",
    "(5 + 3) × 2 = 16",
    "5 apples + 3 apples = 8 apples",
    "2 hours × 60 minutes = 120 minutes",
    "60 miles / 2 hours = 30 miles/hour",
    "The sum of 5 and 3 is 8.",
    "5 plus 3 equals 8",
    "12 times 4 is 48.",
    "20 divided by 4 gives 5",
    "\\frac{1}{2} \\times 10 = 5",
    "$5 \\times 3 = 15$",
    "2^3 = 8",
    "2**3 = 8",
    "3² = 9",
    "17 % 5 = 2",
    "**5 + 3 = 8**",
    "- 5 + 3 = 8",
    "1. 5 + 3 = 8.",
    "Step 1: 5 + 3 = 8, then 8 - 2 = 6.",
    "Total cost: (12 × $3) + $4 = $40.",
    "0.1 + 0.2 = 0.3",
    "7 - 10 = -3",
    "-3 + 5 = 2",
    "1,000,000 / 4 = 250,000",
    "2.5 × 4 = 10",
    "9.99 × 3 = 30",
    "x = 4 + 5 = 9",
    "2x3 = 6",
    "5 x 3 = 15",
    "half of them; 50% of 80 is 40",
    "4 weeks × 7 days/week = 28 days",
    "6 × 6 = 36 square feet",
    "24 hours - 8 hours = 16 hours",
    "3 dozen = 3 × 12 = 36",
    "5/6 - 1/3 = 1/2",
    "0.75 × 100 = 75%",
    "25 - 5 = 20 apples remain",
    "$3.50 × 4 = $14.00",
    "100 / 8 = 12.5 ≈ 13",
    "7 ÷ 2 = 3.5",
    "So 45 - 12 = 33 and 33 + 7 = 40",
    "It costs 5 + 3 = 8 dollars (2 + 2 = 4).",
    "8 × 7 = 56, 56 + 4 = 60",
]
WRONG = [
    "The mean of 3, 6 and 9 is 7.",
    "2, 6 and 9 add up to 18.",
    "Take 9 from 17, and 7 remain.",
    "When 17 is multiplied by 3, the result is 41.",
    "27 shared equally among 3 people gives each 8.",
    "eleven more than twenty is thirty-two",
    "The square of 9 is 82.",
    "25 ÷ 7 = 3 R 5",
    "21 is 40% of 70",
    "21 doubled is 44",
    "30 reduced by 7 is 24",
    "6+7+8 → 22",
    "x &= 6 \\times 7 \\\\\n&= 43",
    "\u221a81 = 8",
    "31 / 6 \u2248 10",
    "A 10% tip on $60 is $7.",
    "Adding 24 km to 36 km gives 61 km.",
    "Dividing 1,440 by 18, we get 81.",
    "$15\\% \\cdot 240 = 37$",
    "One share is 100 / 7 \u2248 15.39.",
    "12 + 7 - 3 = 26 are left over.",
    "45 minutes + 30 minutes = 1 hour 25 minutes",
    "8 hours \u00d7 60 = 490 minutes",
    "Ten percent of 200 is 30.",
    "\\sqrt{64} = 9",
    "After 12 + 7 = 190 days it was over.",
    "17 minus 6 leaves 21.",
    "11 + 6\n= 27",
    "48/2 = <<48/2=26>>26 clips",
    "So, 12 - 5 = 8 and 8 + 3 = 11.",
    "12+7=20",
    "Profit = $120 - $85 = $45",
    "20 - 5 × 2 = 30",
    "14 divided by 7 is 3",
    "12 + 7 = 20",
    "3 boxes × $4 = $13",
    "$1,250 + $750 = $2,100",
    "10 / 3 = 3.43",
    "1/2 + 1/4 = 2/4",
    "15% of 200 = 35",
    "200 × 15% = 35",
    "100% - 20% = 70%",
    "10 + 5 = 16 - 3 = 13",
    "2(3 + 4) = 10",
    "5 apples + 3 apples = 9 apples",
    "60 miles / 2 hours = 35 miles/hour",
    "The sum of 5 and 3 is 9.",
    "5 plus 3 equals 9",
    "12 times 4 is 46.",
    "20 divided by 4 gives 6",
    "\\frac{1}{2} \\times 10 = 6",
    "$5 \\times 3 = 16$",
    "2^3 = 6",
    "**5 + 3 = 9**",
    "1. 5 + 3 = 9.",
    "Step 1: 5 + 3 = 8, then 8 - 2 = 5.",
    "0.1 + 0.2 = 0.4",
    "7 - 10 = 3",
    "1,000,000 / 4 = 25,000",
    "2.5 × 4 = 11",
    "24 hours - 8 hours = 14 hours",
    "$3.50 × 4 = $14.50",
    "9 - 4 = 6",
    "5 x 3 = 16",
    "25 - 5 = 21 apples remain",
    "So 45 - 12 = 33 and 33 + 7 = 41",
    "8 × 7 = 54",
    "12.50 + 7.25 = 19.76",
    "4 * 12 = 50 eggs",
    "100 - 37 = 73",
]
# Variables, functions, versions, conversions of units: nobody can say from the line alone.
UNDECIDED = [
    "8 + 9 = 5 (mod 12)",
    "[4, 5] + [6] = [4, 5, 6]",
    "size=2*3 height=5",
    "11 pm + 3 hours = 2 am",
    "9:40 + 30 minutes = 10:10",
    "It is a mistake to think that 2 + 2 = 5.",
    "In binary, 101 + 1 = 110.",
    "10 MB + 512 KB = 10.5 MB",
    "10:30 + 0:45 = 11:15",
    "6 feet 2 inches = 74 inches",
    "10 minutes + 20 minutes = half an hour",
    "x + 5 = 8",
    "2x + 3 = 7",
    "a[1] + 2 = 5",
    "Python 3.11 = good",
    "1 hour = 60 minutes",
    "3 hours = 180 minutes",
    "log 100 + 1 = 3",
    "sqrt(16) + 1 = 5",
    "f(2) + 3 = 9",
    "if x == 5 + 3:",
    "2020-01-02 = a date",
    "E = mc^2",
    "version 2.0 - 3.1 is 4 years old",
    "5! = 120",
    "0x10 + 1 = 17",
    "n - 5 + 3 = 8",
    "size = 3 * n + 2",
    ">>> 7 // 2 = 3",
    "A1 + 5 = 7",
    "10 mod 3 = 1",
    "5 + 3 > 7",
    "3 + y = 10 + 2",
    "chapter 3 is 5 pages",
    "10-15 = range",
    "width=5, height=3",
    "y = 2 * 3 + x",
    "3 × 25 cents = $0.75",
    "30 minutes + 1 hour = 1.5 hours",
]
OPERATORS = {"+": "+", "-": "-", "*": "\u00d7", "/": "/"}
UNITS = ["", " apples", " km", " boxes of eggs"]


@pytest.mark.parametrize("line", RIGHT)
def test_a_right_statement_is_found_and_right(line: str) -> None:
    found = list(equations(line))
    assert found
    assert all(equation.correct for equation in found), found


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_statement_is_found(line: str) -> None:
    assert any(not equation.correct for equation in equations(line))
    assert "a wrong equation" in str(flaw("arithmetic", f"Problem: How many?\n\nSolution:\n{line}\n\nAnswer: 5."))


@pytest.mark.parametrize("line", UNDECIDED)
def test_what_cannot_be_decided_is_left_out(line: str) -> None:
    assert list(equations(line)) == []


@settings(max_examples=150, deadline=None)
@given(
    numbers=st.lists(st.decimals(min_value=1, max_value=9999, places=2), min_size=2, max_size=4),
    signs=st.lists(st.sampled_from("+-*"), min_size=3, max_size=3),
    unit=st.sampled_from(UNITS),
    money=st.booleans(),
    commas=st.booleans(),
    error=st.integers(-500, 500),
)
def test_the_result_of_a_calculation_decides(
    numbers: list[Fraction], signs: list[str], unit: str, money: bool, commas: bool, error: int
) -> None:
    exact = [Fraction(str(number)) for number in numbers]
    value = eval(" ".join(f"{sign} exact[{n}]" for n, sign in enumerate(["", *signs][: len(exact)])))
    stated = value + error
    form = ",.8f" if commas else ".8f"
    written = [f"{'$' if money else ''}{number:{',' if commas else ''}}{unit}" for number in numbers]
    left = written[0] + "".join(f" {OPERATORS[sign]} {one}" for sign, one in zip(signs, written[1:], strict=False))
    line = f"So {left} = {'-' if stated < 0 else ''}{'$' if money else ''}{format(abs(float(stated)), form)}{unit}."
    if abs(value) < 10**7:
        assert [equation.correct for equation in equations(line)] == [error == 0], line


def test_rows_with_a_wrong_statement_are_counted_with_what_is_right() -> None:
    texts = ["2 + 2 = 4", "2 + 2 = 5. Then 5 - 1 = 4.", "Nothing to calculate.", "Take 3 of them."]
    one, flaws = measured("arithmetic", texts)
    assert flaws == {"d1": "a wrong equation: '2 + 2 = 5'"}
    assert one.value == 0.25
    assert one.figures == {
        "flaws": {"a wrong equation": 1},
        "rows_with_correct_equation": 0.5,
        "equations": 3,
        "correct_equations": 2 / 3,
        "rows_without_digit": 0.25,
    }
    assert measured("arithmetic", texts, parts=3, chunk=1) == (one, flaws)


def test_the_answer_of_a_problem_is_one_of_the_numbers_of_its_solution() -> None:
    problem = "Problem: Ann has 3 bags of 4 nuts. How many nuts?\nSolution: 3 \u00d7 4 = 12.\nAnswer: {}"
    assert flaw("arithmetic", problem.format("12 nuts"), check="math") is None
    assert flaw("arithmetic", problem.format("15 nuts"), check="math") == (
        "an answer that the solution does not have: '15 nuts'"
    )
    assert flaw("arithmetic", problem.format("15 nuts"))
    assert flaw("arithmetic", "3 \u00d7 4 = 12.\nAnswer: 15") is None
    assert flaw("arithmetic", "Solution: 38 / 3 = 12.6667.\nAnswer: 12.67 or about 13.") is None
    assert flaw("arithmetic", "Solution: 1 / 4 = 0.25.\nAnswer: 25%") is None
    assert flaw("arithmetic", problem.replace(" \u00d7 4 = 12", "").format("12 nuts"), check="math") is None
