"""The `preview` command: sources and completions side by side, before a dataset is paid for."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finephrase_dagster.artifacts.sampling import TOP_K_OFF
from finephrase_dagster.commands.extras import require_extra
from finephrase_dagster.commands.options import (
    JsonOption,
    OptionWrong,
    StudyOption,
    paths_of,
    require_finite,
    require_writable,
)
from finephrase_dagster.commands.rephrase import (
    ContextOption,
    EndpointOption,
    GeneratorOption,
    GuidedOption,
    IdColumnOption,
    MaxTokensOption,
    ModelOption,
    SeedOption,
    TemperatureOption,
    TextColumnOption,
    TokenizerOption,
    progress,
)
from finephrase_dagster.commands.terminal import clock, print_json, print_table
from finephrase_dagster.study.fields import no_such_name
from finephrase_dagster.study.generator import PACKAGED

if TYPE_CHECKING:
    from finephrase_dagster.artifacts.lineage import Lineage
    from finephrase_dagster.corpora.source import SourceReader
    from finephrase_dagster.rephrase.job import RephraseJob
    from finephrase_dagster.rephrase.preview import PreviewRow, PromptSummary
    from finephrase_dagster.study.paths import Paths

SHOWN_CHARACTERS = 1_500  # of a text, in a terminal
WIDTH = 120  # where there is no terminal
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a million documents take with one prompt; None for what is unknown."""

    prompt_tokens: int
    completion_tokens: int
    gpu_hours: float | None = None
    machine_hours: float | None = None
    dollars: float | None = None


PromptsOption = Annotated[
    str | None,
    typer.Option(
        "--prompt",
        metavar="NAME[,NAME...]",
        help="Names of prompts, or prompt files (*.md). Default: the prompts of the study.",
        show_default=False,
    ),
]
FilesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="FILE...",
        help="Input files, as for rephrase. Default: the documents of --source.",
        show_default=False,
    ),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="A corpus of the study. Default: that of the study's first cell.", show_default=False
    ),
]
DocumentsOption = Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="Number of documents.")]
PriceOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="USD", help="Price per GPU-hour; default: 3, as in the published study."),
]
PageOption = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write an HTML page.", show_default=False)
]


