"""How a finished artifact is told to Dagster: its data version and what a person wants to see of it.

A run over several partitions of one asset gets one data version from Dagster, so that a rerun of four
prompts would mark what hangs on the three unchanged ones. `materialize_each` therefore logs one event a
partition, with the provenance that Dagster itself would have written.
"""

from __future__ import annotations

from collections.abc import Mapping
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

from finephrase_dagster.partitions import TEMPLATE
from finephrase_dagster.study.artifact import Artifact
from finephrase_dagster.study.fingerprint import plain


def materialized(
    artifact: Artifact,
    *,
    rows: int | None = None,
    preview: str | None = None,
    **metadata: Any,
) -> dg.MaterializeResult:
    """The result of a complete artifact.

    Args:
        artifact: what was made, or was there already.
        rows: its rows, for the catalogue.
        preview: Markdown that shows some of it.
        metadata: further figures; numbers become plots over materialisations.
    """
    shown: dict[str, Any] = {}
    if preview is not None:
        shown["preview"] = dg.MetadataValue.md(preview)
    shown |= {name: value for name, value in metadata.items() if value is not None}
    shown |= {
        "folder": dg.MetadataValue.path(str(artifact.folder)),
        "fingerprint": artifact.fingerprint,
        "recipe": dg.MetadataValue.json(plain(artifact.recipe)),
    }
    if rows is not None:
        shown["dagster/row_count"] = rows
    return dg.MaterializeResult(data_version=dg.DataVersion(artifact.version), metadata=shown)


def materialize_each(
    context: dg.AssetExecutionContext,
    deps: Mapping[dg.AssetKey, Mapping[str, str]],
    results: Mapping[str, dg.MaterializeResult],
) -> None:
    """Logs one event a partition, in a run over several.

    Args:
        context: of a skippable asset, which may yield nothing.
        deps: what each partition depends on: for every upstream asset, its partition by ours.
        results: by partition.
    """
    known: dict[tuple[dg.AssetKey, str], tuple[str, str]] = {}
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
    """What a partition was made from; `known` keeps what was looked up, for partitions share much of it."""
    tags = {CODE_VERSION_TAG: context.assets_def.code_versions_by_key[context.asset_key] or ""}
    for key, partition in upstream.items():
        if (key, partition) not in known:
            known[key, partition] = _version(context.instance, key, partition)
        tags[get_input_data_version_tag(key)], tags[get_input_event_pointer_tag(key)] = known[key, partition]
    return tags


def _version(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str) -> tuple[str, str]:
    """The data version that an upstream partition has now, and the event that says so."""
    record = instance.get_latest_data_version_record(key, key == TEMPLATE, partition)
    version = extract_data_version_from_entry(record.event_log_entry) if record else None
    return (version.value if version else "NULL"), (str(record.storage_id) if record else "NULL")
