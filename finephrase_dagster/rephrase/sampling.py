"""How completions are drawn: resolved once, said with every request, written into the recipe."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.generator import Generator

TOP_K_OFF = -1
SEED_BITS = 53  # the integers that JSON carries exactly everywhere


class GenerationConfigError(FinephraseError, exit_status=2):
    """A model's generation_config.json cannot be used."""


def sampling_of(generator: Generator, model: Path) -> dict[str, float | int]:
    """The sampling of a generator: the study's values, else the model's own, else 1.0 / 1.0 / off.

    Args:
        generator: the study's.
        model: the model's folder; its `generation_config.json` is read if it is there.

    Returns:
        `temperature`, `top_p`, `top_k` (-1: off) and `seed`.

    Raises:
        GenerationConfigError: the file is not a JSON object, or a value is not a number.
    """
    own = _generation_config(model / "generation_config.json")
    said = generator.sampling
    top_k = int(_first(said.top_k, own.get("top_k"), TOP_K_OFF))
    return {
        "temperature": float(_first(said.temperature, own.get("temperature"), 1.0)),
        "top_p": float(_first(said.top_p, own.get("top_p"), 1.0)),
        "top_k": top_k if top_k > 0 else TOP_K_OFF,
        "seed": said.seed,
    }


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _generation_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GenerationConfigError(f"{path}: not JSON ({error}); correct it or remove it") from error
    if not isinstance(values, dict):
        raise GenerationConfigError(f"{path}: not a JSON object; correct it or remove it")
    for name in ("temperature", "top_p", "top_k"):
        if not isinstance(values.get(name, 0) or 0, int | float):
            raise GenerationConfigError(f"{path}: {name} is {values[name]!r}; write a number")
    return values


def request_seed(seed: int, row: str, prompt: str) -> int:
    """The seed of one request: the same for the same row and prompt, another for every other."""
    digest = hashlib.sha256(f"{seed}\0{prompt}\0{row}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> (64 - SEED_BITS)