def preview(
    prompt: PromptsOption = None,
    inputs: FilesOption = None,
    source: SourceOption = None,
    limit: DocumentsOption = 3,
    generator: GeneratorOption = None,
    endpoint: EndpointOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    context: ContextOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    seed: SeedOption = None,
    guided: GuidedOption = None,
    gpu_hour_dollars: PriceOption = None,
    html: PageOption = None,
    id_column: IdColumnOption = "id",
    text_column: TextColumnOption = "text",
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rephrase a few documents, and show sources and completions side by side. Writes no dataset.

    Shows for each completion whether it has the form that its prompt asks for, and what a million documents would cost.
    Without --generator and --endpoint, the study's first cell (a generator and the corpus it rephrases) is used.

    \b
    Examples:
      finephrase preview --study my_study/study.yaml
      finephrase preview --prompt faq,table --input web.jsonl --generator embedded
      finephrase preview --prompt ./glossary.md --input web.jsonl --endpoint http://127.0.0.1:8000 --model NAME
    """
    require_finite({"--temperature": temperature, "--gpu-hour-dollars": gpu_hour_dollars})
    if inputs and source:
        raise OptionWrong("--input and --source exclude each other; give one of them.")
    require_writable("--html", html, inputs or [])
    if not endpoint:
        require_extra("engine", "preview with a generator")
    from finephrase_dagster.catalogue import read_lineage
    from finephrase_dagster.rephrase.reader import COLUMNS

    log, paths = clock(), paths_of(study)
    lineage = read_lineage(paths) if not (inputs and prompt and (generator or endpoint)) else None
    if lineage and not (generator or endpoint):
        generator, guided = _first_cell(lineage, source, guided)
    options = {
        "prompts": _references(prompt, lineage),
        "generator": generator,
        "endpoints": endpoint or [],
        "model": model,
        "tokenizer": tokenizer,
        "context": context,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "guided": guided,
        "columns": (id_column, text_column) if inputs else COLUMNS,
    }
    result = _previewed(inputs or _source(lineage, source), limit, paths, options, gpu_hour_dollars, log)
    if html:
        html.write_text(_page(result), encoding="utf-8")
        log(f"wrote {html}")
    if as_json:
        print_json(_document(result))
    else:
        _print(result)


def _previewed(
    documents: Sequence[str] | SourceReader,
    limit: int,
    paths: Paths,
    options: Mapping[str, Any],
    gpu_hour_dollars: float | None,
    log: Callable[[str], None],
) -> Result:
    """Rephrase the first documents of files or of a source in a temporary folder."""
    from finephrase_dagster.orchestration import devices
    from finephrase_dagster.rephrase.job import build_job
    from finephrase_dagster.rephrase.preview import preview_rows, summarize, write_documents

    with tempfile.TemporaryDirectory(prefix="finephrase-preview-") as folder:
        files = documents if isinstance(documents, Sequence) else [write_documents(documents, limit, Path(folder))]
        job = build_job(files, output=f"{folder}/datasets", paths=paths, limit=limit, log=log, **options)
        engines = partial(job.open_engines, leases=devices, log=log)
        with progress(log) as show:
            rows = preview_rows(job, limit, engines=engines, log=log, show=show, report=lambda line: None)
    prompts = summarize(rows)
    prices = {name: _price(one, job, paths.data, gpu_hour_dollars) for name, one in prompts.items()}
    return Result(model=job.model, settings=_settings(job), rows=rows, prompts=prompts, prices=prices)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a preview shows."""

    model: str
    settings: Mapping[str, Any]
    rows: Sequence[PreviewRow]
    prompts: Mapping[str, PromptSummary]
    prices: Mapping[str, Price]


def _first_cell(lineage: Lineage, source: str | None, guided: bool | None) -> tuple[str, bool]:
    """Return the generator of the study's first cell, or of the first one on a source, and whether it is guided."""
    cells = [cell for cell in lineage.study.cells if source in (None, cell.source)]
    if not cells:
        raise OptionWrong(
            f"{lineage.paths.study}: no cell rephrases {source or 'a source'}. Name a model with --generator, or with "
            "--endpoint and --model."
        )
    return cells[0].generator, lineage.study.is_guided(cells[0]) if guided is None else guided


def _source(lineage: Lineage | None, name: str | None) -> SourceReader:
    """Return the reader of a source of the study; by default, of its first one."""
    from finephrase_dagster.corpora.source import read_source

    assert lineage is not None
    sources = lineage.study.sources
    if name is not None and name not in sources:
        raise OptionWrong(f"--source {name}: {no_such_name(name, sources)}")
    cells = [cell.source for cell in lineage.study.cells]
    chosen = name or next(iter([*cells, *sources]))
    return read_source(sources[chosen], chosen, requirements=lineage.paths.requirements)


def _references(prompt: str | None, lineage: Lineage | None) -> list[str]:
    """Return the names or files of the prompts; by default, of the study's."""
    own = lineage.study.prompt_files if lineage else {}
    names = [name.strip() for name in prompt.split(",") if name.strip()] if prompt else []
    if lineage and not names:
        names = list(lineage.study.prompts)
    return [own.get(name, name) for name in names]


def _settings(job: RephraseJob) -> dict[str, Any]:
    """Return the settings that decide the completions, from the recipe: what is sent is read from there."""
    recipe = next(iter(job.targets.values())).recipe
    guided = any("grammar" in target.recipe for target in job.targets.values())
    return {**recipe["sampling"], "max_tokens": recipe["max_tokens"], "context": recipe["context"], "guided": guided}


def _price(summary: PromptSummary, job: RephraseJob, data: Path, gpu_hour_dollars: float | None) -> Price:
    """Return what a million documents take: at the measured throughput of the model, else at the stated one."""
    from finephrase_dagster.plan.measured import Measured, Rate
    from finephrase_dagster.plan.published import Published

    tokens = Price(
        prompt_tokens=round(MILLION * summary.prompt_tokens),
        completion_tokens=round(MILLION * summary.completion_tokens),
    )
    if job.engine is None:
        return tokens
    spec, recipe = job.engine.generator, next(iter(job.targets.values())).recipe
    rate = Measured(data).generation(recipe["model"])
    if rate is None and spec.throughput:
        rate = Rate(tokens_per_second=spec.throughput.tokens_per_second, on_gpu=True)
    elif rate is None and spec.is_packaged:
        rate = Rate(tokens_per_second=PACKAGED.tokens_per_second, on_gpu=False)
    if rate is None:
        return tokens
    hours = tokens.completion_tokens / rate.tokens_per_second / 3600
    if not rate.on_gpu:
        return replace(tokens, machine_hours=hours)
    price = Published.read().gpu_hour_dollars if gpu_hour_dollars is None else gpu_hour_dollars
    return replace(tokens, gpu_hours=hours, dollars=hours * price)


def _document(result: Result) -> dict[str, Any]:
    """Return a preview as a JSON document."""
    return {
        "model": result.model,
        "settings": result.settings,
        "prompts": {
            name: {**asdict(summary), "per_million_documents": asdict(result.prices[name])}
            for name, summary in result.prompts.items()
        },
        "rows": [{**asdict(row), "passed": row.flaw is None} for row in result.rows],
    }


def _print(result: Result) -> None:
    """Print a preview: each document next to its completions, then a line per prompt."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, highlight=False, emoji=False)
    for _, group in groupby(result.rows, key=lambda row: row.id):
        rows = list(group)
        table = Table(box=box.SIMPLE, expand=True, show_edge=False)
        cut = ", cut to fit the context" if any(row.document_cut for row in rows) else ""
        table.add_column(f"{rows[0].id}{cut}", ratio=1)
        table.add_column("completions", ratio=1)
        completions = [
            f"{row.prompt}, {row.completion_tokens:,} tokens: {row.flaw or 'has its form'}\n\n{_shown(row.text or '')}"
            for row in rows
        ]
        table.add_row(_shown(rows[0].source), "\n\n\n".join(completions))
        console.print(table)
    settings = ", ".join(f"{name} {_value(name, value)}" for name, value in result.settings.items())
    typer.echo(f"{result.model}: {settings}")
    print_table(COLUMNS, [_summary(name, summary, result.prices[name]) for name, summary in result.prompts.items()])


COLUMNS = ("prompt", "form", "tokens in", "tokens out", "per million documents: tokens out", "hours", "dollars")


def _summary(name: str, summary: PromptSummary, price: Price) -> list[str]:
    hours = price.machine_hours if price.gpu_hours is None else price.gpu_hours
    unit = "GPU" if price.gpu_hours is not None else "of this machine"
    return [
        name,
        "-" if summary.form is None else f"{summary.form:.0%} of {summary.completed}",
        f"{summary.prompt_tokens:,.0f}",
        f"{summary.completion_tokens:,.0f}",
        f"{price.completion_tokens:,}",
        "unknown" if hours is None else f"{hours:,.1f} {unit}",
        f"{price.dollars:,.2f}" if price.dollars is not None else "-" if price.machine_hours else "unknown",
    ]


def _value(name: str, value: object) -> str:
    if name == "top_k" and value == TOP_K_OFF:
        return "off"
    return "server default" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _shown(text: str) -> str:
    """Return the beginning of a text, without characters that control a terminal."""
    lines = (line.expandtabs(4).rstrip() for line in text[:SHOWN_CHARACTERS].splitlines())  # code keeps its indentation
    clean = "\n".join("".join(letter if letter.isprintable() else " " for letter in line) for line in lines)
    more = len(text) - SHOWN_CHARACTERS
    return f"{clean}\n... and {more:,} characters more" if more > 0 else clean


def _page(result: Result) -> str:
    """Return a preview as a page that needs no network."""
    from finephrase_dagster.rephrase.side_by_side import side_by_side_page

    summaries = [_summary(name, summary, result.prices[name]) for name, summary in result.prompts.items()]
    settings = {name: _value(name, value) for name, value in result.settings.items()}
    title = f"Preview of {result.model}"
    return side_by_side_page(title, result.rows, settings=settings, columns=COLUMNS, summaries=summaries)
