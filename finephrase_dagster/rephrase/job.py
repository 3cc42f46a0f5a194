"""The one way into rephrasing: command, assets, pods and the Python API build and execute the same kind of job."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.earlier import EarlierDatasets
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.processor import on_cpu
from finephrase_dagster.artifacts.recipe import dataset_recipe, fixed_day
from finephrase_dagster.artifacts.verification import artifact_files, check_artifact
from finephrase_dagster.artifacts.versions import TRUNCATION_ENDPOINT
from finephrase_dagster.generators.template_clock import dated_template
from finephrase_dagster.rephrase.connection import API_KEY, Server
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.engine import DeviceLease, Endpoint, Engine, EngineLike
from finephrase_dagster.rephrase.executor import InProcessExecutor
from finephrase_dagster.rephrase.guidance import guided_endpoints
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.rephrase.model_list import counts_tokens
from finephrase_dagster.rephrase.model_source import (
    DeviceLeases,
    EngineSpec,
    JobInvalid,
    check_options,
    endpoint_source,
    engine_spec,
    generator_source,
    installed_endpoints,
)
from finephrase_dagster.rephrase.progress import Lines
from finephrase_dagster.rephrase.reader import COLUMNS, InputReader, check_files
from finephrase_dagster.rephrase.readme import write_readme
from finephrase_dagster.rephrase.render import (
    ByteRenderer,
    CountedRenderer,
    Renderer,
    RendererLike,
    TokenizerUnreadable,
)
from finephrase_dagster.rephrase.settings import ExecutionSettings
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.rephrase.step import Engines, RephraseStep
from finephrase_dagster.rephrase.survey import Survey, saved_survey, survey_input
from finephrase_dagster.study.component import Cell
from finephrase_dagster.study.generator import PACKAGED, Keep
from finephrase_dagster.study.paths import Paths
from finephrase_dagster.study.prompt import Prompt, read_referenced


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Target(_Frozen):
    """The fields of a `Dataset`; its folder is a path or a URL, and `rows` is None until the input has been read."""

    folder: str
    recipe: Mapping[str, Any]
    earlier: tuple[str, ...] = ()


class RephraseJob(_Frozen):
    """Input, prompts, datasets, and the model that writes them. A job can be sent to another process as JSON.

    Attributes:
        files: the input files, paths or URLs.
        limit: process only the first so many rows; None: all.
        columns: the columns of ids and texts in the files.
        targets: the datasets to write, by prompt name. Sampling, context and lengths are read from their recipes.
        output: the folder that holds the datasets' folders and gets a README; None: no README is written.
        model: the name that requests use for the model.
        tokenizer: the folder or hub name of the tokenizer that counts a document's tokens; None: count UTF-8 bytes.
        endpoints: URLs of the servers that have the model; if there are none, `engine` is started.
        concurrency, chunk_rows, gpus, gpu_hour_dollars: see `ExecutionSettings`.
        log_seconds: time between two lines on the progress.
        retry_failed: send the failed rows of complete datasets again.
    """

    files: tuple[str, ...]
    limit: int | None = None
    columns: tuple[str, str] = COLUMNS
    prompts: Mapping[str, Prompt]
    targets: Mapping[str, Target]
    output: str | None = None
    model: str
    tokenizer: str | None = None
    endpoints: tuple[str, ...] = ()
    engine: EngineSpec | None = None
    concurrency: int = Field(default=256, ge=1)
    chunk_rows: int = Field(default=5000, ge=1)
    gpus: int | None = None
    gpu_hour_dollars: float | None = None
    log_seconds: float = 30
    retry_failed: bool = False

    def datasets(self, rows: str | None = None) -> dict[str, Dataset]:
        """Return the datasets by prompt; `rows` is the hash of the input rows, where recipes do not hold it yet."""
        return {
            prompt: Dataset(
                folder=folder_at(target.folder),
                recipe={**target.recipe, "rows": rows} if target.recipe["rows"] is None else target.recipe,
                earlier=target.earlier,
                libraries="endpoint" if self.endpoints else "synthetic",
            )
            for prompt, target in self.targets.items()
        }

    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return the manifests of the datasets that are complete, by prompt."""
        return {prompt: manifest for prompt, dataset in self.datasets().items() if (manifest := dataset.manifest())}

    def saved_survey(self) -> Survey | None:
        """Return the survey that a dataset of an earlier run keeps, if the input has not changed since."""
        folders = (folder_at(target.folder) for target in self.targets.values())
        surveys = (saved_survey(folder, self.files, self.limit, self.columns) for folder in folders)
        return next((survey for survey in surveys if survey), None)

    def renderer(self) -> RendererLike:
        """Return the renderer of the prompts."""
        recipe = next(iter(self.targets.values())).recipe
        context, max_tokens = recipe["context"], recipe["max_tokens"]
        if self.tokenizer is None:
            kind = CountedRenderer if recipe["truncation"] == TRUNCATION_ENDPOINT else ByteRenderer
            return kind(prompts=self.prompts, context=context, max_tokens=max_tokens)
        try:
            day = fixed_day(recipe)
            return Renderer(model=self.tokenizer, prompts=self.prompts, context=context, max_tokens=max_tokens, day=day)
        except TokenizerUnreadable as error:
            if not self.endpoints:
                raise
            remedy = "Correct --tokenizer, name a local folder, or leave it out to cut by bytes."
            raise TokenizerUnreadable(f"{str(error).rstrip('.')}. {remedy}") from error

    def sized(self, survey: Survey, log: Callable[[str], None] = lambda line: None) -> RephraseJob:
        """Return the job as its endpoints can cut the documents: by tokens if they count them, otherwise by bytes.

        They are asked only if a document may not fit, and only before the first run, whose recipe holds the answer.
        """
        renderer = self.renderer() if self.tokenizer is None else None
        if not isinstance(renderer, ByteRenderer) or survey.longest <= renderer.longest:
            return self
        begun = {dataset.begun_recipe().get("truncation") for dataset in self.datasets().values()} - {None}
        if TRUNCATION_ENDPOINT not in begun:
            key = os.environ.get(API_KEY) or None
            if begun or not all(counts_tokens(Server(url, key), self.model) for url in self.endpoints):
                log("documents that may not fit are cut by UTF-8 bytes; --tokenizer NAME|DIR cuts them by tokens")
                return self
        targets = {
            name: target.model_copy(update={"recipe": {**target.recipe, "truncation": TRUNCATION_ENDPOINT}})
            for name, target in self.targets.items()
        }
        return self.model_copy(update={"targets": targets})

    def new_engine(self, devices: Callable[[], DeviceLease] | None = None) -> Engine:
        """Return the engine that serves the model; it is not started yet."""
        assert self.engine is not None
        spec, day = self.engine, fixed_day(next(iter(self.targets.values())).recipe)
        template = dated_template(spec.model, day) if day else None
        return Engine.of(
            spec.generator, model=spec.model, name=self.model, log=spec.log, devices=devices, template=template
        )

    @contextlib.contextmanager
    def open_engines(
        self, *, leases: DeviceLeases | None = None, log: Callable[[str], None] = lambda line: None
    ) -> Iterator[Sequence[EngineLike]]:
        """Yield the endpoints, or an engine that is started here and stopped at the end."""
        if self.endpoints:
            yield [Endpoint(url=url, model=self.model) for url in self._useful_endpoints(log)]
            return
        assert self.engine is not None
        log(f"starting an engine for {self.model}; this takes about a minute on a CPU, more for a large model")
        gpus = self.engine.generator.gpus
        devices = partial(leases.lease, gpus, f"an engine of {self.model}", log=log) if leases else None
        with self.new_engine(devices) as engine:
            yield [engine]

    def _useful_endpoints(self, log: Callable[[str], None]) -> Sequence[str]:
        """Return the endpoints: all, or those that follow grammars if a dataset needs that."""
        if not any("grammar" in target.recipe for target in self.targets.values()):
            return self.endpoints
        return guided_endpoints(self.endpoints, self.model, log)

    def settings(
        self,
        *,
        log: Callable[[str], None] = lambda line: None,
        watch: Callable[[RunStatistics], None] = lambda statistics: None,
        show: Callable[[RunStatistics], None] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> ExecutionSettings:
        """Return the execution settings; arguments as for `execute`."""
        gpus, stated, model = self.gpus, None, None
        if self.engine is not None and not self.endpoints:
            generator = self.engine.generator
            path = Path(generator.model)  # of a folder, a README that is published shows the name only
            model = PACKAGED.name if generator.is_packaged else path.name if path.is_dir() else generator.model
            gpus = gpus if gpus is not None else 0 if on_cpu() else generator.gpus
            stated = generator.throughput.tokens_per_second if generator.throughput else None
        return ExecutionSettings(
            concurrency=self.concurrency,
            chunk_rows=self.chunk_rows,
            gpus=gpus,
            gpu_hour_dollars=self.gpu_hour_dollars,
            stated=stated,
            model=model,
            output=self.output,
            watch=watch,
            show=show or Lines(log, seconds=self.log_seconds),
            log=log,
            report=report or log,
        )

    def step(
        self, survey: Survey, engines: Callable[[], Engines] | None = None, settings: ExecutionSettings | None = None
    ) -> RephraseStep:
        """Return the DataTrove step that writes the datasets."""
        return RephraseStep(
            datasets=self.datasets(survey.digest),
            survey=survey,
            renderer=self.renderer,
            model=self.model,
            engines=engines or self.open_engines,
            settings=settings or self.settings(),
        )


def execute(
    job: RephraseJob,
    *,
    engines: Callable[[], Engines] | None = None,
    log: Callable[[str], None] = lambda line: None,
    watch: Callable[[RunStatistics], None] = lambda statistics: None,
    show: Callable[[RunStatistics], None] | None = None,
    report: Callable[[str], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the datasets of a job that are not complete yet, and return all manifests by prompt.

    Args:
        engines: opens the engines, if there is something to send; default: `job.open_engines`.
        watch: called with the run's statistics when it begins; they are updated in place.
        show: called with the statistics twice a second; default: a line to `log` every `job.log_seconds`.
        report: receives the row counts of the datasets at the end; default: `log`.

    Raises:
        FinephraseError: see `prepare` and `RephraseStep.run`.
    """
    job, survey, datasets = prepare(job, log)
    if all(dataset.manifest() for dataset in datasets.values()):
        log("everything was complete already; nothing was sent")
    else:
        settings = job.settings(log=log, watch=watch, show=show, report=report)
        step = job.step(survey, engines or partial(job.open_engines, log=log), settings)
        InProcessExecutor([InputReader(survey.files, survey.limit, survey.surveyed, survey.columns), step]).run()
    complete = {prompt: dataset.written_manifest() for prompt, dataset in datasets.items()}
    if job.output is not None:
        write_readme(folder_at(job.output))
    return complete


def prepare(job: RephraseJob, log: Callable[[str], None]) -> tuple[RephraseJob, Survey, dict[str, Dataset]]:
    """Survey the input, unless its survey is kept, and reopen the datasets whose failed rows are sent again.

    Returns:
        The job as its endpoints can cut documents, the survey, and the datasets by prompt.

    Raises:
        InputUnreadable, DuplicateId, NoRows: the input cannot be used.
        RecipeChanged, LedgerError: see `Dataset.manifest`.
    """
    survey = job.saved_survey() or survey_input(job.files, job.limit, log, job.columns)
    job = job.sized(survey, log)
    datasets = job.datasets(survey.digest)
    for prompt, dataset in datasets.items():
        manifest = dataset.manifest()  # raises for another recipe
        if job.retry_failed and manifest and manifest["failed"]:
            log(f"{prompt}: {manifest['failed']:,} failed rows are sent again")
            dataset.reopen()
    return job, survey, datasets


def cell_job(lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], **execution: Any) -> RephraseJob:
    """Return the job of a study's cell.

    Args:
        datasets: the datasets to write, by prompt name.
        execution: fields of `RephraseJob`, such as `concurrency`.

    Raises:
        ArtifactMissing: the model or the corpus is not complete.
        JobInvalid: an endpoint of the installation is not a URL.
    """
    corpus, model = lineage.source(cell.source), lineage.generator(cell.generator)
    earlier = EarlierDatasets(lineage.paths.data) if cell.reuse else None
    return RephraseJob(
        files=tuple(map(str, artifact_files(corpus))),
        prompts={prompt: lineage.prompts[prompt] for prompt in datasets},
        targets={
            name: Target(
                folder=str(one.folder), recipe=plain(one.recipe), earlier=tuple(earlier.of(one)) if earlier else ()
            )
            for name, one in datasets.items()
        },
        model=cell.generator,
        tokenizer=str(check_artifact(model) / "model"),
        engine=engine_spec(lineage, cell.generator, lineage.study.generators[cell.generator]),
        endpoints=installed_endpoints(lineage.paths),
        **execution,
    )


def build_job(
    files: Sequence[str],
    *,
    prompts: Sequence[str],
    output: str,
    generator: str | None = None,
    endpoints: Sequence[str] = (),
    model: str | None = None,
    tokenizer: str | None = None,
    context: int | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    seed: int | None = None,
    guided: bool | None = None,
    rollouts: int | None = None,
    keep: Keep | None = None,
    keep_raw: bool = False,
    paths: Paths | None = None,
    log: Callable[[str], None] = lambda line: None,
    **execution: Any,
) -> RephraseJob:
    """Return the job that the options of `finephrase rephrase` describe.

    A generator's model is unpacked or downloaded if it is not on disk yet. An endpoint is asked for its context, unless
    `context` is given.

    Args:
        prompts: names or files of prompts; the dataset of each is written to `<output>/<prompt>`.
        output: a folder or a URL.
        guided: whether the prompts' grammars decide the form of completions; None: as the generator says.
        rollouts, keep: how rows that fail gates are drawn again; None: as the generator says, or not at all.
        paths: the study file and the folders; default: those that the environment names.
        log: receives a line when an endpoint is waited for.
        execution: further fields of `RephraseJob`: `limit`, `columns`, `concurrency`, `chunk_rows`, `gpus`,
            `gpu_hour_dollars`, `retry_failed`. Without a `concurrency`, the generator's throughput sweep decides it.

    Raises:
        JobInvalid: options contradict each other, or one is missing.
        InputUnreadable: an input file cannot be read, as far as that shows without opening it.
        PromptError, StudyError, ModelError, ContextUnknown, LocationInvalid: an option names what does not exist.
    """
    check_options(prompts, output, generator, endpoints, model, tokenizer, context)
    for option, number in (("--temperature", temperature), ("--gpu-hour-dollars", execution.get("gpu_hour_dollars"))):
        if number is not None and not math.isfinite(number):
            raise JobInvalid(f"{option} {number}: not a finite number.")
    if top_p is not None and not 0 < top_p <= 1:
        raise JobInvalid(f"--top-p {top_p}: write a number above 0 and at most 1.")
    if top_k is not None and top_k < -1:
        raise JobInvalid(f"--top-k {top_k}: write a number of tokens, or -1 for all.")
    paths = paths or Paths.from_environment()
    texts = read_referenced(paths.prompts, prompts)
    check_files(files)
    folders = {name: f"{output.rstrip('/') or '/'}/{name}" for name in texts}
    for folder in folders.values():
        folder_at(folder)  # refuses what cannot be a folder, before an endpoint is asked for anything
    chosen = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    overrides = {name: value for name, value in chosen.items() if value is not None}
    if generator:
        source = generator_source(generator, paths, max_tokens, overrides, guided)
    else:
        source = endpoint_source(endpoints, str(model), tokenizer, context, max_tokens, overrides, bool(guided), log)
    targets = {}
    for name, text in texts.items():
        drawn = source.rollout_recipe(text, rollouts, keep)
        recipe = dataset_recipe(rows=None, prompt=text, keep_raw=keep_raw, rollouts=drawn, **source.recipe)
        targets[name] = Target(folder=folders[name], recipe=plain(recipe))
    given = {name: value for name, value in execution.items() if (name, value) != ("concurrency", None)}
    if "concurrency" in source.fields and "concurrency" not in given:
        log(f"{source.fields['concurrency']} requests in flight, as the throughput sweep of {generator} chose")
    fields: dict[str, Any] = {**source.fields, **given}
    try:
        return RephraseJob(files=tuple(files), prompts=texts, targets=targets, output=output, **fields)
    except ValidationError as error:
        field = error.errors()[0]
        raise JobInvalid(f"{'.'.join(map(str, field['loc']))}: {field['msg']}") from error
