"""The sampling values that a model's own `generation_config.json` sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finephrase_dagster.errors import FinephraseError

TYPES = {"temperature": float, "top_p": float, "top_k": int}


class GenerationConfigError(FinephraseError, exit_status=2):
    """A model's generation_config.json cannot be used."""


def read_sampling(model: Path) -> dict[str, float | int]:
    """Return those of `temperature`, `top_p` and `top_k` that the model in a folder sets.

    Raises:
        GenerationConfigError: `generation_config.json` is not a JSON object, or a value is not a number.
    """
    path = model / "generation_config.json"
    config: Any = {}
    if path.is_file():
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise GenerationConfigError(f"{path}: not JSON ({error}); correct it or remove it") from error
    if not isinstance(config, dict):
        raise GenerationConfigError(f"{path}: not a JSON object; correct it or remove it")
    sampling: dict[str, float | int] = {}
    for name, number in TYPES.items():
        value = config.get(name)
        if value is not None:
            if not isinstance(value, int | float):
                raise GenerationConfigError(f"{path}: {name} is {value!r}; write a number")
            sampling[name] = number(value)
    return sampling
