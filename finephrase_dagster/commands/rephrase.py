"""The `rephrase` command."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from finephrase_dagster.commands.extras import require_extra
from finephrase_dagster.commands.options import JsonOption, StudyOption, paths_of, require_finite
from finephrase_dagster.commands.terminal import clock
from finephrase_dagster.orchestration.logs import json_wanted

if TYPE_CHECKING:
    from finephrase_dagster.rephrase.job import RephraseJob
    from finephrase_dagster.rephrase.statistics import RunStatistics

LINE_SECONDS = 10.0
REPORTED = (
    *("fingerprint", "rows_in", "completed", "skipped", "failed", "prompt_tokens", "completion_tokens"),
    *("documents_cut", "cleaned", "discarded", "reasons", "run", "goodput"),
)
"""Fields of a manifest that the command reports."""


InputOption = Annotated[
    list[str],
    typer.Option(
        "--input",
        metavar="FILE...",
        help="Input files: JSONL (plain, .gz, .zst) or Parquet, with columns id and text (see --id-column). Paths or "
        "URLs; only the shell expands patterns such as *.jsonl.",
    ),
]
PromptOption = Annotated[
    str, typer.Option(metavar="NAME[,NAME...]", help="Prompts to rephrase with. The result is one dataset per prompt.")
]
OutputOption = Annotated[
    str, typer.Option(metavar="DIR", help="Folder or URL (s3://...). Each dataset is written to DIR/<prompt>.")
]
GeneratorOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="A generator of the study file; the command starts an engine for it.")
]
EndpointOption = Annotated[
    list[str] | None,
    typer.Option(metavar="URL...", help="Servers with OpenAI's API that serve the model. They share the requests."),
]
ModelOption = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the model at the endpoint.")]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="Tokenizer of the endpoint's model, to cut long documents by tokens. Default: the endpoint counts the "
        "tokens; if it cannot, documents are cut by UTF-8 bytes.",
    ),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        min=2, metavar="N", help="Maximum tokens of prompt and completion together. Default: what the endpoint reports."
    ),
]
MaxTokensOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Maximum tokens of a completion. Default: the generator's, or 2048, or half of the context if less.",
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(min=0, metavar="T", help="Sampling temperature. Default: the generator's, or the server's."),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Sample from the likeliest tokens with a probability of P together. Default: as above.",
    ),
]
TopKOption = Annotated[
    int | None,
    typer.Option(metavar="K", help="Sample from the K likeliest tokens; -1: from all. Default: as above."),
]
IdColumnOption = Annotated[
    str, typer.Option(metavar="NAME", help="Column of the ids; a dot names a nested field, such as meta.id.")
]
TextColumnOption = Annotated[str, typer.Option(metavar="NAME", help="Column of the texts.")]
SeedOption = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="Seed from which each request derives its own. Default: the generator's, or none."
    ),
]
GuidedOption = Annotated[
    bool | None,
    typer.Option(
        "--guided/--free",
        help="Whether the prompts' grammars decide the form of completions. Default: as in the generator, or free.",
    ),
]
RolloutsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=100,
        metavar="N",
        help="While a row's completion fails a gate that judges single rows (form, truncated, ...), generate it again "
        "with another seed, up to N times in all. Default: as in the generator, or 1.",
    ),
]
KeepOption = Annotated[
    Literal["best", "first_passing"] | None,
    typer.Option(
        help="first_passing: stop at the first rollout that passes; best: draw all N and keep the one with the fewest "
        "flaws. Default: as in the generator, or first_passing."
    ),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=20_000,
        metavar="N",
        help="Maximum requests in flight. Default: what the generator's throughput sweep chose, or 256.",
    ),
]
ChunkRowsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Input rows per output file.")]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1024,
        metavar="N",
        help="Processes that share the rows; each starts an engine, or sends a part of the requests to the endpoints. "
        "The same command may run on other machines at the same time, with the same DIR.",
    ),
]
LimitOption = Annotated[int | None, typer.Option(min=1, max=2**62, metavar="N", help="Process only the first N rows.")]
KeepRawOption = Annotated[
    bool, typer.Option("--keep-raw", help="Also keep each completion as it was before cleaning, in the column raw.")
]
RetryFailedOption = Annotated[
    bool, typer.Option("--retry-failed", help="Send the failed rows of complete datasets again.")
]
GpusOption = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Number of GPUs serving the endpoints; used to compute the cost.")
]
GpuHourDollarsOption = Annotated[
    float | None, typer.Option(min=0, metavar="USD", help="Price per GPU-hour in dollars; used to compute the cost.")
]
MetricsPortOption = Annotated[
    str | None,
    typer.Option(
        metavar="PORT|FIRST-LAST",
        envvar="FINEPHRASE_METRICS_PORT",
        help="Serve Prometheus metrics on this port, or on the first free one of a range.",
    ),
]


class ManyValues(TyperCommand):
    """A command whose options --input, --endpoint and --select accept several values, and may be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in ("--input", "--endpoint", "--select") else None
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


