"""Tokens: the students' tokenizer, and every dataset tokenised once, shared by all mixtures."""

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import dagster as dg

from finephrase_dagster.artifacts.artifact import Artifact, Contents
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, sha256_file
from finephrase_dagster.artifacts.key import DATASET, DATASET_TOKENS
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.corpora.shards import read_corpus
from finephrase_dagster.orchestration.events import materialized
from finephrase_dagster.orchestration.partitions import (
    CORPUS,
    CORPUS_TOKENS,
    TOKENIZER,
    asset_key,
    asset_spec,
    cell_tags,
    needs,
    static,
)
from finephrase_dagster.orchestration.placement import preparing
from finephrase_dagster.orchestration.retries import retried
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.spec import Cell
from finephrase_dagster.train.tokenizer import tokenizer_folder, train_tokenizer
from finephrase_dagster.train.tokens import tokenise
from resources.warehouse import Warehouse

TOKENIZER_FILES = "*token*.json"


def build_tokens(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The tokenizer, the corpora's tokens, and one asset of tokens a cell."""
    cells = [_cell_tokens(lineage, cell) for cell in lineage.study.cells]
    return [_tokenizer(lineage), _corpus_tokens(lineage), *cells]


def _tokenizer(lineage: Lineage) -> dg.AssetsDefinition:
    spec = lineage.study.tokenizer
    assert spec is not None
    sources = spec.sources
    read = [dg.AssetDep(CORPUS, partition_mapping=dg.SpecificPartitionsPartitionMapping(list(sources)))]

    @dg.multi_asset(
        name="tokenizer",
        specs=[
            asset_spec(
                TOKENIZER,
                group="mixtures",
                stage="tokens",
                description="The tokenizer of all students, so that scores per token compare.",
                kinds={"huggingface"},
                owner="training",
                deps=read if sources else (),
            )
        ],
        **preparing().arguments,
    )
    @retried
    def tokenizer(warehouse: Warehouse) -> dg.MaterializeResult:
        artifact = lineage.tokenizer()
        manifest = artifact.materialize(lambda folder: _make_tokenizer(lineage, folder))
        warehouse.record(artifact)
        return materialized(artifact, vocabulary=manifest["vocabulary"])

    return tokenizer


def _make_tokenizer(lineage: Lineage, folder: Path) -> Contents:
    spec = lineage.study.tokenizer
    assert spec is not None
    if spec.trained_here:
        assert spec.vocabulary is not None
        texts = (doc.text for source in spec.sources for doc in read_corpus(lineage.source(source).folder))
        train_tokenizer(folder, vocabulary=spec.vocabulary, texts=texts)
    else:
        for file in tokenizer_folder(spec.model).glob(TOKENIZER_FILES):
            shutil.copyfile(file, folder / file.name)
    from tokenizers import Tokenizer

    files = sorted(folder.glob(TOKENIZER_FILES))
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    version = fingerprint([[file.name, sha256_file(file)] for file in files])[:SHORT]
    return Contents(files=files, facts={"vocabulary": vocabulary}, version=version)


def _corpus_tokens(lineage: Lineage) -> dg.AssetsDefinition:
    sources = list(lineage.study.sources)

    @dg.multi_asset(
        name="corpus_tokens",
        specs=[
            asset_spec(
                CORPUS_TOKENS,
                group="mixtures",
                stage="tokens",
                description="The source corpora, tokenised.",
                kinds={"datatrove", "dataset"},
                owner="training",
                deps=[needs(CORPUS, {source: [source] for source in sources}), dg.AssetDep(TOKENIZER)],
            )
        ],
        partitions_def=static(sources),
        **preparing().arguments,
    )
    @retried
    def corpus_tokens(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        source = context.partition_key
        files = lineage.source(source).folder.glob("shard-*.parquet")
        return _tokenised(lineage, Component(source=source), files, warehouse, context)

    return corpus_tokens


def _cell_tokens(lineage: Lineage, cell: Cell) -> dg.AssetsDefinition:
    prompts = lineage.study.prompts_of(cell)

    @dg.multi_asset(
        name=f"tokens__{cell.name}",
        specs=[
            asset_spec(
                asset_key(DATASET_TOKENS, cell),
                group="mixtures",
                stage="tokens",
                description=f"The synthetic datasets of `{cell.name}`, tokenised.",
                kinds={"datatrove", "dataset"},
                owner="training",
                tags=cell_tags(lineage, cell),
                deps=[
                    needs(asset_key(DATASET, cell), {prompt: [prompt] for prompt in prompts}),
                    dg.AssetDep(TOKENIZER),
                ],
            )
        ],
        partitions_def=static(prompts),
        **preparing().arguments,
    )
    @retried
    def cell_tokens(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        prompt = context.partition_key
        files = lineage.dataset(cell, prompt).folder.glob("part-*.parquet")
        return _tokenised(lineage, cell.component(prompt), files, warehouse, context)

    return cell_tokens


def _tokenised(
    lineage: Lineage,
    dataset: Component,
    files: Iterable[Path],
    warehouse: Warehouse,
    context: dg.AssetExecutionContext,
) -> dg.MaterializeResult:
    artifact: Artifact = lineage.tokens(dataset)

    def make(folder: Path) -> Contents:
        facts = tokenise(
            sorted(files),
            folder,
            tokenizer=lineage.tokenizer().folder,
            dataset=dataset.name,
            log=context.log.info,
        )
        return Contents(files=[*folder.glob("*.ds*"), *folder.glob("*.parquet")], facts=asdict(facts))

    manifest = artifact.materialize(make)
    warehouse.record(artifact)
    documents, tokens = manifest["documents"], manifest["tokens"]
    return materialized(
        artifact,
        rows=documents,
        tokens=tokens,
        tokens_per_document=round(tokens / documents, 1) if documents else None,
        seconds=manifest["seconds"],
    )
