"""Descriptions: what an asset is and what it is made of, as Markdown for its page in the web UI.

The first sentence stands alone, for the catalogue shows no more. A link to the hub is written only for what the
study takes from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.source import SourceSpec
from finephrase_dagster.study.spec import Cell

HUB = "https://huggingface.co"


def hub_model(generator: Generator) -> str | None:
    """The web page of a generator's model, if it has one."""
    name, _, revision = generator.model.partition("@")
    return f"{HUB}/{name}" if revision and not name.startswith(("/", ".")) else None


def of_prompts(lineage: Lineage) -> str:
    """The prompts of a study."""
    rows = [
        (f"`{name}`", prompt.format, prompt.family, prompt.origin, prompt.description)
        for name, prompt in lineage.prompts.items()
    ]
    return (
        "What a rephrasing asks for: one file a prompt. Observing costs nothing and marks the datasets of an edited "
        "prompt as stale; the text of each stands among the events.\n\n"
        + _table(("prompt", "format", "family", "origin", "what it asks for"), rows)
    )


def of_sources(lineage: Lineage) -> str:
    """The corpora of a study."""
    rows = [
        (
            f"`{name}`",
            source.label,
            _count(_said(source, "documents")),
            _count(_said(source, "tokens")),
            source.selection,
        )
        for name, source in lineage.study.sources.items()
    ]
    return (
        "Raw text to rephrase and to mix: documents with stable ids and a content hash, in numbered Parquet shards. "
        "What the study expects of each:\n\n" + _table(("corpus", "from", "documents", "tokens", "which rows"), rows)
    )


def of_generators(lineage: Lineage) -> str:
    """The generators of a study."""
    rows = [
        (
            f"`{name}`",
            _model(generator),
            _count(generator.parameters),
            f"{generator.context:,}",
            generator.license or "",
        )
        for name, generator in lineage.study.generators.items()
    ]
    return (
        "Chat models in Hugging Face format, the ones that rephrase. `embedded` is trained here on pairs that follow "
        "from the corpora's own structure; any other comes from the hub or a folder.\n\n"
        + _table(("generator", "model", "parameters", "context", "license"), rows)
    )


def of_cell(lineage: Lineage, cell: Cell) -> str:
    """A cell: its corpus, its model, its limits, its prompts."""
    source, generator = lineage.study.sources[cell.source], lineage.study.generators[cell.generator]
    sampling = ", ".join(f"{name} {value}" for name, value in generator.sampling.model_dump(exclude_none=True).items())
    made_of = [
        ("corpus", f"`{cell.source}`: {source.label}"),
        ("model", f"`{cell.generator}`: {_model(generator)}"),
        ("limits", f"{generator.context:,} tokens of context, {generator.max_tokens:,} of them for the completion"),
        ("sampling", f"{sampling}; what is not said here is the model's own"),
    ]
    prompts = [lineage.prompts[name] for name in lineage.study.prompts_of(cell)]
    return (
        f"`{cell.source}`, rephrased by `{cell.generator}`: one dataset a prompt. A run over several prompts serves "
        f"all of them from one engine.\n\n{_table(('', ''), made_of)}\n\n"
        + _table(("prompt", "format", "what it asks for"), [(f"`{p.name}`", p.format, p.description) for p in prompts])
    )


def _said(source: SourceSpec, what: str) -> float | None:
    return getattr(source, what, None)


def _model(generator: Generator) -> str:
    page = hub_model(generator)
    if page:
        name, _, revision = generator.model.partition("@")
        return f"[{name}]({page}) at `{revision[:10]}`"
    return "trained here" if generator.trained_here else f"`{generator.model}`"


def _count(number: float | None) -> str:
    return f"{number:,.0f}" if number else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
