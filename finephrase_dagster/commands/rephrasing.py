"""The `rephrase` command: files through prompts into datasets, with no Dagster at all.

What was asked for becomes recipes, a renderer, and engines: a generator of the study, whose model and engine
are then this machine's, or endpoints that somebody else runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.fingerprint import SHORT, sha256_file
from finephrase_dagster.artifacts.recipe import SERVER_DEFAULT, dataset_recipe
from finephrase_dagster.artifacts.versions import TRUNCATION, TRUNCATION_BYTES
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.devices import lease, leased_here
from finephrase_dagster.orchestration.logs import json_wanted
from finephrase_dagster.rephrase.connection import Server
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.engine import Endpoint, Engine, EngineFailed, EngineLike, on_cpu
from finephrase_dagster.rephrase.folder import folder_at
from finephrase_dagster.rephrase.metrics import MetricsPortWrong, ports_of, served
from finephrase_dagster.rephrase.pipeline import rephrase
from finephrase_dagster.rephrase.progress import Bars, Lines
from finephrase_dagster.rephrase.readme import write_readme
from finephrase_dagster.rephrase.render import ByteRenderer, Renderer, RendererLike
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.step import Request
from finephrase_dagster.rephrase.survey import survey
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.paths import Paths
from finephrase_dagster.study.prompt import Prompt, read_prompts

MAX_TOKENS = 2048
LINE_SECONDS = 10.0
ASKING = 5  # times that an endpoint is asked for its context
TOKENIZER_FILES = ("*token*.json", "*.model", "vocab*", "merges.txt", "*.jinja")


class RequestWrong(FinephraseError, exit_status=2):
    """What was asked for cannot be done; the message says how to ask."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What was asked for; the fields are the options of `finephrase rephrase`."""

    inputs: Sequence[str]
    prompts: Sequence[str]
    output: str
    generator: str | None
    endpoints: Sequence[str]
    model: str | None
    tokenizer: str | None
    context: int | None
    max_tokens: int | None
    temperature: float | None
    seed: int | None
    concurrency: int
    chunk_rows: int
    limit: int | None
    keep_raw: bool
    gpus: int | None
    gpu_hour_dollars: float | None
    metrics_port: str | None = None

    def check(self) -> None:
        """Raises RequestWrong if options contradict each other or are missing."""
        if bool(self.generator) == bool(self.endpoints):
            raise RequestWrong("say either --generator NAME, or --endpoint URL with --model NAME")
        if self.endpoints and not self.model:
            raise RequestWrong("--endpoint needs --model: the name that the server has for its model")
        if self.generator:
            for option, value in (
                ("--model", self.model),
                ("--tokenizer", self.tokenizer),
                ("--context", self.context),
            ):
                if value is not None:
                    raise RequestWrong(f"{option} goes with --endpoint; a generator's is in the study file")
        if not self.prompts:
            raise RequestWrong("--prompt names no prompt; write --prompt NAME[,NAME...]")
        if self.metrics_port:
            try:
                ports_of(self.metrics_port)
            except MetricsPortWrong as error:
                raise RequestWrong(f"--metrics-port {error}") from error
        if not self.output:
            raise RequestWrong("--output is empty; name a folder")
        for option, number in (("--temperature", self.temperature), ("--gpu-hour-dollars", self.gpu_hour_dollars)):
            if number is not None and not math.isfinite(number):
                raise RequestWrong(f"{option} {number} is no number that can be used")
        if repeated := sorted({name for name in self.prompts if self.prompts.count(name) > 1}):
            raise RequestWrong(f"--prompt names {repeated[0]!r} more than once; name each prompt once")


@dataclass(frozen=True, kw_only=True)
class _Means:
    """What an order is carried out with."""

    recipe: Callable[[str, Prompt], dict[str, Any]]
    renderer: Callable[[], RendererLike]
    request: Request
    engines: Callable[[], contextlib.AbstractContextManager[Sequence[EngineLike]]]
    gpus: int | None


