"""The `rephrase` command."""

from __future__ import annotations

import json
import os
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from finephrase_dagster.commands.extras import require_extra
from finephrase_dagster.commands.options import JsonOption, StudyOption, paths_of
from finephrase_dagster.commands.terminal import clock


class ManyValues(TyperCommand):
    """A command whose options --input and --endpoint take several values, or stand several times."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in ("--input", "--endpoint") else None
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


def rephrase(
    inputs: Annotated[
        list[str], typer.Option("--input", metavar="FILE...", help="JSONL (plain, .gz, .zst) or Parquet: id and text.")
    ],
    prompt: Annotated[str, typer.Option(metavar="NAME[,NAME...]", help="Prompts, one dataset each.")],
    output: Annotated[str, typer.Option(metavar="DIR", help="Where DIR/<prompt> is made; a folder or s3://...")],
    generator: Annotated[str | None, typer.Option(metavar="NAME", help="A generator of the study.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(metavar="URL...", help="OpenAI-compatible servers, balanced.")
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The endpoint's name for its model.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="The model's; default: documents are cut by UTF-8 bytes.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=2, help="Tokens of prompt and completion; default: what the endpoint says.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a completion; default: the generator's, or 2048.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="Default: the generator's, or the server's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Gives each row and prompt a seed of its own; default: likewise.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=20_000, help="Requests in flight.")] = 256,
    chunk_rows: Annotated[int, typer.Option(min=1, help="Rows a file.")] = 5000,
    limit: Annotated[int | None, typer.Option(min=1, max=2**62, help="Rows, from the first.")] = None,
    keep_raw: Annotated[bool, typer.Option("--keep-raw", help="Keep completions before cleaning, too.")] = False,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs behind the endpoints, for the bill.")] = None,
    gpu_hour_dollars: Annotated[float | None, typer.Option(min=0, help="Price of one for an hour.")] = None,
    metrics_port: Annotated[
        str | None,
        typer.Option(metavar="PORT|FIRST-LAST", envvar="FINEPHRASE_METRICS_PORT", help="Serves Prometheus metrics."),
    ] = None,
    study: StudyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rephrases the rows of files: one dataset a prompt, complete when DIR/<prompt>/__meta__/manifest.json stands.

    Run again, it goes on where it was. FINEPHRASE_API_KEY is the endpoints' key.
    """
    if generator:
        require_extra("engine", "--generator")
    from finephrase_dagster.commands.rephrasing import Order, carry_out

    order = Order(
        inputs=inputs,
        prompts=[name.strip() for name in prompt.split(",") if name.strip()],
        output=output,
        generator=generator,
        endpoints=endpoint or [],
        model=model,
        tokenizer=tokenizer,
        context=context,
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        concurrency=concurrency,
        chunk_rows=chunk_rows,
        limit=limit,
        keep_raw=keep_raw,
        gpus=gpus,
        gpu_hour_dollars=gpu_hour_dollars,
        metrics_port=metrics_port,
    )
    key = os.environ.get("FINEPHRASE_API_KEY") or None
    done = carry_out(order, paths=paths_of(study), key=key, say=clock())
    typer.echo(json.dumps(done, indent=2) if as_json else rephrased_text(done))


def rephrased_text(done: dict[str, Any]) -> str:
    """What `rephrase` made, for a terminal."""
    lines = []
    for name, dataset in done["datasets"].items():
        lines.append(
            f"{name}: {dataset['rows_in']:,} rows in = {dataset['completed']:,} completed + {dataset['skipped']:,} "
            f"skipped + {dataset['failed']:,} failed; {dataset['completion_tokens']:,} output tokens"
        )
        lines += [f"  {count:,} x {reason}" for reason, count in dataset["reasons"].items()]
        lines.append(f"  {dataset['folder']}")
    run = next(iter(done["datasets"].values()))["run"]
    lines.append(
        f"{run['requests']:,} requests in {run['wall_seconds']:,.1f} s: {run['engine_seconds']:,.1f} s with the "
        f"engine, {run['engine_start_seconds']:,.1f} s to start it, {run['other_seconds']:,.1f} s else; "
        f"{run['documents_per_second']:,.1f} documents/s, {run['tokens_per_second']:,.0f} output tokens/s, "
        f"{run['repeated_requests']:,} repeated"
    )
    shares = {
        "prefix cache hit rate": run["prefix_cache_hit_rate"],
        "speculation acceptance": run["speculation_acceptance"],
        "tokens per GPU-hour": run["tokens_per_gpu_hour"],
        "dollars": run["dollars"],
    }
    said = [f"{name} {value:,}" for name, value in shares.items() if value is not None]
    return "\n".join([*lines, *([", ".join(said)] if said else [])])
