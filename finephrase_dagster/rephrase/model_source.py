"""Where a job's completions come from: a generator of a study, on an engine of our own, or endpoints."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from finephrase_dagster.artifacts.engine_flags import distribution_flags
from finephrase_dagster.artifacts.fingerprint import SHORT, sha256_file
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recipe import ENDPOINT_DAY, resolve_day, resolve_precision, rollout_recipe
from finephrase_dagster.artifacts.sampling import resolve_sampling
from finephrase_dagster.artifacts.sweep import running_generator, swept_settings
from finephrase_dagster.artifacts.versions import TRUNCATION, TRUNCATION_BYTES
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.generators.template_clock import read_clock
from finephrase_dagster.rephrase.connection import API_KEY, Server
from finephrase_dagster.rephrase.engine import DeviceLease
from finephrase_dagster.rephrase.model_list import read_context
from finephrase_dagster.study.catalogue import settings_for
from finephrase_dagster.study.fields import similar
from finephrase_dagster.study.file import read_registry
from finephrase_dagster.study.generator import Generator, Keep
from finephrase_dagster.study.paths import ENDPOINTS, Paths
from finephrase_dagster.study.prompt import Prompt

MAX_TOKENS = 2048
DEFAULT_DAY = Generator.model_fields["date"].default
TOKENIZER_FILES = ("*token*.json", "*.model", "vocab*", "merges.txt", "*.jinja")


class JobInvalid(FinephraseError, exit_status=2):
    """The options of a job contradict each other; the message says what to change."""


class DeviceLeases(Protocol):
    """Reserves devices of this machine; `orchestration/devices.py` is one."""

    def lease(self, count: int, what: str, *, log: Callable[[str], None]) -> DeviceLease: ...


class EngineSpec(BaseModel):
    """A vLLM engine to start: the generator's settings, the model's folder and the engine's log file."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    generator: Generator
    model: Path
    log: Path


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where completions come from: fields of the job, arguments of `dataset_recipe`, and how often rows are drawn.

    `gates` has the settings of all gates; without a study, None: their defaults.
    """

    fields: dict[str, Any]
    recipe: dict[str, Any]
    rollouts: int = 1
    keep: Keep = "first_passing"
    gates: Mapping[str, Mapping[str, Any]] | None = None

    def rollout_recipe(self, prompt: Prompt, rollouts: int | None, keep: Keep | None) -> dict[str, Any] | None:
        """Return how a row of a prompt's dataset is drawn several times; None if it is drawn once.

        Args:
            rollouts, keep: what replaces the generator's own values, if not None.
        """
        if (most := rollouts or self.rollouts) == 1:
            return None
        from finephrase_dagster.audit.gates import gates

        known = self.gates or {name: gate.all_defaults for name, gate in gates().items()}
        settings = settings_for(known, prompt.check, prompt.name)
        return rollout_recipe(most, keep or self.keep, check=prompt.check, gates=settings)


def generator_source(
    name: str,
    paths: Paths,
    max_tokens: int | None,
    overrides: Mapping[str, float | int],
    guided: bool | None,
) -> ModelSource:
    """Return a generator of the study or of the registry, whose model is made ready on disk."""
    # Only a generator of a study needs these; importing them takes long.
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.generators.product import make_generator

    lineage = read_lineage(paths)
    if name not in lineage.study.generators:
        lineage = _with_registered(lineage, name)
    artifact = lineage.generator(name)
    manifest = artifact.materialize(lambda folder: make_generator(lineage.study.generators[name], folder))
    generator = _override(lineage.study.generators[name], name, max_tokens, overrides, guided)
    engine, swept = engine_spec(lineage, name, generator), swept_settings(lineage, name)
    in_flight = {"concurrency": swept.concurrency} if swept else {}
    return ModelSource(
        fields={"model": name, "tokenizer": str(engine.model), "engine": engine, **in_flight},
        recipe={
            "model": artifact.version,
            "engine": distribution_flags(engine.generator.engine),
            "sampling": resolve_sampling(generator.sampling, manifest["sampling"]),
            "context": generator.context,
            "max_tokens": generator.max_tokens,
            "day": resolve_day(manifest.get("clock"), generator.date, endpoints=False),
            "guided": generator.guided,
        },
        rollouts=generator.rollouts,
        keep=generator.keep,
        gates=lineage.study.gates,
    )


def _with_registered(lineage: Lineage, name: str) -> Lineage:
    """Return the lineage with a generator of the registry added to its study."""
    study, registry = lineage.study, read_registry("generators")
    if name not in registry:
        choice = similar(name, list(registry), "the registry has")
        raise JobInvalid(
            f"--generator {name}: neither the study {lineage.paths.study} nor the registry has such a generator. "
            f"The study has: {', '.join(study.generators)}. {choice[0].upper()}{choice[1:]}."
        )
    entry = {"max_tokens": min(MAX_TOKENS, registry[name]["context"] // 2), **registry[name]}
    generators = {**study.generators, name: Generator.model_validate(entry)}
    return Lineage(study=study.model_copy(update={"generators": generators}), paths=lineage.paths)


def engine_spec(lineage: Lineage, name: str, generator: Generator) -> EngineSpec:
    """Return the engine of a generator, with the flags that the study's throughput sweep chose for it, if any."""
    return EngineSpec(
        generator=resolve_precision(running_generator(lineage, name, generator)),
        model=lineage.generator(name).folder / "model",
        log=lineage.paths.data / "logs" / f"engine-{name}.log",
    )


