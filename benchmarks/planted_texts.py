"""Sound completions with their sources, into which `planted.py` plants defects.

A row is a completion in one of five forms, made of sentences and words of Python's documentation or of the READMEs of
packages, with the passage as its source; or an output of the packaged model that was judged by hand not to have the
flaw, with what the model was given.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pydoc_data.topics import topics
from typing import NamedTuple

from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.corpora.document import Document
from finephrase_dagster.corpora.kinds.embedded import read_language_reference, read_package_readmes
from finephrase_dagster.corpora.quantities import listed
from finephrase_dagster.study.paths import REPOSITORY

FORMS = ("math", "faq", "table", "tutorial", "prose")
# Gates by which the labelled outputs of the model were judged.
JUDGED = frozenset(
    listed(
        "announcements arithmetic chat_markup empty_parts encoding form language loops other_script prompt_echo"
        " refusals truncated"
    )
)
REAL = 0.3  # of the sound rows are outputs of the model
NAMES = ("Anna", "Omar", "Li", "Rosa", "Ivan", "Mary", "Tom", "Aiko")
THINGS = ("apples", "books", "boxes", "coins", "pages", "tickets", "bottles", "chairs")


class Passage(NamedTuple):
    """Sentences and words of one part of a document."""

    text: str
    sentences: list[str]
    words: list[str]


def passages(texts: Iterable[str]) -> list[Passage]:
    """Return the parts of documents that are prose."""
    parts = []
    for document in texts:
        paragraphs = [" ".join(one.split()) for one in document.split("\n\n") if re.match(r"\s{0,4}[A-Z]", one)]
        for start in range(0, len(paragraphs) - 4, 5):
            text = "\n\n".join(paragraphs[start : start + 5])
            sentences = [
                one for one in re.split(r"(?<=[.!?])\s+|\n+", text) if 40 < len(one) < 260 and one[-1] in ".!?"
            ]
            sentences = list(dict.fromkeys(sentences))
            words = sorted(set(re.findall(r"\b[a-z]{5,12}\b", text)))
            if len(sentences) >= 6 and len(words) >= 20:
                parts.append(Passage(text, sentences, words))
    return parts


DOCUMENTATION = passages(topics[topic] for topic in sorted(topics))
READMES = passages(
    one.text
    for one in read_package_readmes(REPOSITORY / "requirements" / "cpu.txt")
    if isinstance(one, Document) and "http" not in one.text[:400]
)
PASSAGES = [*DOCUMENTATION, *READMES]
SENTENCES = sorted({sentence for passage in PASSAGES for sentence in passage.sentences})


def sound_row(draw: random.Random, id: str, form: str, gate: str) -> AuditedRow:
    """Return a completion that does not have the flaw of a gate."""
    if gate in JUDGED - {"form"} and draw.random() < REAL:
        return replace(draw.choice(outputs(gate)), id=id)
    passage = draw.choice(PASSAGES)
    # Where duplicates are planted, no two sound rows may have the same sentences; where copies are, none its source's.
    of = SENTENCES if gate == "near_duplicates" else passage.sentences
    text = MAKERS[form](draw, draw.sample(of, min(len(of), draw.randint(5, 9))), draw.sample(passage.words, 12))
    source = passage
    while gate == "copying" and not set(source.sentences).isdisjoint(passage.sentences):
        source = draw.choice(PASSAGES)
    return AuditedRow(id, text, "stop", source.text)


@cache
def outputs(gate: str) -> list[AuditedRow]:
    """Return the outputs of the model that do not have the flaw of a gate, with what the model was given."""
    documents = chain(read_package_readmes(REPOSITORY / "requirements" / "cpu.txt"), read_language_reference())
    sources = {one.id: one.text[:1600] for one in documents if isinstance(one, Document)}
    labelled = map(json.loads, (REPOSITORY / "tests" / "labelled_outputs.jsonl").read_text("utf-8").splitlines())
    return [
        AuditedRow("", one["text"], one.get("finish_reason"), sources[one["source"]])
        for one in labelled
        if gate not in one["flaws"]
        and one["text"].count("```") % 2 == 0
        and len(re.findall(r"[a-z]{3,}", one["text"])) > 40
    ]


def faq(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return questions with answers."""
    forms = (
        "What is said about {}?",
        "How does {} matter here?",
        "Why is there {}?",
        "When does {} apply?",
        "Who needs {}?",
    )
    pairs = zip(draw.sample(forms, min(len(forms), len(sentences))), terms, sentences, strict=False)
    return "\n\n".join(f"Q: {form.format(term)}\nA: {sentence}" for form, term, sentence in pairs)


def math(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return a word problem with a right solution."""
    a, b, c, thing, name = (
        draw.randint(2, 60),
        draw.randint(2, 40),
        draw.randint(2, 9),
        draw.choice(THINGS),
        draw.choice(NAMES),
    )
    sign, dollar = draw.choice(("\u00d7", "*", "x")), draw.choice(("", "$"))
    total = a + b
    steps = draw.choice(
        (
            f"{name} has {a} + {b} = {total} {thing}.\nThey cost {total} {sign} {dollar}{c} = {dollar}{total * c:,}.",
            f"1. {a} {thing} + {b} {thing} = {total} {thing}\n2. {dollar}{c} {sign} {total} = {dollar}{total * c:,}",
            f"The sum of {a} and {b} is {total}. Then {total} times {c} is {total * c}.",
            f"First, {a} plus {b} equals {total}. Each costs {dollar}{c}, so {c} {sign} {total} = {dollar}{total * c}.",
        )
    )
    return (
        f"Problem: {name} reads about the {terms[0]} and counts {a} {thing}, then {b} more {thing}. "
        f"Each costs {dollar}{c}. How much do all {thing} cost?\n\nSolution:\n{steps}\n\nAnswer: {dollar}{total * c:,}"
    )


def table(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return a Markdown table with a question and its answer."""
    rows = [
        f"| {term} | {' '.join(sentence.rstrip('.').replace('|', '/').split()[:8])} |"
        for term, sentence in zip(terms, sentences, strict=False)
    ]
    return "\n".join(
        ["| Term | Fact |", "|---|---|", *rows, "", f"Q: What is the fact about {terms[0]}?", f"A: {sentences[0]}"]
    )


def tutorial(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return a heading with numbered steps."""
    return "\n".join(
        [f"# Work with the {terms[0]}", "", *(f"{n}. {sentence}" for n, sentence in enumerate(sentences, 1))]
    )


def prose(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return paragraphs."""
    half = len(sentences) // 2
    return f"{' '.join(sentences[:half])}\n\n{' '.join(sentences[half:])}"


MAKERS: Mapping[str, Callable[[random.Random, Sequence[str], Sequence[str]], str]] = {
    "faq": faq, "math": math, "table": table, "tutorial": tutorial, "prose": prose,
}  # fmt: skip
