"""What Dagster needs to know of a study: asset keys, partitions, and which partition needs which.

All partitions are static: the study file says them. A dependency is always on the exact partitions that
an artifact's recipe names, so that an edit marks just what hangs on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import dagster as dg

from finephrase_dagster.artifacts import key as keys
from finephrase_dagster.artifacts.key import Kind
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.versions import CODE
from finephrase_dagster.study.spec import Cell, Study

TAG_CHARACTERS = 63
"""Dagster's limit for the name of a tag."""


def asset_key(kind: Kind, cell: Cell | None = None) -> dg.AssetKey:
    """Return the asset key of a kind of item, or of one cell's items of that kind."""
    return dg.AssetKey(kind.asset_path(cell.name if cell else None))


TEMPLATE = asset_key(keys.TEMPLATE)
CORPUS = asset_key(keys.CORPUS)
MODEL = asset_key(keys.MODEL)
TOKENIZER = asset_key(keys.TOKENIZER)
CORPUS_TOKENS = asset_key(keys.CORPUS_TOKENS)
MIXTURE = asset_key(keys.MIXTURE)
EARLY_STUDENT = asset_key(keys.EARLY_STUDENT)
EARLY_SCORES = asset_key(keys.EARLY_SCORES)
PRE_DECAY_CHECKPOINT = asset_key(keys.PRE_DECAY_CHECKPOINT)
CHECKPOINT = asset_key(keys.CHECKPOINT)
SCORES = asset_key(keys.SCORES)
LEADERBOARD = asset_key(keys.LEADERBOARD)
PLAN = asset_key(keys.PLAN)


def static(keys: Iterable[str]) -> dg.StaticPartitionsDefinition:
    """Partitions in the order in which the study lists them."""
    return dg.StaticPartitionsDefinition(list(keys))


def needs(key: dg.AssetKey, uses: Mapping[str, Iterable[str]]) -> dg.AssetDep:
    """A dependency: each partition of `key` with the downstream partitions that use it."""
    return dg.AssetDep(key, partition_mapping=dg.StaticPartitionMapping({up: list(down) for up, down in uses.items()}))


def asset_spec(
    key: dg.AssetKey,
    *,
    group: str,
    description: str,
    kinds: set[str],
    owner: str,
    deps: Iterable[dg.AssetDep] = (),
    columns: Mapping[str, tuple[str, str]] | None = None,
    tags: Mapping[str, str] | None = None,
    stage: str | None = None,
    skippable: bool = False,
) -> dg.AssetSpec:
    """An asset's spec, with the code version of its stage.

    Args:
        columns: of its files: the type of each and what it holds.
    """
    metadata: dict[str, object] = {}
    if columns:
        metadata["dagster/column_schema"] = dg.TableSchema(
            columns=[dg.TableColumn(name, type_, description=said) for name, (type_, said) in columns.items()]
        )
    return dg.AssetSpec(
        key,
        deps=list(deps),
        description=description,
        group_name=group,
        kinds=kinds,
        owners=[f"team:{owner}"],
        tags=dict(tags or {}),
        metadata=metadata,
        code_version=CODE[stage or group],
        skippable=skippable,
    )


def cell_tags(lineage: Lineage, cell: Cell) -> dict[str, str]:
    """What a cell's assets are filtered by in the web UI: its generator and source, its prompts' formats and families.

    Formats and families are tags without a value, for a cell has several.
    """
    prompts = [lineage.prompts[name] for name in lineage.study.prompts_of(cell)]
    return {
        "finephrase/generator": cell.generator,
        "finephrase/source": cell.source,
        **{f"format/{_tag_name(prompt.format)}": "" for prompt in prompts},
        **{f"family/{prompt.family}": "" for prompt in prompts},
    }


def _tag_name(phrase: str) -> str:
    """A phrase in the letters that a tag may have, such as `word_problem`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", phrase)[:TAG_CHARACTERS]


def mixtures_using(study: Study, dataset: str) -> list[str]:
    """The mixtures that name a dataset."""
    return [name for name, mixture in study.mixtures.items() if dataset in mixture.components]
