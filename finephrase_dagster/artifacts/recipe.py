"""The recipe of a synthetic dataset: everything that determines its rows, in readable form; parts of other recipes.

Where and how the rows are generated (paths, hosts, concurrency, chunk size, engine flags that do not change the
distribution) is not part of it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from finephrase_dagster.artifacts.engine_flags import distribution_flags
from finephrase_dagster.artifacts.processor import fast_precision
from finephrase_dagster.artifacts.versions import CLEANING, CODE, ELIGIBILITY, NANOTRON, TRUNCATION
from finephrase_dagster.study.component import Cell
from finephrase_dagster.study.generator import Generator, Keep
from finephrase_dagster.study.prompt import Prompt, PromptError
from finephrase_dagster.study.student import Evaluation, Student

PRECISION = {"transformers": "float32", "nanotron": "bfloat16"}
ENDPOINT_DAY = "the day of each request, as the endpoint sees it"
SERVER_DEFAULT = "server default"
SAMPLING = ("temperature", "top_p", "top_k", "seed")


def dataset_recipe(
    *,
    rows: str | None,
    prompt: Prompt,
    model: str,
    engine: Mapping[str, Any],
    sampling: Mapping[str, Any],
    context: int,
    max_tokens: int,
    truncation: str = TRUNCATION,
    tokenizer: str | None = None,
    guided: bool = False,
    keep_raw: bool = False,
    endpoint_model: str | None = None,
    day: Mapping[str, Any] | None = None,
    rollouts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the recipe of one prompt's dataset.

    Args:
        rows: hash of the input rows; None until they have been read.
        prompt: the prompt; its texts and what it requires count, its description does not.
        model: hash of weights, tokenizer and chat template; for an endpoint, the model's name.
        sampling: see `artifacts/sampling.py`; values that are missing are `SERVER_DEFAULT`.
        context: maximum number of tokens of prompt and completion together.
        max_tokens: maximum number of tokens of a completion.
        tokenizer: the tokenizer that counts a document's tokens, where it does not come with the model.
        endpoint_model: the name by which servers of others were asked for a generator whose weights `model` identifies;
            nobody here knows which weights they have.
        day: see `resolve_day`.
        rollouts: see `rollout_recipe`.

    Raises:
        PromptError: completions are to be guided, and the prompt has no grammar; or all rollouts would be equal.
    """
    if guided and prompt.grammar is None:
        raise PromptError(
            f"prompt {prompt.name!r}: has no grammar, and its generator is guided by one. Add the field 'grammar' to "
            "the prompt, or leave the generator free (--free, or guided: false)."
        )
    if rollouts and sampling.get("temperature") == 0:
        raise PromptError(
            f"prompt {prompt.name!r}: at temperature 0 all {rollouts['most']} rollouts of a row would be the same "
            "completion. Raise the temperature (--temperature 0.7, or the generator's 'sampling'), or leave out "
            "'rollouts'."
        )
    return {
        "stage": "synthetic",
        "code": CODE["synthetic"],
        "rows": rows,
        "prompt": {"name": prompt.name, "system": prompt.system, "template": prompt.template},
        "model": model,
        "engine": dict(engine),
        "sampling": {name: sampling.get(name, SERVER_DEFAULT) for name in SAMPLING},
        "context": context,
        "max_tokens": max_tokens,
        "truncation": truncation,
        "cleaning": CLEANING,
        **({"tokenizer": tokenizer} if tokenizer else {}),
        **({"grammar": prompt.grammar} if guided else {}),
        **({"keep_raw": True} if keep_raw else {}),
        **({"endpoint_model": endpoint_model} if endpoint_model else {}),
        **({"requires": prompt.required, "eligibility": ELIGIBILITY} if prompt.requires else {}),
        **(day or {}),
        **({"rollouts": rollouts} if rollouts else {}),
    }


def rollout_recipe(
    rollouts: int, keep: Keep, *, check: str, gates: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return how a row's rollouts are drawn, judged and chosen; None where a row is drawn once.

    Args:
        gates: the settings of all gates for completions of that form. Only gates count that judge each row by itself,
            and need neither a model nor benchmark items.
    """
    if rollouts == 1:
        return None
    light = {name: gate for name, gate in gates.items() if gate["by_row"] and not {"model", "items"} & gate.keys()}
    used = {name: gate for name, gate in light.items() if gate.get("blocking") or keep == "best"}
    kept = {
        name: {setting: value for setting, value in gate.items() if setting not in ("threshold", "by_row")}
        for name, gate in used.items()
    }
    return {"most": rollouts, "keep": keep, "check": check, "gates": kept}


def dropping_gates(cell: Cell, gates: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the gates whose failing rows are dropped from a dataset, given the settings of all gates."""
    if cell.on_failure != "drop_rows":
        return []
    return [name for name, gate in gates.items() if gate["by_row"] and gate.get("blocking")]


def resolve_day(clock: object, day: str, *, endpoints: bool) -> dict[str, Any]:
    """Return the date that a chat template inserts, for a recipe; nothing for a template without a date.

    Args:
        clock: see `generators.template_clock.read_clock`.
        endpoints: whether servers of others render the template; not all templates take a date from a request.
    """
    if clock not in ("argument", "template"):
        return {}
    if not endpoints:
        return {"date": day}
    if clock == "template":
        return {"date": ENDPOINT_DAY}
    text = datetime.date.fromisoformat(day).strftime("%d %b %Y")
    return {"date": day, "chat_template_kwargs": {"date_string": text}}


def fixed_day(recipe: Mapping[str, Any]) -> str | None:
    """Return the date that the chat template inserts; None if it inserts none, or the endpoint's."""
    return None if recipe.get("date") == ENDPOINT_DAY else recipe.get("date")


def student_recipe(student: Student, trainer: str) -> dict[str, Any]:
    """Return what determines how a student is trained; nanotron reads the data in another order, with other kernels."""
    fields = {**student.model_dump(mode="json"), "precision": student.precision or PRECISION[trainer]}
    return {"student": fields, **({"trainer": trainer, "commit": NANOTRON} if trainer == "nanotron" else {})}


def scorer_recipe(evaluation: Evaluation) -> dict[str, Any]:
    """Return what determines how log-probabilities are computed, if it is not transformers in float32."""
    if evaluation.backend == "transformers":
        return {}
    return {"backend": evaluation.backend, "engine": distribution_flags(evaluation.engine)}


def resolve_precision(generator: Generator) -> Generator:
    """Return a packaged generator with the precision that suits this machine, unless the study names one.

    Precision changes logits, so it is part of the recipe.
    """
    if not generator.is_packaged or "dtype" in generator.engine:
        return generator
    return generator.model_copy(update={"engine": {"dtype": fast_precision(), **generator.engine}})


def request_parameters(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that every request of a dataset has in common, as OpenAI's API names them.

    What the server decides is left out. The seed is not among them: each request has its own.
    """
    sampling = {name: recipe["sampling"][name] for name in SAMPLING if name != "seed"}
    return {
        "max_tokens": recipe["max_tokens"],
        **{name: value for name, value in sampling.items() if value != SERVER_DEFAULT},
        **{name: recipe[name] for name in ("chat_template_kwargs",) if name in recipe},
        **({"structured_outputs": {"grammar": recipe["grammar"]}} if "grammar" in recipe else {}),
    }


def base_seed(recipe: Mapping[str, Any]) -> int | None:
    """Return the seed that the requests' own seeds are derived from; None if requests carry no seed."""
    seed = recipe["sampling"]["seed"]
    return None if seed == SERVER_DEFAULT else int(seed)