def carry_out(order: Order, *, paths: Paths, key: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Makes the datasets that were asked for.

    Returns:
        `output`, `datasets` (by prompt, the figures of its manifest and its `folder`) and `seconds`.

    Raises:
        RequestWrong and what `rephrase` raises.
    """
    began = time.monotonic()
    order.check()
    prompts = read_prompts(paths.prompts, tuple(order.prompts))
    means = _of_generator(order, prompts, paths, say) if order.generator else _of_endpoints(order, prompts, key)
    found = survey(order.inputs, order.limit)
    datasets = {
        name: Dataset(folder=_folder(order.output, name), recipe=means.recipe(found.digest, prompt))
        for name, prompt in prompts.items()
    }
    show = Bars(len(datasets)) if sys.stderr.isatty() and not json_wanted() else Lines(say, seconds=LINE_SECONDS)
    metrics = served(order.metrics_port, model=order.generator or str(order.model), log=say)
    with contextlib.ExitStack() as running, contextlib.closing(show), metrics as watch:
        manifests = rephrase(
            survey=found,
            datasets=datasets,
            renderer=means.renderer,
            request=means.request,
            engines=lambda: running.enter_context(means.engines()),
            settings=ExecutionSettings(
                concurrency=order.concurrency,
                chunk_rows=order.chunk_rows,
                gpus=means.gpus if order.gpus is None else order.gpus,
                gpu_hour_dollars=order.gpu_hour_dollars,
                watch=watch,
                show=show,
                log=say,
            ),
            keep_raw=order.keep_raw,
        )
    write_readme(folder_at(order.output))
    shown = ("fingerprint", "rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens")
    return {
        "output": order.output,
        "seconds": round(time.monotonic() - began, 3),
        "datasets": {
            name: {
                "folder": str(datasets[name].folder),
                **{field: manifest[field] for field in (*shown, "reasons", "run")},
            }
            for name, manifest in manifests.items()
        },
    }


def _folder(output: str, prompt: str) -> Any:
    try:
        return folder_at(f"{output.rstrip('/') or '/'}/{prompt}")
    except (ValueError, OSError) as error:
        raise RequestWrong(f"--output {error}") from error


def _of_generator(order: Order, prompts: Mapping[str, Prompt], paths: Paths, say: Callable[[str], None]) -> _Means:
    """A model of the study, on an engine of our own."""
    from finephrase_dagster.catalogue import read_lineage  # only a generator of a study needs it
    from finephrase_dagster.generators.product import make_generator

    lineage = read_lineage(paths)
    name = str(order.generator)
    if name not in lineage.study.generators:
        known = ", ".join(lineage.study.generators)
        raise RequestWrong(f"--generator {name}: study {paths.study} has no such generator; it has {known}")
    artifact = lineage.generator(name)
    device = partial(leased_here, f"the training of {name}", log=say)
    manifest = artifact.materialize(lambda folder: make_generator(lineage, name, folder, log=say, device=device))
    model = artifact.folder / "model"
    spec = _adjusted(lineage.study.generators[name], order)
    sampling = {**manifest["sampling"], **spec.sampling.model_dump(exclude_none=True)}

    @contextlib.contextmanager
    def engines() -> Iterator[Sequence[EngineLike]]:
        say(f"starting an engine for {name}")
        with Engine.of(
            spec,
            model=model,
            name=name,
            log=paths.data / "logs" / f"engine-{name}.log",
            devices=lambda: lease(spec.gpus, f"an engine of {name}", log=say),
        ) as engine:
            yield [engine]

    return _Means(
        recipe=lambda rows, prompt: dataset_recipe(
            rows=rows,
            prompt=prompt,
            model=artifact.version,
            engine=spec.distribution_flags,
            sampling=sampling,
            context=spec.context,
            max_tokens=spec.max_tokens,
            keep_raw=order.keep_raw,
        ),
        renderer=lambda: Renderer(model=model, prompts=prompts, context=spec.context, max_tokens=spec.max_tokens),
        request=Request.of(name, spec.max_tokens, sampling),
        engines=engines,
        gpus=0 if on_cpu() else spec.gpus,
    )


def _adjusted(generator: Generator, order: Order) -> Generator:
    """The study's generator with what the order says otherwise."""
    said = {"temperature": order.temperature, "seed": order.seed}
    fields = generator.model_dump()
    fields["sampling"] |= {name: value for name, value in said.items() if value is not None}
    if order.max_tokens is not None:
        fields["max_tokens"] = order.max_tokens
    try:
        return Generator(**fields)
    except ValueError as error:
        raise RequestWrong(f"--generator {order.generator}: {_first_line(error)}") from error


def _of_endpoints(order: Order, prompts: Mapping[str, Prompt], key: str | None) -> _Means:
    """A model that servers of somebody else have."""
    try:
        servers = [Server(url, key) for url in order.endpoints]
    except ValueError as error:
        raise RequestWrong(f"--endpoint: {error}") from error
    model = str(order.model)
    context = order.context or _context(servers, model, key)
    max_tokens = MAX_TOKENS if order.max_tokens is None else order.max_tokens
    if max_tokens >= context:
        raise RequestWrong(
            f"--max-tokens {max_tokens} leaves no room for a prompt in a context of {context}; lower it, or raise "
            "--context"
        )
    said = {"temperature": order.temperature, "seed": order.seed}
    sampling = {name: value for name, value in said.items() if value is not None}

    def recipe(rows: str, prompt: Prompt) -> dict[str, Any]:
        unsaid = dict.fromkeys(("temperature", "top_p", "top_k", "seed"), SERVER_DEFAULT)
        made = dataset_recipe(
            rows=rows,
            prompt=prompt,
            model=model,
            engine={},
            sampling={**unsaid, **sampling},
            context=context,
            max_tokens=max_tokens,
            truncation=TRUNCATION if order.tokenizer else TRUNCATION_BYTES,
            keep_raw=order.keep_raw,
        )
        return {**made, "tokenizer": _tokenizer_identity(order.tokenizer)} if order.tokenizer else made

    def renderer() -> RendererLike:
        if order.tokenizer is None:
            return ByteRenderer(prompts=prompts, context=context, max_tokens=max_tokens)
        return Renderer(model=order.tokenizer, prompts=prompts, context=context, max_tokens=max_tokens)

    @contextlib.contextmanager
    def engines() -> Iterator[Sequence[EngineLike]]:
        yield [Endpoint(url=server.url, model=model) for server in servers]

    return _Means(
        recipe=recipe,
        renderer=renderer,
        request=Request.of(model, max_tokens, sampling),
        engines=engines,
        gpus=None,
    )


def _tokenizer_identity(tokenizer: str) -> str:
    """A folder by its tokenizer's files; a name on the hub by itself."""
    folder = Path(tokenizer)
    if not folder.is_dir():
        return tokenizer
    files = sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})
    digest = hashlib.sha256("".join(f"{path.name} {sha256_file(path)}\n" for path in files).encode())
    return digest.hexdigest()[:SHORT]


