"""Descriptions of assets, as Markdown for their pages in the web UI.

The first sentence of a description stands alone, because the catalogue shows only that.
"""

from __future__ import annotations

from functools import partial

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.markdown import markdown_table
from finephrase_dagster.artifacts.sampling import sampling_words
from finephrase_dagster.study.component import Cell
from finephrase_dagster.study.fields import hub_reference
from finephrase_dagster.study.generator import PACKAGED, Generator

HUB = "https://huggingface.co"


def hub_model(generator: Generator) -> str | None:
    """Return the hub page of a generator's model; None if the model is not from the hub."""
    reference = hub_reference(generator.model)
    return f"{HUB}/{reference.repository}" if reference else None


def of_prompts(lineage: Lineage) -> str:
    """Describe the prompts of a study."""
    rows = [
        (f"`{name}`", prompt.format, prompt.family, prompt.origin, prompt.description)
        for name, prompt in lineage.prompts.items()
    ]
    return (
        "The instructions for rephrasing, one file per prompt. Observing them costs nothing and marks the datasets of "
        "an edited prompt as stale. The events show each prompt's text.\n\n"
        + markdown_table(("prompt", "format", "family", "origin", "what it asks for"), rows)
    )


def of_sources(lineage: Lineage) -> str:
    """Describe the corpora of a study."""
    rows = [
        (
            f"`{name}`",
            source.label,
            _count(getattr(source, "documents", None)),
            _count(getattr(source, "tokens", None)),
            source.selection,
        )
        for name, source in lineage.study.sources.items()
    ]
    return (
        "Raw text to rephrase and to mix: documents with stable ids and a content hash, in numbered Parquet shards. "
        "The sizes that the study file expects:\n\n"
        + markdown_table(("corpus", "from", "documents", "tokens", "which rows"), rows)
    )


def of_generators(lineage: Lineage) -> str:
    """Describe the generators of a study."""
    rows = [
        (
            f"`{name}`",
            _label(generator),
            _count(generator.parameters),
            f"{generator.context:,}",
            generator.license or "",
        )
        for name, generator in lineage.study.generators.items()
    ]
    return (
        f"Chat models in Hugging Face format that rephrase documents. `embedded` is {PACKAGED.name} from the package "
        f"`{PACKAGED.package}`; all others come from the hub or from a folder.\n\n"
        + markdown_table(("generator", "model", "parameters", "context", "license"), rows)
    )


def of_cell(lineage: Lineage, cell: Cell) -> str:
    """Describe a cell: its corpus, model, limits and prompts."""
    source, generator = lineage.study.sources[cell.source], lineage.study.generators[cell.generator]
    settings = [
        ("corpus", f"`{cell.source}`: {source.label}"),
        ("model", f"`{cell.generator}`: {_label(generator)}"),
        ("limits", f"{generator.context:,} tokens of context, {generator.max_tokens:,} of them for the completion"),
        ("sampling of new datasets", sampling_words(generator, partial(lineage.generator, cell.generator))),
    ]
    prompts = [lineage.prompts[name] for name in lineage.study.prompts_of(cell)]
    return (
        f"`{cell.source}`, rephrased by `{cell.generator}`, one dataset per prompt. A run over several prompts serves "
        f"all of them from one engine.\n\n{markdown_table(('', ''), settings)}\n\n"
        + markdown_table(
            ("prompt", "format", "what it asks for"), [(f"`{p.name}`", p.format, p.description) for p in prompts]
        )
    )


def _label(generator: Generator) -> str:
    if reference := hub_reference(generator.model):
        return f"[{reference.repository}]({hub_model(generator)}) at `{reference.revision[:10]}`"
    return f"{PACKAGED.name}, packaged" if generator.is_packaged else f"`{generator.model}`"


def _count(number: float | None) -> str:
    return f"{number:,.0f}" if number else ""
