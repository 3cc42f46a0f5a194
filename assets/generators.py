"""Generators: the models that rephrase, ready on disk; trained here, or fetched from the hub."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from finephrase_dagster.corpora.shards import read_corpus
from finephrase_dagster.events import materialized
from finephrase_dagster.partitions import ACCELERATOR, CORPUS, MODEL, asset_spec, needs, static
from finephrase_dagster.study.artifact import Product
from finephrase_dagster.study.fingerprint import SHORT
from finephrase_dagster.study.lineage import Lineage
from finephrase_dagster.study.spec import EMBEDDED, Sampling, Study
from resources.warehouse import Warehouse


def build_generators(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """The asset `generators/model`."""

    @dg.multi_asset(
        name="model",
        specs=[
            asset_spec(
                MODEL,
                group="generators",
                description="A chat model in Hugging Face format. `embedded` is trained here on pairs that follow "
                "from the corpora's own structure; any other comes from the hub or a folder.",
                kinds={"huggingface", "pytorch"},
                owner="generation",
                deps=[needs(CORPUS, _trained_on(lineage.study))],
            )
        ],
        partitions_def=static(lineage.study.generators),
        pool=ACCELERATOR,
    )
    def model(context: dg.AssetExecutionContext, warehouse: Warehouse) -> dg.MaterializeResult:
        name = context.partition_key
        artifact = lineage.generator(name)
        manifest = artifact.made_by(lambda folder: _make(lineage, name, folder, context))
        warehouse.record(artifact)
        return materialized(
            artifact,
            sampling=dg.MetadataValue.json(manifest["sampling"]),
            **{
                key: manifest[key]
                for key in ("parameters", "seconds", "tokens_per_second", "final_loss")
                if key in manifest
            },
        )

    return [model]


def _trained_on(study: Study) -> dict[str, list[str]]:
    return {
        source: [
            name
            for name, generator in study.generators.items()
            if generator.model == EMBEDDED and generator.embedded and source in generator.embedded.sources
        ]
        for source in study.sources
    }


def _make(lineage: Lineage, name: str, folder: Path, context: dg.AssetExecutionContext) -> Product:
    from finephrase_dagster.generators.hub import resolve_model
    from finephrase_dagster.generators.pretrain import train_generator
    from finephrase_dagster.rephrase.sampling import sampling_of

    spec = lineage.study.generators[name]
    model = folder / "model"
    facts: dict[str, Any] = {}
    if spec.model == EMBEDDED:
        assert spec.embedded is not None
        sources = [lineage.source(source).folder for source in spec.embedded.sources]
        documents = [document for source in sources for document in read_corpus(source)]
        facts = asdict(
            train_generator(model, spec=spec.embedded, context=spec.context, documents=documents, log=context.log.info)
        )
    found = resolve_model(str(model) if spec.model == EMBEDDED else spec.model, model)
    if Path(found.folder) != model:
        model.unlink(missing_ok=True)
        model.symlink_to(Path(found.folder).resolve())
    unsaid = spec.model_copy(update={"sampling": Sampling(seed=spec.sampling.seed)})
    return Product(
        files=[] if model.is_symlink() else sorted(path for path in model.rglob("*") if path.is_file()),
        facts={**facts, "resolved": asdict(found), "sampling": sampling_of(unsaid, model)},
        version=found.content[:SHORT],
    )
