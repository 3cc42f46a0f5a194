"""The dataset card of a release: a README with the header that the Hugging Face hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from itertools import chain
from typing import Any

import yaml

from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.markdown import fenced, markdown_table
from finephrase_dagster.artifacts.recorded import failed_gates
from finephrase_dagster.artifacts.release import origin_columns
from finephrase_dagster.release.content import COLUMNS, ORIGIN
from finephrase_dagster.release.samples import samples
from finephrase_dagster.study.component import Component

SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
TAGS = ("synthetic", "finephrase")
SHOWN_CHARACTERS = 1_200
UNKNOWN = "not stated"
IN_OTHER_SECTIONS = ("stage", "code", "rows", "prompt", "model", "grammar")
"""Fields of a recipe that the table of sampling settings leaves out."""


def card(lineage: Lineage, manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the card of a release.

    Args:
        lineage: of a study whose release is complete.
    """
    from jinja2 import Environment, StrictUndefined

    release, components = lineage.study.release, dict.fromkeys(chain.from_iterable(lineage.study.released.values()))
    assert release is not None
    rows = sum(manifest["rows"] for manifest in manifests.values())
    template = files(__package__).joinpath("card.md.jinja").read_text(encoding="utf-8")
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.from_string(template).render(
        header=yaml.safe_dump(_header(lineage, manifests, rows), sort_keys=False, allow_unicode=True),
        title=release.title or lineage.study.name,
        study=lineage.study,
        rows=rows,
        example=next(iter(manifests)),
        configurations=_configurations(manifests),
        columns=markdown_table(
            ("column", "meaning"), [(f"`{name}`", text) for name, (_, text) in {**COLUMNS, **ORIGIN}.items()]
        ),
        samples={name: samples(lineage, name, 1) for name in manifests},
        shown=lambda text: fenced(text[:SHOWN_CHARACTERS] + " ..." * (len(text) > SHOWN_CHARACTERS)),
        datasets=_datasets(lineage, components),
        prompts={component.prompt: lineage.prompts[component.prompt or ""] for component in components},
        fenced=fenced,
        recipes={component.name: _recipe(lineage, component) for component in components},
        audits={component.name: _audit(lineage, component) for component in components},
        costs=_costs(lineage, components),
        licenses=_licenses(lineage, components),
        limits=release.limits,
    )


def _header(lineage: Lineage, manifests: Mapping[str, Mapping[str, Any]], rows: int) -> dict[str, Any]:
    release = lineage.study.release
    assert release is not None
    return {
        "pretty_name": release.title or lineage.study.name,
        "license": release.license,
        "language": list(release.languages),
        "task_categories": ["text-generation"],
        "size_categories": [_size(rows)],
        "tags": list(dict.fromkeys((*TAGS, *release.tags))),
        # A configuration without rows has no files and cannot be loaded.
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.parquet"}]}
            for name, manifest in manifests.items()
            if manifest["files"]
        ],
    }


def _size(rows: int) -> str:
    """Return the hub's name for a number of rows."""
    place = max(0, len(str(rows)) - 3)
    return "n<1K" if not place else "n>1T" if place >= len(SIZES) else f"{SIZES[place - 1]}<n<{SIZES[place]}"


def _configurations(manifests: Mapping[str, Mapping[str, Any]]) -> str:
    counts = ("rows", "prompt_tokens", "completion_tokens")
    table = [
        (
            f"`{name}`",
            *(f"{manifest[count]:,}" for count in counts),
            f"{manifest['completion_tokens'] / max(1, manifest['rows']):,.0f}",
            str(len(manifest["files"])),
            f"{sum(file['bytes'] for file in manifest['files']) / 1e6:,.2f}",
        )
        for name, manifest in manifests.items()
    ]
    header = ("configuration", "rows", "prompt tokens", "completion tokens", "tokens per completion", "files", "MB")
    return markdown_table(header, table)


def _datasets(lineage: Lineage, components: Mapping[Component, None]) -> str:
    table = []
    for component in components:
        dataset = lineage.component(component)
        made, columns = dataset.manifest(), origin_columns(lineage, component)
        counts = (made["rows_in"], made["completed"], made["skipped"], made.get("not_eligible", 0), made["failed"])
        audit = lineage.component_audit(component)
        dropped = (audit.facts.get("dropped") or {}).get("rows", 0) if audit else 0
        table.append(
            (
                f"`{component.name}`",
                f"{columns['model']} at `{columns['model_revision']}`",
                f"{columns['source']} at `{columns['source_version']}`",
                *(f"{count:,}" for count in (*counts, dropped)),
                f"`{dataset.fingerprint[:16]}`",
            )
        )
    counts_header = ("documents", "completed", "skipped", "of these not eligible", "failed", "left out by gates")
    return markdown_table(("dataset", "model", "source", *counts_header, "fingerprint"), table)


def _recipe(lineage: Lineage, component: Component) -> str:
    """Return what determines a dataset besides its prompt, model and source, as JSON."""
    recipe = plain(lineage.component(component).recipe)
    shown = {name: value for name, value in recipe.items() if name not in IN_OTHER_SECTIONS}
    return json.dumps({**shown, "guided": "grammar" in recipe}, indent=2, ensure_ascii=False)


def _audit(lineage: Lineage, component: Component) -> dict[str, Any]:
    """Return the gates of a dataset that block or that it failed, and why it is released although one failed."""
    audit, release = lineage.component_audit(component), lineage.study.release
    assert audit is not None
    assert release is not None
    manifest = audit.manifest()
    table = [
        (
            gate["name"],
            f"{gate['value']:.4g}",
            f"{gate['bound']} {gate['threshold']:g}",
            "yes" if gate["blocking"] else "no",
            "passed" if gate["passed"] else "**failed**",
        )
        for gate in manifest["gates"]
        if gate["blocking"] or not gate["passed"]
    ]
    return {
        "gates": markdown_table(("gate", "value", "required", "blocking", "outcome"), table),
        "failed": [] if manifest["passed"] else [*failed_gates(manifest).values()],
        "reason": release.despite_audits.get(component.name),
    }


def _costs(lineage: Lineage, components: Mapping[Component, None]) -> str:
    figures = {"engine_seconds": ",.0f", "gpu_hours": ",.1f", "dollars": ",.2f", "goodput": ".0%"}
    table = []
    for component in components:
        spent = lineage.component(component).manifest().get("goodput") or {}
        known = ((spent.get(name), form) for name, form in figures.items())
        table.append((f"`{component.name}`", *(UNKNOWN if one is None else format(one, form) for one, form in known)))
    return markdown_table(("dataset", "seconds of one engine", "GPU-hours", "dollars", "goodput"), table)


def _licenses(lineage: Lineage, components: Mapping[Component, None]) -> str:
    study, table = lineage.study, {}
    for component in components:
        source, generator = study.sources[component.source], study.generators[component.generator or ""]
        columns = origin_columns(lineage, component)
        table["source", columns["source"]] = getattr(source, "license", None) or UNKNOWN
        table["model", columns["model"]] = generator.license or UNKNOWN
    return markdown_table(("", "name", "license"), [(kind, name, license) for (kind, name), license in table.items()])
