"""The recipe of a synthetic dataset: all that determines its rows, in readable form.

Where and how it runs (paths, hosts, concurrency, chunks, engine flags that leave the distribution alone) is
not in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finephrase_dagster.artifacts.versions import CLEANING, CODE, TRUNCATION
from finephrase_dagster.study.prompt import Prompt

SERVER_DEFAULT = "server default"


def dataset_recipe(
    *,
    rows: str,
    prompt: Prompt,
    model: str,
    engine: Mapping[str, Any],
    sampling: Mapping[str, Any],
    context: int,
    max_tokens: int,
    truncation: str = TRUNCATION,
    keep_raw: bool = False,
) -> dict[str, Any]:
    """The recipe.

    Args:
        rows: the identity of the input rows.
        prompt: its texts count, its description does not.
        model: the identity of weights, tokenizer and chat template; of an endpoint's model, its name.
        engine: the engine's flags that change completions.
        sampling: temperature, top_p, top_k and seed; `SERVER_DEFAULT` where the server decides.
        context: tokens of prompt and completion together.
        max_tokens: tokens a completion may have.
        truncation: how a document is cut to fit.
        keep_raw: whether rows hold the completion before cleaning, too.
    """
    return {
        "stage": "synthetic",
        "code": CODE["synthetic"],
        "rows": rows,
        "prompt": {"name": prompt.name, "system": prompt.system, "template": prompt.template},
        "model": model,
        "engine": dict(engine),
        "sampling": dict(sampling),
        "context": context,
        "max_tokens": max_tokens,
        "truncation": truncation,
        "cleaning": CLEANING,
        **({"keep_raw": True} if keep_raw else {}),
    }
