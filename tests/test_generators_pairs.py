"""Restructured documents by rule, and the instructions they answer."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.audit.forms import form_flaw
from finephrase_dagster.corpora.document import Document
from finephrase_dagster.corpora.kinds.embedded import read_language_reference, read_package_readmes
from finephrase_dagster.generators.instructions import FORMATS, instruction
from finephrase_dagster.generators.outline import outline, plain
from finephrase_dagster.generators.pairs import derive

LIST = Path(__file__).parents[1] / "requirements" / "cpu.txt"
README = """
# Kettle

[![build](https://img.example/b.svg)](https://ci.example) <img src="logo.png" width="80%">

Kettle is a small server for **hot water** and [tea](https://tea.example). It boils 3 litres in 4 minutes.

Install it
----------

```bash
pip install kettle
kettle --help
```

## Features

- Keeps water warm for hours
* Switches itself off when
  it is empty

License: Free for everybody

.. image:: https://badge.example/x.svg
   :alt: badge
"""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rows = [*read_package_readmes(LIST), *read_language_reference()]
    return [row.text for row in rows if isinstance(row, Document)]


def test_an_outline_finds_the_structure_of_markdown_and_restructured_text() -> None:
    found = outline(README)
    assert found.title == "Kettle"
    assert found.sections == ("Install it", "Features")
    assert found.sentences[0] == "Kettle is a small server for hot water and tea."
    assert (found.definitions[0].term, found.definitions[0].verb) == ("Kettle", "is")
    assert found.items == ("Keeps water warm for hours", "Switches itself off when it is empty")
    assert found.fields == (("License", "Free for everybody"),)
    assert found.commands == ("pip install kettle",)
    assert [(quantity.number, quantity.noun) for quantity in found.quantities] == [(3, "litres"), (4, "minutes")]
    assert "badge" not in dict(found.words)


def test_markup_becomes_plain_words() -> None:
    assert plain("See [the `docs`](https://x.example) and :ref:`more <there>` | **now**") == "See the docs and more now"


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_derived_from_a_document_of_the_corpora_has_the_form(format: str, texts: list[str]) -> None:
    rng = Random(1)
    derived = 0
    for text in texts:
        start = rng.randrange(len(text))
        for window in (text, text[:900], text[start : start + rng.randint(40, 900)]):
            restated = derive(format, outline(window), rng=rng)
            if restated is not None:
                derived += 1
                assert form_flaw(format, restated) is None, restated
    assert derived > 0.9 * 3 * len(texts)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_what_is_derived_varies_in_its_opening(format: str, texts: list[str]) -> None:
    rng = Random(1)
    openings = [(derive(format, outline(text[:900]), rng=rng) or "")[:16] for text in texts]
    assert max(openings.count(opening) for opening in set(openings)) < 0.4 * len(openings)


@settings(max_examples=70, deadline=None)
@given(st.text(), st.sampled_from(FORMATS), st.integers(0, 99))
def test_any_text_gives_the_form_or_nothing(text: str, format: str, seed: int) -> None:
    restated = derive(format, outline(text), rng=Random(seed))
    assert restated is None or form_flaw(format, restated) is None


def test_a_seed_gives_one_restatement() -> None:
    found = outline(README)
    first, again, other = (derive("faq", found, rng=Random(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.slow
def test_the_calculations_of_a_problem_are_right_and_its_numbers_are_stated(texts: list[str]) -> None:
    rng = Random(1)
    operations = {"+": int.__add__, "-": int.__sub__, "x": int.__mul__}
    for text in texts:
        problem = derive("math", outline(text), rng=rng)
        if problem is None:
            continue
        statement, rest = problem.split("\n\nSolution:\n")
        solution, answer = rest.split("\n\nAnswer: ")
        known = set(re.findall(r"\d+", statement))
        for line in solution.splitlines():
            left, sign, right, result = re.fullmatch(r"(\d+) ([-+x]) (\d+) = (\d+)", line).groups()  # type: ignore[union-attr]
            assert {left, right} <= known
            assert operations[sign](int(left), int(right)) == int(result)
            known.add(result)
        assert answer.split()[0] == result


def test_a_table_holds_what_the_text_says() -> None:
    found = outline(README)
    said = re.sub(r"\W+", " ", plain(README)).lower()
    for seed in range(40):
        table = derive("table", found, rng=Random(seed)) or ""
        for line in table.split("\n\n")[0].splitlines()[2:]:
            for cell in line.strip("| ").split(" | "):
                assert cell.isdigit() or re.sub(r"\W+", " ", cell).strip().lower() in said


@pytest.mark.parametrize("format", FORMATS)
def test_instructions_differ_in_wording_and_follow_the_document(format: str) -> None:
    drawn = {instruction(format, rng=Random(seed)) for seed in range(50)}
    assert len(drawn) > 40
    assert all(one.startswith("\n\n") and one.strip() for one in drawn)
