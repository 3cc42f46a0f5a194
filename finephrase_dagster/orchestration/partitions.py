"""What Dagster needs to know of a study: asset keys, partitions, and which partition needs which.

All partitions are static: the study file says them. A dependency is always on the exact partitions that
an artifact's recipe names, so that an edit marks just what hangs on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import dagster as dg

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.versions import CODE
from finephrase_dagster.study.spec import Cell, Study

PLAN = dg.AssetKey(["study", "plan"])
TEMPLATE = dg.AssetKey(["prompts", "template"])
CORPUS = dg.AssetKey(["sources", "corpus"])
MODEL = dg.AssetKey(["generators", "model"])
TOKENIZER = dg.AssetKey(["tokens", "tokenizer"])
CORPUS_TOKENS = dg.AssetKey(["tokens", "corpus_tokens"])
MIXTURE = dg.AssetKey(["mixtures", "mixture"])
EARLY_STUDENT = dg.AssetKey(["early", "student"])
EARLY_SCORES = dg.AssetKey(["early", "scores"])
PRE_DECAY_CHECKPOINT = dg.AssetKey(["training", "pre_decay_checkpoint"])
CHECKPOINT = dg.AssetKey(["training", "checkpoint"])
SCORES = dg.AssetKey(["evaluation", "benchmark_scores"])
LEADERBOARD = dg.AssetKey(["evaluation", "leaderboard"])

TAG_CHARACTERS = 63
"""Dagster's limit for the name of a tag."""


def synthetic_key(cell: Cell) -> dg.AssetKey:
    return dg.AssetKey(["synthetic", cell.name])


def audit_key(cell: Cell) -> dg.AssetKey:
    return dg.AssetKey(["audits", f"{cell.name}_audit"])


def tokens_key(cell: Cell) -> dg.AssetKey:
    return dg.AssetKey(["tokens", f"{cell.name}_tokens"])


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
