"""Tokens: the students' tokenizer, and every dataset tokenized once for all mixtures."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import dagster as dg

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.key import AUDIT, CORPUS, CORPUS_TOKENS, DATASET, DATASET_TOKENS, TOKENIZER
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.verification import artifact_files, check_artifact
from finephrase_dagster.corpora.shards import read_corpus
from finephrase_dagster.orchestration.asset import stage_asset
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import asset_key, needs_same
from finephrase_dagster.study.component import Cell, Component
from finephrase_dagster.train.admission import check_dataset, dropped_rows
from finephrase_dagster.train.tokenizer import make_tokenizer
from finephrase_dagster.train.tokens import tokenise
from resources.warehouse import Warehouse


def build_tokens(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the tokenizer, the tokens of the corpora, and one asset of tokens per cell."""
    cells = [_cell_tokens(lineage, cell) for cell in lineage.study.cells]
    return [_tokenizer(lineage), _corpus_tokens(lineage), *cells]


def _tokenizer(lineage: Lineage) -> dg.AssetsDefinition:
    spec = lineage.study.tokenizer
    assert spec is not None
    texts = dg.SpecificPartitionsPartitionMapping(list(spec.sources))

    @stage_asset(
        lineage,
        TOKENIZER,
        description="The tokenizer of all students, so that scores per token can be compared.",
        kinds={"huggingface"},
        owner="training",
        deps=[dg.AssetDep(asset_key(CORPUS), partition_mapping=texts)] if spec.sources else (),
    )
    def tokenizer(warehouse: Warehouse) -> dg.MaterializeResult:
        artifact = lineage.tokenizer()
        folders = [check_artifact(lineage.source(source)) for source in spec.sources]
        texts = (document.text for folder in folders for document in read_corpus(folder))
        manifest = artifact.materialize(lambda folder: make_tokenizer(folder, spec, texts))
        warehouse.record(artifact)
        return materialized(artifact, vocabulary=manifest["vocabulary"])

    return tokenizer


def _corpus_tokens(lineage: Lineage) -> dg.AssetsDefinition:
    @stage_asset(
        lineage,
        CORPUS_TOKENS,
        description="The source corpora as tokens.",
        kinds={"datatrove", "dataset"},
        owner="training",
        partitions=lineage.study.sources,
        deps=[needs_same(CORPUS, lineage.study.sources), dg.AssetDep(asset_key(TOKENIZER))],
    )
    def corpus_tokens(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        source = context.partition_key
        files = artifact_files(lineage.source(source))
        return _tokenize(lineage, Component(source=source), files, warehouse, context)

    return corpus_tokens


def _cell_tokens(lineage: Lineage, cell: Cell) -> dg.AssetsDefinition:
    prompts = lineage.study.prompts_of(cell)

    @stage_asset(
        lineage,
        DATASET_TOKENS,
        cell,
        description=f"The synthetic datasets of `{cell.name}` as tokens: of those that passed their audit, or that a "
        "mixture uses for a reason it states.",
        kinds={"datatrove", "dataset"},
        owner="training",
        partitions=prompts,
        deps=[*(needs_same(kind, prompts, cell=cell) for kind in (DATASET, AUDIT)), dg.AssetDep(asset_key(TOKENIZER))],
    )
    def cell_tokens(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        prompt = context.partition_key
        check_dataset(lineage, cell.component(prompt))
        files = artifact_files(lineage.dataset(cell, prompt))
        return _tokenize(lineage, cell.component(prompt), files, warehouse, context)

    return cell_tokens


def _tokenize(
    lineage: Lineage, dataset: Component, files: Iterable[Path], warehouse: Warehouse, context: dg.AssetExecutionContext
) -> dg.MaterializeResult:
    artifact, tokenizer = lineage.tokens(dataset), check_artifact(lineage.tokenizer())

    def make(folder: Path) -> Contents:
        facts = tokenise(
            sorted(files),
            folder,
            tokenizer=tokenizer,
            dataset=dataset.name,
            log=context.log.info,
            without=dropped_rows(lineage, dataset),
        )
        return Contents(files=[*folder.glob("*.ds*"), *folder.glob("*.parquet")], facts=asdict(facts))

    manifest = artifact.materialize(make)
    warehouse.record(artifact)
    documents, tokens = manifest["documents"], manifest["tokens"]
    return materialized(
        artifact,
        rows=documents,
        tokens=tokens,
        dropped_rows=manifest["dropped"] or None,
        tokens_per_document=round(tokens / documents, 1) if documents else None,
        seconds=manifest["seconds"],
    )
