"""Measuring gates in tests: by one process or by several, in any order, with the flaw of every row."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Measure, Measurement
from finephrase_dagster.audit.gates import gates


def measured(
    name: str, texts: Mapping[str, str] | Sequence[str], *, parts: int = 1, chunk: int = 100, **settings: Any
) -> tuple[Measurement, dict[str, str]]:
    """Return a gate's measurement of texts by id (or `d0`, `d1`, ...), and the flaws of the rows that fail by id."""
    by_id = texts if isinstance(texts, Mapping) else {f"d{index}": text for index, text in enumerate(texts)}
    rows = [AuditedRow(id, text) for id, text in by_id.items()]
    gate, dataset = gates()[name], AuditedDataset(files=[])
    bounds = [len(rows) * part // parts for part in range(parts + 1)]
    measures: list[Measure] = []
    for start, stop in pairwise(bounds):
        measure = gate.measure(dataset, {**gate.defaults, **settings})
        for first in range(start, stop, chunk):
            measure.add(rows[first : min(first + chunk, stop)])
        measures.append(measure)
    for later in measures[1:]:
        measures[0].merge(pickle.loads(pickle.dumps(later)))  # noqa: S301 - made here
    measurement = measures[0].result()
    return measurement, {row.id: flaw for row in rows if (flaw := measures[0].flaw(row)) is not None}


def flaw(
    name: str,
    text: str,
    *,
    source: str | None = None,
    check: str | None = None,
    finish_reason: str | None = None,
    **settings: Any,
) -> str | None:
    """Return why one completion fails a gate that judges each row by itself; None if it passes."""
    gate = gates()[name]
    form = gate.forms.get(check, {}) if check else {}
    measure = gate.measure(AuditedDataset(files=[], check=check), {**gate.defaults, **form, **settings})
    row = AuditedRow("d0", text, finish_reason, source)
    found = measure.flaw(row)
    assert found is None or all(measure.may_fail([row])), f"the hint of {name} misses {text!r}"
    return found


def essays(count: int, seed: int = 0, words: int = 120) -> list[str]:
    """Return texts of made-up words that have nothing in common but the language."""
    draw = random.Random(seed)
    lexicon = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(3000)]
    texts = []
    for _ in range(count):
        sentences = []
        while sum(map(len, sentences)) < words:
            sentences.append(draw.choices(lexicon, k=draw.randint(5, 18)))
        texts.append(" ".join(" ".join(sentence).capitalize() + "." for sentence in sentences))
    return texts


TRAINING = """import sys, fasttext
options = {"dim": 512, "bucket": 0, "lr": 0.5, "thread": 1, "verbose": 0}
fasttext.train_supervised(sys.argv[1], **options).save_model(sys.argv[2])"""


def train_fasttext(lines: Path, model: Path) -> str:
    """Train a classifier of the lines in a file; return the path of its file."""
    # This build of fastText expects that new memory holds zeros, which only glibc's MALLOC_PERTURB_ makes sure of.
    command = [sys.executable, "-c", TRAINING, str(lines), str(model)]
    subprocess.run(command, env={**os.environ, "MALLOC_PERTURB_": "255"}, check=True)
    return str(model)
