"""Tokens: the students' tokenizer, and every dataset tokenized once for all mixtures."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import dagster as dg

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.key import AUDIT, CORPUS, DATASET, TOKENIZER, Kind, tokens_key
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
    """Return the tokenizer, the tokens of the corpora, and one asset of tokens per cell; those of controls last."""
    assets: dict[tuple[Kind, str | None], list[Component]] = defaultdict(list)
    for component in lineage.study.tokenized:
        key = tokens_key(component)
        assets[key.kind, key.cell].append(component)
    make = {cell: partial(_cell_tokens, cell=lineage.study.cell(cell)) for _, cell in assets if cell}
    return [
        _tokenizer(lineage),
        *(make.get(cell or "", _corpus_tokens)(lineage, kind, some) for (kind, cell), some in assets.items()),
    ]


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


SHUFFLED = " The words of each document are shuffled, for negative controls."


def _corpus_tokens(lineage: Lineage, kind: Kind, corpora: list[Component]) -> dg.AssetsDefinition:
    sources = {component.source: component for component in corpora}

    @stage_asset(
        lineage,
        kind,
        description="The source corpora as tokens." + SHUFFLED * corpora[0].shuffled,
        kinds={"datatrove", "dataset"},
        owner="training",
        partitions=sources,
        deps=[needs_same(CORPUS), dg.AssetDep(asset_key(TOKENIZER))],
    )
    def corpus_tokens(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        corpus = sources[context.partition_key]
        files = artifact_files(lineage.source(corpus.source))
        return _tokenize(lineage, corpus, files, warehouse, context)

    return corpus_tokens


def _cell_tokens(lineage: Lineage, kind: Kind, datasets: list[Component], cell: Cell) -> dg.AssetsDefinition:
    prompts = {component.prompt or "": component for component in datasets}

    @stage_asset(
        lineage,
        kind,
        cell,
        description=f"The synthetic datasets of `{cell.name}` as tokens: of those that passed their audit, or that a "
        "mixture uses for a reason it states." + SHUFFLED * datasets[0].shuffled,
        kinds={"datatrove", "dataset"},
        owner="training",
        partitions=prompts,
        deps=[*(needs_same(kind, cell=cell) for kind in (DATASET, AUDIT)), dg.AssetDep(asset_key(TOKENIZER))],
    )
    def cell_tokens(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        dataset = prompts[context.partition_key]
        check_dataset(lineage, dataset)
        files = artifact_files(lineage.component(dataset))
        return _tokenize(lineage, dataset, files, warehouse, context)

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
            shuffled=dataset.shuffled,
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
