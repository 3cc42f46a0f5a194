"""Expectations: how large a study's datasets will be, and how fast its generators generate.

What this installation has counted or measured comes first, then the published figures, then estimates from the most
similar of them. Each figure names its basis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing, labelled_manifest
from finephrase_dagster.artifacts.earlier import EarlierDatasets
from finephrase_dagster.artifacts.key import CORPUS, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.sweep import swept_settings
from finephrase_dagster.corpora.eligibility import not_eligible
from finephrase_dagster.corpora.inputs import input_files
from finephrase_dagster.corpora.kinds.embedded import EmbeddedSource
from finephrase_dagster.corpora.kinds.files import FilesSource
from finephrase_dagster.corpora.parquet import footer_size
from finephrase_dagster.plan.measured import Measured, Rate, number
from finephrase_dagster.plan.published import Published
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.fields import hub_reference
from finephrase_dagster.study.file import StudyError, read_registry
from finephrase_dagster.study.generator import PACKAGED, Throughput
from finephrase_dagster.study.source import SourceSpec, TableSource

BYTES_PER_TOKEN = 4.3  # English web text, tokenizers with 50,000 to 130,000 entries
EMBEDDED = {
    "package_readmes": (320, 8_900),
    "language_reference": (80, 5_800),
}
"""Roughly: documents, and bytes per document."""
SMALL = 50e6  # parameters; smaller models are trained and served without a GPU
ASSUMED_DOCUMENT = 1_000  # tokens per document of an unknown source
SAMPLED_FOOTERS = 100  # of the files of a source
SAMPLED_SHARDS, SAMPLED_ROWS = 5, 200  # shards, and documents of each, that are asked whether they are eligible
ASSUMED_FAILING = 0.2  # the share of rollouts that fail a gate, until a dataset was made


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size of a dataset, and the basis of the figure."""

    documents: float
    tokens: float
    basis: str