def rephrase(
    inputs: InputOption,
    prompt: PromptOption,
    output: OutputOption,
    generator: GeneratorOption = None,
    endpoint: EndpointOption = None,
    model: ModelOption = None,
    tokenizer: TokenizerOption = None,
    context: ContextOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    top_k: TopKOption = None,
    seed: SeedOption = None,
    guided: GuidedOption = None,
    rollouts: RolloutsOption = None,
    keep: KeepOption = None,
    concurrency: ConcurrencyOption = None,
    chunk_rows: ChunkRowsOption = 5000,
    workers: WorkersOption = None,
    limit: LimitOption = None,
    id_column: IdColumnOption = "id",
    text_column: TextColumnOption = "text",
    keep_raw: KeepRawOption = False,
    retry_failed: RetryFailedOption = False,
    gpus: GpusOption = None,
    gpu_hour_dollars: GpuHourDollarsOption = None,
    metrics_port: MetricsPortOption = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rephrase the rows of files with one or more prompts. Each prompt makes one dataset.

    If the command was interrupted, run it again to resume. FINEPHRASE_API_KEY holds the endpoints' API key, if any.

    \b
    Examples:
      finephrase rephrase --input web.jsonl.zst --prompt faq,table --output out \\
          --endpoint http://127.0.0.1:8000 --model HuggingFaceTB/SmolLM2-1.7B-Instruct
      finephrase rephrase --input web/*.parquet --prompt faq --output s3://bucket/out --generator rephraser
    """
    if generator and not endpoint:  # both together are refused below, whatever is installed
        require_extra("engine", "--generator")
    require_finite({"--temperature": temperature, "--gpu-hour-dollars": gpu_hour_dollars})
    log = clock(f"loading libraries and the model of {generator}" if generator and not endpoint else "")
    from finephrase_dagster.rephrase.job import build_job
    from finephrase_dagster.rephrase.metrics import ports_of

    if metrics_port:
        ports_of(metrics_port)  # refuses a wrong value before anything else is done
    job = build_job(
        inputs,
        prompts=[name.strip() for name in prompt.split(",") if name.strip()],
        output=output,
        generator=generator,
        endpoints=endpoint or [],
        model=model,
        tokenizer=tokenizer,
        context=context,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        guided=guided,
        rollouts=rollouts,
        keep=keep,
        keep_raw=keep_raw,
        paths=paths_of(study),
        limit=limit,
        columns=(id_column, text_column),
        concurrency=concurrency,
        chunk_rows=chunk_rows,
        gpus=gpus,
        gpu_hour_dollars=gpu_hour_dollars,
        retry_failed=retry_failed,
        log=log,
    )
    report = {"output": output, **_execute(job, metrics_port, workers, log)}
    typer.echo(json.dumps(report, indent=2) if as_json else rephrased_text(report))


def _execute(
    job: RephraseJob, metrics_port: str | None, workers: int | None, log: Callable[[str], None]
) -> dict[str, Any]:
    """Execute a job, show its progress and serve its metrics; return what is reported of time and datasets."""
    from finephrase_dagster.orchestration import devices
    from finephrase_dagster.rephrase.job import execute
    from finephrase_dagster.rephrase.metrics import serve_metrics

    started, recipe = time.monotonic(), next(iter(job.targets.values())).recipe
    if job.engine:
        values = ", ".join(f"{name} {recipe['sampling'][name]}" for name in ("temperature", "top_p"))
        log(f"sampling: {values}, max_tokens {recipe['max_tokens']}")
    run: Callable[..., dict[str, dict[str, Any]]] = partial(
        execute, engines=partial(job.open_engines, leases=devices, log=log)
    )
    if workers:
        from finephrase_dagster.production.workers import execute_with_workers

        run = partial(execute_with_workers, workers=workers, leases=devices)
    report_rows = log if json_wanted() else _ignore  # a log for machines is complete in itself
    with progress(log) as show, serve_metrics(metrics_port, model=job.model, log=log) as watch:
        manifests = run(job, log=log, watch=watch, show=show, report=report_rows)
    datasets = {
        name: {"folder": job.targets[name].folder, **{field: manifest.get(field) for field in REPORTED}}
        for name, manifest in manifests.items()
    }
    return {"seconds": round(time.monotonic() - started, 3), "datasets": datasets}


@contextlib.contextmanager
def progress(log: Callable[[str], None]) -> Iterator[Callable[[RunStatistics], None]]:
    """Yield what shows the progress: bars on a terminal, lines elsewhere."""
    from finephrase_dagster.rephrase.progress import Bars, Lines

    bars = sys.stderr.isatty() and not json_wanted()
    with contextlib.closing(Bars() if bars else Lines(log, seconds=LINE_SECONDS)) as show:
        yield show


def _ignore(lines: str) -> None:
    """Do nothing with the row counts: the report on standard output has them."""


def rephrased_text(report: dict[str, Any]) -> str:
    """Return the report of a run as text for a terminal."""
    from finephrase_dagster.rephrase.progress import goodput_text

    lines = []
    for name, dataset in report["datasets"].items():
        lines.append(
            f"{name}: {dataset['rows_in']:,} rows in = {dataset['completed']:,} completed + {dataset['skipped']:,} "
            f"skipped + {dataset['failed']:,} failed; {dataset['completion_tokens']:,} completion tokens"
        )
        lines += [f"  {count:,} x {reason}" for reason, count in dataset["reasons"].items()]
        if dataset["documents_cut"]:
            lines.append(f"  {dataset['documents_cut']:,} documents were cut to fit the context")
        if dataset["cleaned"]:
            rules = ", ".join(f"{rule} {count:,}" for rule, count in dataset["cleaned"].items())
            lines.append(f"  completions from which cleaning removed something: {rules}")
        if dataset["discarded"]["rollouts"]:
            rollouts, prompt, completion = dataset["discarded"].values()
            tokens = f"{prompt:,} prompt tokens and {completion:,} completion tokens"
            lines.append(f"  {rollouts:,} rollouts were discarded, with {tokens}")
        lines.append(f"  {dataset['folder']}")
    lines += [
        goodput_text(name, dataset["goodput"]) for name, dataset in report["datasets"].items() if dataset["goodput"]
    ]
    run = next(iter(report["datasets"].values()))["run"]
    lines.append(
        f"{run['requests']:,} requests in {run['wall_seconds']:,.1f} s: {run['engine_seconds']:,.1f} s with the "
        f"engine, {run['engine_start_seconds']:,.1f} s to start it, {run['other_seconds']:,.1f} s for the rest; "
        f"{run['requests_per_second']:,.1f} requests/s, {run['tokens_per_second']:,.0f} output tokens/s, "
        f"{run['repeated_requests']:,} retried"
    )
    optional = {
        "prefix cache hit rate": run["prefix_cache_hit_rate"],
        "speculation acceptance": run["speculation_acceptance"],
        "tokens per GPU-hour": run["tokens_per_gpu_hour"],
        "dollars": run["dollars"],
    }
    figures = [f"{name} {value:,}" for name, value in optional.items() if value is not None]
    return "\n".join([*lines, *([", ".join(figures)] if figures else [])])
