"""The gate `copying`: completions that copy their source."""

from __future__ import annotations

import pickle
import random
import re
from collections.abc import Sequence
from pydoc_data import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow
from finephrase_dagster.audit.gates.copying import GATE, LENGTH, overlaps

DATASET = AuditedDataset(files=[])
DOCUMENTS = [" ".join(words[:250]) for text in topics.topics.values() if len(words := re.findall(r"\w+", text)) > 180]
WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=40).map(" ".join)


def row(text: str, source: str, id: str = "1") -> AuditedRow:
    return AuditedRow(id, text, source_text=source)


def flaw(text: str, source: str) -> str | None:
    return GATE.measure(DATASET, GATE.defaults).flaw(row(text, source))


def naive(text: Sequence[str], source: Sequence[str]) -> tuple[float, float, int]:
    """Compute the Jaccard index, the copied share and the longest common span from their definitions."""
    own, of_source = ({tuple(t[i : i + LENGTH]) for i in range(len(t) - LENGTH + 1)} for t in (text, source))
    longest = 0
    for begin in range(len(text)):
        for place in range(len(source)):
            size = 0
            while begin + size < len(text) and text[begin + size : begin + size + 1] == source[place + size :][:1]:
                size += 1
            longest = max(longest, size)
    both, every = len(own & of_source), len(own | of_source)
    return both / every if every else 0.0, both / len(own) if own else 0.0, longest if longest >= LENGTH else 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_the_overlap_is_that_of_its_definition(texts: list[tuple[str, str]]) -> None:
    results = overlaps([row(*pair) for pair in texts])
    expected = [naive(text.split(), source.split()) for text, source in texts]
    assert [(result.jaccard, result.copied, result.span) for result in results] == expected


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=2, max_size=12), st.data())
def test_the_result_is_the_same_however_the_rows_are_divided(texts: list[tuple[str, str]], data: st.DataObject) -> None:
    rows = [row(*pair, id=str(index)) for index, pair in enumerate(texts)]
    middle = data.draw(st.integers(0, len(rows)))
    together, first, second = (GATE.measure(DATASET, GATE.defaults) for _ in range(3))
    together.add(rows)
    first.add(rows[:middle])
    second.add(rows[middle:])
    first.merge(pickle.loads(pickle.dumps(second)))  # noqa: S301 - our own
    result = together.result()
    assert first.result() == result
    assert result.failing == sum(together.flaw(one) is not None for one in rows)


@pytest.mark.parametrize("document", DOCUMENTS[::8])
def test_a_source_that_is_repeated_cut_edited_or_wrapped_is_a_copy(document: str) -> None:
    words = document.split()
    rng = random.Random(document)
    edited = [rng.choice(words) if rng.random() < 0.08 else word for word in words]
    assert flaw(document, document)
    assert flaw(" ".join(words[: len(words) // 3]), document)
    assert flaw(" ".join(edited), document)
    assert flaw(f"Here is the text:\n\n**{document}**\n\nI hope that it helps.", document)
    assert flaw(" ".join([*DOCUMENTS[1].split(), *words[20:120]]), document)


def test_a_short_source_that_is_repeated_is_a_copy() -> None:
    assert flaw("The kettle boils at noon.\n", "the kettle boils at noon")


@pytest.mark.parametrize("index", range(0, len(DOCUMENTS) - 1, 8))
def test_text_of_its_own_that_quotes_a_sentence_is_no_copy(index: int) -> None:
    document, other = DOCUMENTS[index : index + 2]
    quote = " ".join(document.split()[30:60])
    assert flaw(other, document) is None
    assert flaw(f'{other} It says: "{quote}"', document) is None


def test_a_short_answer_that_quotes_a_name_or_a_sentence_is_no_copy() -> None:
    source = f"{DOCUMENTS[3]} The Royal Botanic Garden of Upper Lusatia was opened to the public in the spring of 1904."
    answer = "Q: When was it opened?\nA: The Royal Botanic Garden of Upper Lusatia was opened to the public in 1904."
    assert flaw(answer, source) is None


def test_code_that_a_text_repeats_is_no_copy_but_its_prose_is() -> None:
    code = "\n".join(f"value_{i} = load('file_{i}.csv', mode=MODE, retries={i})" for i in range(15))
    source = f"{DOCUMENTS[0]}\n{code}"
    assert flaw(f"Load the files one after the other, like this:\n```python\n{code}\n```\nThen go on.", source) is None
    assert flaw(f"{DOCUMENTS[0]}\n```python\n{code}\n```", source)
