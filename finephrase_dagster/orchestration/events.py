"""How a finished artifact is reported to Dagster: its data version, and the metadata of its page.

Dagster gives all partitions of a run the same data version. A rerun of four prompts would then mark as stale what
depends on three unchanged ones. `materialize_each` therefore logs one event per partition, with the provenance that
Dagster itself would have written.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.markdown import fenced
from finephrase_dagster.orchestration.partitions import TEMPLATE
from finephrase_dagster.plan.text import bytes_text, hours_text
from finephrase_dagster.study.prompt import Prompt, read_prompts

NO_VERSION = "NULL"
"""What Dagster records of an input that was never materialized."""
LINE = 90
"""The longest line, in characters, that a page shows completely."""


def materialized(
    artifact: Artifact,
    *,
    rows: int | None = None,
    preview: str | dg.TableMetadataValue | None = None,
    **metadata: Any,
) -> dg.MaterializeResult:
    """Return the result of a complete artifact: figures first, then a preview, then the recipe.

    Args:
        rows: its number of rows, for the catalogue.
        preview: a part of its content, as Markdown or as a table.
        metadata: further entries; Dagster plots numbers over time, and None is left out.
    """
    known = {name: value for name, value in metadata.items() if value is not None}
    entries: dict[str, Any] = {name: value for name, value in known.items() if isinstance(value, int | float)}
    if preview is not None:
        entries["preview"] = dg.MetadataValue.md(preview) if isinstance(preview, str) else preview
    entries |= {name: value for name, value in known.items() if name not in entries}
    entries |= {"times": times} if (times := _times(known)) else {}
    entries |= {
        "size": bytes_text(artifact.size_bytes),
        "folder": dg.MetadataValue.path(str(artifact.folder)),
        "fingerprint": artifact.fingerprint,
        "recipe": dg.MetadataValue.json(plain(artifact.recipe)),
        "dagster/size_bytes": artifact.size_bytes,
    }
    if rows is not None:
        entries["dagster/row_count"] = rows
    return dg.MaterializeResult(data_version=dg.DataVersion(artifact.version), metadata=entries)


def _times(figures: Mapping[str, Any]) -> str:
    """Return durations, which Dagster plots in seconds and hours, as people read them."""
    hours = {name: value for name, value in figures.items() if name.endswith("hours")}
    hours |= {name: value / 3600 for name, value in figures.items() if name.endswith("seconds")}
    words = ((re.sub("_?(hours|seconds)$", "", name) or "duration", value) for name, value in hours.items())
    return ", ".join(f"{word.replace('gpu', 'GPU')} {hours_text(value)}" for word, value in words)


def observed_prompts(lineage: Lineage) -> Iterator[tuple[Prompt, dg.AssetObservation]]:
    """Yield each prompt as its file is now, with its observation.

    Raises:
        PromptError: a file is wrong.
    """
    folder, study = lineage.paths.prompts, lineage.study
    own = study.prompt_files
    for name, prompt in read_prompts(folder, study.prompts, own, study.requires).items():
        yield prompt, observed(prompt, Path(own.get(name, folder / f"{name}.md")))


def observed(prompt: Prompt, file: Path) -> dg.AssetObservation:
    """Return the observation of a prompt file."""
    return dg.AssetObservation(
        TEMPLATE,
        partition=prompt.name,
        tags={DATA_VERSION_TAG: prompt.digest},
        metadata={
            "asks_for": prompt.description,
            "text": prompt_text(prompt),
            "format": prompt.format,
            "family": prompt.family,
            "origin": prompt.origin,
            "file": dg.MetadataValue.path(str(file)),
        },
    )


def prompt_text(prompt: Prompt) -> dg.MarkdownMetadataValue:
    """Return a prompt's text as Markdown, with its lines wrapped for the page."""
    system = f"system:\n\n{prompt.system}\n\nuser:\n\n" if prompt.system else ""
    return dg.MetadataValue.md(quoted(f"{system}{prompt.template}"))


