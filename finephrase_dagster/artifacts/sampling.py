"""The sampling values of a generator: those of the study, else of the model's own `generation_config.json`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.generator import Generator, Sampling

TYPES = {"temperature": float, "top_p": float, "top_k": int}
TOP_K_OFF = -1
DEFAULT_SAMPLING: Mapping[str, float | int] = {"temperature": 1.0, "top_p": 1.0, "top_k": TOP_K_OFF}


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


def resolve_sampling(study: Sampling, model: Mapping[str, float | int]) -> dict[str, float | int]:
    """Return a generator's sampling values: those of the study, else of the model, else `DEFAULT_SAMPLING`."""
    sampling = {**DEFAULT_SAMPLING, **model, **study.model_dump(exclude_none=True)}
    if sampling["top_k"] <= 0 or sampling["temperature"] == 0:  # greedy: top-k and top-p have no effect
        sampling["top_k"] = TOP_K_OFF
    if sampling["temperature"] == 0:
        sampling["top_p"] = DEFAULT_SAMPLING["top_p"]
    return sampling


def sampling_words(generator: Generator, artifact: Callable[[], Artifact]) -> str:
    """Return the sampling values that a generator's requests have, and which of them the study does not set.

    Raises:
        GenerationConfigError: the model is in a folder, and its `generation_config.json` cannot be used.
    """
    model = None
    with contextlib.suppress(ArtifactMissing, StudyError):
        model = artifact().facts.get("sampling")
    if not isinstance(model, dict):  # a manifest that was edited may hold anything
        model = read_sampling(Path(generator.model)) if Path(generator.model).is_dir() else None
    own = generator.sampling.model_dump(exclude_none=True)
    origin = {name: " (set by the model)" if name in (model or {}) else " (default)" for name in DEFAULT_SAMPLING}
    if model is None:
        origin = dict.fromkeys(DEFAULT_SAMPLING, " unless the model sets it")
    return ", ".join(
        f"{name} {'off' if name == 'top_k' and value == TOP_K_OFF else value}{'' if name in own else origin[name]}"
        for name, value in resolve_sampling(generator.sampling, model or {}).items()
    )