class Expectations:
    """The expected sizes of a study's datasets and rates of its generators."""

    def __init__(self, lineage: Lineage, *, published: Published, measured: Measured) -> None:
        self._lineage = lineage
        self._study = lineage.study
        self._published = published
        self._measured = measured
        self.size = cache(self._size)
        self.rate = cache(self._rate)

    @cached_property
    def _registry(self) -> dict[str, Any]:
        return read_registry("generators")

    @cached_property
    def _earlier(self) -> EarlierDatasets:
        return EarlierDatasets(self._lineage.paths.data)

    def _size(self, dataset: Component) -> Size:
        """Return the size of a corpus or of a synthetic dataset."""
        if dataset.generator is None or dataset.prompt is None:
            return self._source_size(dataset.source)
        made = _manifest(lambda: self._lineage.component(dataset))
        documents, tokens = number(made, "completed"), number(made, "completion_tokens")
        if documents is not None and tokens is not None:
            return Size(documents=documents, tokens=tokens, basis="counted here")
        source, generator = self.size(Component(source=dataset.source)), self._study.generators[dataset.generator]
        mean, basis = self._completion(dataset.source, dataset.generator, dataset.prompt)
        share, found = self._eligible(dataset.source, dataset.prompt)
        documents = share * source.documents
        return Size(documents=documents, tokens=documents * min(mean, generator.max_tokens), basis=basis + found)

    def _eligible(self, source: str, prompt: str) -> tuple[float, str]:
        """Return the share of a source's documents that have what a prompt requires, and where the figure comes from.

        Until the source exists the share is unknown; all documents are counted, so that the cost is an upper bound.
        """
        if not (requires := self._lineage.prompts[prompt].required):
            return 1.0, ""
        rule = f"; eligible ({self._lineage.prompts[prompt].requires}): "
        if _manifest(lambda: self._lineage.source(source)) is None:
            return 1.0, rule + "unknown until the source exists, all are counted"
        texts = _sampled_texts(self._lineage.source(source))
        share = sum(not_eligible(text, requires) is None for text in texts) / max(1, len(texts))
        return share, f"{rule}{share:.1%} of {len(texts):,} sampled documents"

    def reused(self, dataset: Component) -> tuple[str, ...]:
        """Return what a cost leaves open because completions of earlier datasets may be reused.

        How many rows match shows only when all are read, so all are counted: the cost is an upper bound.
        """
        if not self._study.cell(dataset.cell or "").reuse:
            return ()
        try:
            artifact = self._lineage.component(dataset)
        except (ArtifactMissing, StudyError):
            return ("reuse: unknown until the source exists, all documents are counted",)
        held = 0 if artifact.complete else sum(self._earlier.of(artifact).values())
        most = min(held, round(self.size(dataset).documents))
        return (f"reuse: at most {most:,} completions, which are counted",) if most else ()

    def draws(self, dataset: Component) -> float:
        """Return how often a row of a synthetic dataset is drawn on average."""
        made = _manifest(lambda: self._lineage.component(dataset)) or {}
        completed, discarded = number(made, "completed"), number(made.get("discarded"), "rollouts")
        if completed and discarded is not None:
            return 1 + discarded / completed
        most, keep = self._study.rollouts_of(self._study.cell(dataset.cell or ""))
        return most if keep == "best" else sum(ASSUMED_FAILING**number for number in range(most))

    def _source_size(self, name: str) -> Size:
        source = self._study.sources[name]
        made = _counted(_manifest(lambda: self._lineage.source(name)), "counted here")
        if made is not None:
            return made
        expected = _in_footers(source) or _expected(source)
        if expected.basis != "unknown":
            return expected
        manifest = labelled_manifest(self._lineage.labels / ItemKey(kind=CORPUS, source=name).name)
        earlier = _counted(manifest, "counted here, by an earlier recipe")
        if manifest is None or earlier is None or earlier.documents == manifest["recipe"].get("read", {}).get("limit"):
            return expected  # unknown also if the earlier corpus ended at its limit
        return earlier

    def _completion(self, source: str, name: str, prompt: str) -> tuple[float, str]:
        """Return the mean tokens per completion of a generator, and the origin of the figure."""
        model, generator = self._model(name), self._study.generators[name]
        measured = self._measured.completion(model, prompt, generator.max_tokens) if model else None
        if measured is not None:
            mean, rows = measured
            return mean, f"measured here on {rows:,} documents"
        return self._published.completion(source, prompt, name) or (
            0.5 * generator.max_tokens,
            "assumed, half of max_tokens",
        )

    def _rate(self, name: str) -> tuple[Rate | None, str]:
        """Return how fast a generator generates, and the basis of the figure; None if it is unknown.

        A rate that was measured without a GPU counts for small models only, because nobody runs a study like that.
        """
        generator = self._study.generators[name]
        model = self._model(name)
        measured = self._measured.generation(model) if model else None
        swept = swept_settings(self._lineage, name)
        known = generator.throughput or self._of_same_model(generator.model)
        size = number(_manifest(lambda: self._lineage.generator(name)), "model_bytes")
        parameters = generator.parameters or (size / 2 if size else None)  # at two bytes each
        small = generator.is_packaged or (parameters is not None and parameters < SMALL)
        if swept and (swept.gpus or small):  # by the settings that the next run has
            return Rate(tokens_per_second=swept.tokens_per_second, on_gpu=swept.gpus > 0), swept.basis
        if measured is not None and (measured.on_gpu or small):
            where = "" if measured.on_gpu else ", without a GPU"
            return measured, f"measured here over {measured.tokens:,.0f} tokens{where}"
        if known:
            return Rate(tokens_per_second=known.tokens_per_second, on_gpu=True), known.basis
        if generator.is_packaged:
            return Rate(tokens_per_second=PACKAGED.tokens_per_second, on_gpu=False), "observed on two cores"
        return self._of_nearest(parameters) if parameters else (None, "unknown")

    def _of_same_model(self, model: str) -> Throughput | None:
        """Return the registry's throughput of a model, whatever its revision."""
        wanted = hub_reference(model)
        for entry in self._registry.values():
            known = hub_reference(str(entry.get("model", "")))
            if wanted and known and known.repository == wanted.repository and "throughput" in entry:
                return Throughput.model_validate(entry["throughput"])
        return None

    def _of_nearest(self, parameters: float) -> tuple[Rate | None, str]:
        """Return the rate of the registry's generator that is closest in size."""
        known = self._registry
        distance = {
            name: abs(math.log(entry["parameters"] / parameters))
            for name, entry in known.items()
            if {"parameters", "throughput"} <= set(entry)
        }
        nearest = min(distance, key=lambda name: distance[name])
        throughput = known[nearest]["throughput"]
        rate = Rate(tokens_per_second=throughput["tokens_per_second"], on_gpu=True)
        return rate, f"of {nearest}, the closest in size: {throughput['basis']}"

    def _model(self, generator: str) -> str | None:
        """Return the version of a generator's model; None if the model is not on disk."""
        manifest = _manifest(lambda: self._lineage.generator(generator))
        return manifest["version"] if manifest else None


