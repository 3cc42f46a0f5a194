"""The versions of the code of each stage: Dagster's code versions, and a part of every recipe.

Raise a stage's version when a change of its code changes its output: artifacts of the earlier version become stale. A
change that leaves the output alone (speed, logging, layout) raises nothing.
"""

from __future__ import annotations

from typing import Final

CODE: Final = {
    "sources": "3",
    "generators": "3",
    "synthetic": "4",
    "audits": "3",
    "tokenizer": "2",
    "tokens": "2",
    "mixtures": "2",
    "training": "5",
    "evaluation": "4",
    "leaderboard": "5",
    "release": "1",
    "throughput": "1",
}
CLEANING: Final = "3"
"""The rules that turn a raw completion into text (`rephrase/clean.py`)."""
ELIGIBILITY: Final = "1"
"""The rules that decide whether a document has what a prompt requires (`corpora/eligibility.py`)."""
TRUNCATION: Final = "document end, by tokens of the generator"
"""How a document is cut to fit the context (`rephrase/render.py`)."""
TRUNCATION_BYTES: Final = "document end, by UTF-8 bytes"
"""How a document is cut without a tokenizer: its bytes are an upper bound on byte-level tokens."""
TRUNCATION_ENDPOINT: Final = "document end, by tokens that the endpoint counts"
"""How a document is cut without a tokenizer if the endpoint has `/tokenize` and a document may not fit by its bytes."""
NANOTRON: Final = "2411b022a75fb7f7561a1bb4166706da5e1b76de"
"""The commit of nanotron that students are trained with."""