def quoted(text: str) -> str:
    """Return a text as a Markdown code block; long lines are wrapped, because a page would cut them off."""
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, LINE, replace_whitespace=False) or [""]]
    return fenced("\n".join(lines))


def materialize_each(
    context: dg.AssetExecutionContext,
    deps: Mapping[dg.AssetKey, Mapping[str, str]],
    results: Mapping[str, dg.MaterializeResult],
) -> None:
    """Log one event per partition, in a run over several partitions.

    Args:
        context: of a skippable asset, which may yield nothing.
        deps: by upstream asset, the upstream partition that each of our partitions depends on.
    """
    known = _observed(context.instance, deps.get(TEMPLATE, {}).values())
    for partition, result in results.items():
        assert result.data_version is not None
        context.log_event(
            dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=partition,
                metadata=dict(result.metadata or {}),
                tags={
                    **_provenance(context, {key: of[partition] for key, of in deps.items()}, known),
                    DATA_VERSION_TAG: result.data_version.value,
                    DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
                },
            )
        )


def _provenance(
    context: dg.AssetExecutionContext,
    upstream: Mapping[dg.AssetKey, str],
    known: dict[tuple[dg.AssetKey, str], tuple[str, str]],
) -> dict[str, str]:
    """Return the tags that record a partition's inputs; `known` caches look-ups, because partitions share inputs."""
    tags = {CODE_VERSION_TAG: context.assets_def.code_versions_by_key[context.asset_key] or ""}
    for key, partition in upstream.items():
        if (key, partition) not in known:
            known[key, partition] = _version(context.instance, key, partition)
        tags[get_input_data_version_tag(key)], tags[get_input_event_pointer_tag(key)] = known[key, partition]
    return tags


def _observed(instance: dg.DagsterInstance, prompts: Iterable[str]) -> dict[tuple[dg.AssetKey, str], tuple[str, str]]:
    """Return the results of `_version` for prompts, with two queries however many prompts there are."""
    kind = dg.DagsterEventType.ASSET_OBSERVATION
    latest = instance.event_log_storage.get_latest_storage_id_by_partition(TEMPLATE, kind, set(prompts))
    if not latest:
        return {}
    chosen = dg.AssetRecordsFilter(TEMPLATE, storage_ids=list(latest.values()))
    records = instance.fetch_observations(chosen, limit=len(latest)).records
    versions = {}
    for record in records:
        version = extract_data_version_from_entry(record.event_log_entry)
        assert record.partition_key is not None
        versions[TEMPLATE, record.partition_key] = version.value if version else NO_VERSION, str(record.storage_id)
    return versions


def latest_runs(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """Return by partition the id of the Dagster run that materialized it last, with two queries."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    latest = instance.event_log_storage.get_latest_storage_id_by_partition(key, kind)
    if not latest:
        return {}
    chosen = dg.AssetRecordsFilter(key, storage_ids=list(latest.values()))
    records = instance.fetch_materializations(chosen, limit=len(latest)).records
    return {record.partition_key or "": record.event_log_entry.run_id for record in records}


def is_recorded(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None, *, version: str, code: str | None
) -> bool:
    """Return whether the latest materialization of a partition has a data version and a code version."""
    record = instance.get_latest_data_version_record(key, False, partition)
    event = record.event_log_entry.asset_materialization if record else None
    tags = (event.tags or {}) if event else {}
    return tags.get(DATA_VERSION_TAG) == version and tags.get(CODE_VERSION_TAG) == code


def recorded_version(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> str | None:
    """Return the current data version of a partition; None if Dagster has none."""
    version, _ = _version(instance, key, partition)
    return None if version == NO_VERSION else version


def _version(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> tuple[str, str]:
    """Return the current data version of an upstream partition, and the id of the event that recorded it."""
    record = instance.get_latest_data_version_record(key, key == TEMPLATE, partition)
    version = extract_data_version_from_entry(record.event_log_entry) if record else None
    return (version.value if version else NO_VERSION), (str(record.storage_id) if record else NO_VERSION)
