"""Asset keys, partitions, and which partition depends on which.

All partitions are static: they come from the study file. A dependency is always on exactly the partitions whose
versions are in an artifact's recipe, so that an edit makes stale only what depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import dagster as dg

from finephrase_dagster.artifacts import key as keys
from finephrase_dagster.artifacts.key import Kind
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.study.component import Cell

STAGE_TAG = "finephrase/stage"
"""Tag of every asset: the stage that makes it."""

TAG_CHARACTERS = 63
"""The length that Dagster allows for the name of a tag."""


def asset_key(kind: Kind, cell: Cell | None = None) -> dg.AssetKey:
    """Return the asset key of a kind of item, or of one cell's items of that kind."""
    return dg.AssetKey(kind.asset_path(cell.name if cell else None))


TEMPLATE = asset_key(keys.TEMPLATE)


def static(keys: Iterable[str]) -> dg.StaticPartitionsDefinition:
    """Return partitions in the order of the study file."""
    return dg.StaticPartitionsDefinition(list(keys))


def needs(kind: Kind, uses: Mapping[str, Iterable[str]], *, cell: Cell | None = None) -> dg.AssetDep:
    """Return a dependency on an asset that maps each of its partitions to the downstream partitions that use it."""
    mapping = dg.StaticPartitionMapping({up: list(down) for up, down in uses.items()})
    return dg.AssetDep(asset_key(kind, cell), partition_mapping=mapping)


def needs_same(kind: Kind, *, cell: Cell | None = None) -> dg.AssetDep:
    """Return a dependency of each partition on the partition of the same name, which the upstream asset must have."""
    return dg.AssetDep(asset_key(kind, cell), partition_mapping=dg.IdentityPartitionMapping())


def cell_tags(lineage: Lineage, cell: Cell) -> dict[str, str]:
    """Return the tags by which the web UI filters a cell's assets.

    They are its generator and source, and the formats and families of its prompts. The latter are tags without a
    value, because a cell has several.
    """
    prompts = [lineage.prompts[name] for name in lineage.study.prompts_of(cell)]
    return {
        "finephrase/generator": cell.generator,
        "finephrase/source": cell.source,
        **{f"format/{_tag_name(prompt.format)}": "" for prompt in prompts},
        **{f"family/{prompt.family}": "" for prompt in prompts},
    }


def _tag_name(phrase: str) -> str:
    """Return a phrase in characters that a tag may have, such as `word_problem`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", phrase)[:TAG_CHARACTERS]