def _context(servers: Sequence[Server], model: str, key: str | None) -> int:
    """The context that all servers name for a model; one that does not answer now may do so later."""
    contexts: dict[str, int] = {}
    dead: EngineFailed | None = None
    with ThreadPoolExecutor(len(servers)) as threads:
        asked = {server.url: threads.submit(_context_of, server, model, key) for server in servers}
    for url, found in asked.items():
        try:
            contexts[url] = found.result()
        except EngineFailed as error:
            dead = error
    if dead and not contexts:
        raise dead
    if len(set(contexts.values())) > 1:
        said = ", ".join(f"{url} {context}" for url, context in contexts.items())
        raise RequestWrong(f"the endpoints differ in the context of {model} ({said}); say which one with --context")
    return next(iter(contexts.values()))


def _context_of(server: Server, model: str, key: str | None) -> int:
    models = _models(server, key)
    for found in models:
        if isinstance(found, dict) and found.get("id") == model:
            context = found.get("max_model_len")
            if isinstance(context, int) and context > 0:
                return context
            raise RequestWrong(f"{server.url} does not say the context of {model}; give it with --context")
    names = ", ".join(str(found.get("id")) for found in models if isinstance(found, dict)) or "none"
    raise RequestWrong(f"{server.url} has no model {model!r}; it has {names}. Correct --model, or give --context")


def _models(server: Server, key: str | None) -> list[Any]:
    request = urllib.request.Request(
        f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {}
    )
    for attempt in range(ASKING):
        time.sleep(attempt)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return list(json.loads(answer.read())["data"])
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise RequestWrong(
                    f"{server.url}/v1/models answers HTTP {error.code}; give --context"
                    + (", or set FINEPHRASE_API_KEY" if error.code in (401, 403) else "")
                ) from error
            reason: object = f"HTTP {error.code}"
        except (OSError, ValueError, LookupError, TypeError) as error:
            reason = error
    raise EngineFailed(f"{server.url} does not answer ({reason}); see that it runs, then run again")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[2].removeprefix("Value error, ") if len(lines) > 2 else str(error)