def _override(
    generator: Generator,
    name: str,
    max_tokens: int | None,
    overrides: Mapping[str, float | int],
    guided: bool | None,
) -> Generator:
    """Return the study's generator with the values of options."""
    fields = generator.model_dump()
    fields["sampling"] |= overrides
    if max_tokens is not None:
        fields["max_tokens"] = max_tokens
    if guided is not None:
        fields["guided"] = guided
    try:
        return Generator(**fields)
    except ValueError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[2].removeprefix("Value error, ") if len(lines) > 2 else str(error)
        raise JobInvalid(f"--generator {name}: {reason}") from error


def installed_endpoints(paths: Paths) -> tuple[str, ...]:
    """Return the URLs of the servers that this installation uses for the study's generators."""
    try:
        return tuple(Server(url).url for url in paths.endpoints)
    except ValueError as error:
        raise JobInvalid(f"{ENDPOINTS}: {error}") from error


def endpoint_source(
    endpoints: Sequence[str],
    model: str,
    tokenizer: str | None,
    context: int | None,
    max_tokens: int | None,
    sampling: Mapping[str, float | int],
    guided: bool,
    log: Callable[[str], None],
) -> ModelSource:
    """Return a model that servers of others have."""
    key = os.environ.get(API_KEY) or None
    try:
        servers = [Server(url, key) for url in endpoints]
    except ValueError as error:
        raise JobInvalid(f"--endpoint: {error}") from error
    context = context or read_context(servers, model, log)
    if max_tokens is None:
        max_tokens = min(MAX_TOKENS, context // 2)
        if max_tokens < MAX_TOKENS:
            log(f"completions have at most {max_tokens} tokens, half of the context; --max-tokens sets another limit")
    if max_tokens >= context:
        raise JobInvalid(
            f"--max-tokens {max_tokens} leaves no room for a prompt in a context of {context}. Lower --max-tokens, or "
            "raise --context."
        )
    return ModelSource(
        fields={"model": model, "tokenizer": tokenizer, "endpoints": tuple(server.url for server in servers)},
        recipe={
            "model": model,
            "engine": {},
            "sampling": sampling,
            "context": context,
            "max_tokens": max_tokens,
            "guided": guided,
            "truncation": TRUNCATION if tokenizer else TRUNCATION_BYTES,
            "tokenizer": _tokenizer_identity(tokenizer) if tokenizer else None,
            "day": _endpoint_day(tokenizer, model, log) if tokenizer else None,
        },
    )


def _endpoint_day(tokenizer: str, model: str, log: Callable[[str], None]) -> dict[str, Any]:
    """Return the date that the endpoint's chat template inserts, if its tokenizer's template does."""
    day = resolve_day(read_clock(tokenizer), DEFAULT_DAY, endpoints=True)
    if day.get("date") == ENDPOINT_DAY:
        log(f"the chat template of {model} inserts the endpoint's date, so texts depend on the day they are asked for")
    return day


def _tokenizer_identity(tokenizer: str) -> str:
    """Return a hash of a folder's tokenizer files; a name on the hub stays as it is."""
    folder = Path(tokenizer)
    if not folder.is_dir():
        return tokenizer
    files = sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})
    digest = hashlib.sha256("".join(f"{path.name} {sha256_file(path)}\n" for path in files).encode())
    return digest.hexdigest()[:SHORT]


def check_options(
    prompts: Sequence[str],
    output: str,
    generator: str | None,
    endpoints: Sequence[str],
    model: str | None,
    tokenizer: str | None,
    context: int | None,
) -> None:
    """Raise JobInvalid if options contradict each other or are missing."""
    if generator and endpoints:
        raise JobInvalid("--generator and --endpoint exclude each other; give one of them.")
    if not generator and not endpoints:
        raise JobInvalid("Name the model: either --generator NAME, or --endpoint URL with --model NAME.")
    if endpoints and not model:
        raise JobInvalid("--endpoint needs --model, the name that the server has for its model.")
    if generator:
        for option, value in (("--model", model), ("--tokenizer", tokenizer), ("--context", context)):
            if value is not None:
                raise JobInvalid(f"{option} can only be used with --endpoint; the study file sets it for a generator.")
    if not prompts:
        raise JobInvalid("--prompt names no prompt. Write --prompt NAME[,NAME...].")
    if repeated := sorted({name for name in prompts if prompts.count(name) > 1}):
        raise JobInvalid(f"--prompt names {repeated[0]!r} more than once. Name each prompt once.")
    if not output:
        raise JobInvalid("--output is empty. Name a folder.")