def _sampled_texts(corpus: Artifact) -> list[str]:
    """Return the first texts of some shards of a corpus."""
    import pyarrow.parquet as pq

    texts: list[str] = []
    shards = corpus.manifest()["files"]
    for shard in shards[:: -(-len(shards) // SAMPLED_SHARDS)]:
        with pq.ParquetFile(corpus.folder / shard["path"]) as file:
            batch = next(file.iter_batches(SAMPLED_ROWS, columns=["text"]), None)
            texts += batch["text"].to_pylist() if batch else []
    return texts


def _in_footers(source: SourceSpec) -> Size | None:
    """Return the size of local Parquet files by some of their footers; None for other files, and for filtered rows."""
    if not isinstance(source, FilesSource) or source.keep or source.sample:
        return None
    columns = (source.text_column,) if isinstance(source.text_column, str) else source.text_column
    try:
        files = input_files(source.paths)
        if any("://" in file.url or not file.url.endswith(".parquet") for file in files):
            return None
        read = files[:: -(-len(files) // SAMPLED_FOOTERS)]
        footers = [footer_size(file.url, columns) for file in read]
    except (OSError, ValueError, StudyError):  # reading the source names the file
        return None
    share = sum(file.size for file in files) / max(1, sum(file.size for file in read))
    rows, size = (share * sum(column) for column in zip(*footers, strict=True))
    documents = min(rows, source.limit or rows)
    tokens = size / BYTES_PER_TOKEN * documents / max(1, rows)
    return Size(documents=documents, tokens=tokens, basis="the footers of its Parquet files")


def _expected(source: SourceSpec) -> Size:
    """Return the expected size of a source that was not read yet."""
    if isinstance(source, EmbeddedSource):
        documents, size = EMBEDDED[source.corpus]
        documents = min(documents, source.limit or documents)
        return Size(documents=documents, tokens=documents * size / BYTES_PER_TOKEN, basis="observed elsewhere")
    if not isinstance(source, TableSource):
        documents = source.limit or 0
        basis = "the limit of the source" if documents else "unknown"
        return Size(documents=documents, tokens=documents * ASSUMED_DOCUMENT, basis=basis)
    each = source.tokens / source.documents if source.tokens and source.documents else ASSUMED_DOCUMENT
    if source.limit and (source.documents is None or source.limit < source.documents):
        return Size(documents=source.limit, tokens=source.limit * each, basis="the limit of the source")
    expected = source.documents or (source.tokens or 0) / each
    return Size(documents=expected, tokens=expected * each, basis="from the study file" if expected else "unknown")


def _counted(manifest: dict[str, Any] | None, basis: str) -> Size | None:
    """Return the size of a corpus from its manifest."""
    rows, size = number(manifest, "rows"), number(manifest, "text_bytes")
    if not rows or size is None:
        return None
    return Size(documents=rows, tokens=number(manifest, "tokens") or size / BYTES_PER_TOKEN, basis=basis)


def _manifest(artifact: Callable[[], Artifact]) -> dict[str, Any] | None:
    try:
        return artifact().facts
    except (ArtifactMissing, StudyError):
        return None
