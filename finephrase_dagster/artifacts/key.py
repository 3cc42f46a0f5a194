"""Keys: which item of the lineage graph an artifact belongs to, as a value.

An item is one partition of one asset. Its key has a kind and carries its source, generator, prompt, mixture or
student run as fields. The asset's path, the partition and the item's name are derived from them and never read back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from finephrase_dagster.study.component import Component, cell_name

STAGES = (
    *("sources", "generators", "synthetic", "audits", "tokens", "mixtures", "early", "training", "evaluation"),
    "release",
)
"""The stages that make artifacts, in the order in which data flows."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What the items of one asset, or of the same asset of every cell, have in common.

    Attributes:
        path: the asset's path; `{cell}` is replaced by the cell's name.
        stage: one of `STAGES`, or the name of a stage that makes no artifact.
        partitioned_by: the field of a key that is its partition; None for an asset without partitions.
        group: the asset group in which Dagster shows it. Default: the stage.
        code: the entry of `versions.CODE` that belongs to its recipes. Default: the stage.
    """

    path: tuple[str, str]
    stage: str
    partitioned_by: Literal["source", "generator", "prompt", "mixture", "run", "configuration"] | None
    group: str = ""
    code: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.stage)
        object.__setattr__(self, "code", self.code or self.stage)

    @cached_property
    def fields(self) -> set[str]:
        """The fields of a key of this kind."""
        partition = {self.partitioned_by} if self.partitioned_by else set()
        return partition | ({"generator", "source"} if "{cell}" in self.path[1] else set())

    @property
    def asset(self) -> str:
        """The asset's path as text; `{cell}` stands for the cell's name."""
        return "/".join(self.path)

    def asset_path(self, cell: str | None = None) -> tuple[str, ...]:
        """Return the path of the asset, or of a cell's asset."""
        return _asset_path(self.path, cell)


PLAN = Kind(path=("study", "plan"), stage="study", partitioned_by=None)
TEMPLATE = Kind(path=("prompts", "template"), stage="prompts", partitioned_by="prompt")
CORPUS = Kind(path=("sources", "corpus"), stage="sources", partitioned_by="source")
MODEL = Kind(path=("generators", "model"), stage="generators", partitioned_by="generator")
DATASET = Kind(path=("synthetic", "{cell}"), stage="synthetic", partitioned_by="prompt")
AUDIT = Kind(path=("audits", "{cell}_audit"), stage="audits", partitioned_by="prompt", group="synthetic")
TOKENIZER = Kind(path=("tokens", "tokenizer"), stage="tokens", partitioned_by=None, group="mixtures", code="tokenizer")
CORPUS_TOKENS = Kind(path=("tokens", "corpus_tokens"), stage="tokens", partitioned_by="source", group="mixtures")
DATASET_TOKENS = Kind(path=("tokens", "{cell}_tokens"), stage="tokens", partitioned_by="prompt", group="mixtures")
SHUFFLED_CORPUS_TOKENS = Kind(
    path=("tokens", "shuffled_corpus_tokens"), stage="tokens", partitioned_by="source", group="mixtures"
)
SHUFFLED_DATASET_TOKENS = Kind(
    path=("tokens", "{cell}_shuffled_tokens"), stage="tokens", partitioned_by="prompt", group="mixtures"
)
MIXTURE = Kind(path=("mixtures", "mixture"), stage="mixtures", partitioned_by="mixture")
EARLY_STUDENT = Kind(path=("early", "student"), stage="early", partitioned_by="run", group="training", code="training")
EARLY_SCORES = Kind(path=("early", "scores"), stage="early", partitioned_by="run", group="training", code="evaluation")
PRE_DECAY_CHECKPOINT = Kind(path=("training", "pre_decay_checkpoint"), stage="training", partitioned_by="run")
CHECKPOINT = Kind(path=("training", "checkpoint"), stage="training", partitioned_by="run")
SCORES = Kind(path=("evaluation", "benchmark_scores"), stage="evaluation", partitioned_by="run")
LEADERBOARD = Kind(
    path=("results", "leaderboard"), stage="evaluation", partitioned_by=None, group="results", code="leaderboard"
)
VERDICTS = Kind(path=("results", "verdicts"), stage="report", partitioned_by=None, group="results")
ANALYSIS = Kind(path=("results", "analysis"), stage="report", partitioned_by=None, group="results")
"""Its partitions are the figures of the report, which no study names."""

REPORT = Kind(path=("results", "report"), stage="report", partitioned_by=None, group="results")
SWEEP = Kind(path=("throughput", "sweep"), stage="throughput", partitioned_by="generator")
"""No study needs it: it is made when a person asks for it, and chooses how the engine of its generator executes."""

RELEASE = Kind(path=("release", "dataset"), stage="release", partitioned_by="configuration")


@dataclass(frozen=True, kw_only=True)
class ItemKey:
    """One item of the graph; it has the fields that its kind asks for, and no others."""

    kind: Kind
    source: str | None = None
    generator: str | None = None
    prompt: str | None = None
    mixture: str | None = None
    run: str | None = None
    configuration: str | None = None

    def __post_init__(self) -> None:
        given = {name for name, value in vars(self).items() if name != "kind" and value is not None}
        if given != self.kind.fields:
            raise ValueError(
                f"a key of {'/'.join(self.kind.path)} needs {sorted(self.kind.fields)}, and has {sorted(given)}"
            )
        for part in (*self.path, *([] if self.partition is None else [self.partition])):
            if not _is_folder_name(part):
                raise ValueError(f"{part!r} cannot name a folder of an artifact; use letters, digits and underscores")

    @property
    def stage(self) -> str:
        """The stage that makes the item."""
        return self.kind.stage

    @property
    def cell(self) -> str | None:
        """The name of its cell; None for an item that belongs to no cell."""
        if self.generator is None or self.source is None:
            return None
        return cell_name(self.generator, self.source)

    @cached_property
    def path(self) -> tuple[str, ...]:
        """The path of its asset, such as `("synthetic", "tiny__readmes")`."""
        return self.kind.asset_path(self.cell)

    @cached_property
    def asset(self) -> str:
        """The path of its asset as text, such as `synthetic/tiny__readmes`."""
        return "/".join(self.path)

    @property
    def partition(self) -> str | None:
        """Its partition of the asset, such as `faq`; None where the asset has no partitions."""
        field = self.kind.partitioned_by
        return getattr(self, field) if field else None

    @cached_property
    def name(self) -> str:
        """The name that people use, such as `synthetic/tiny__readmes/faq`."""
        return self.asset if self.partition is None else f"{self.asset}/{self.partition}"


def dataset_key(component: Component) -> ItemKey:
    """Return the key of a corpus or of a synthetic dataset."""
    if component.generator is None:
        return ItemKey(kind=CORPUS, source=component.source)
    return _of_cell(DATASET, component)


def audit_key(component: Component) -> ItemKey:
    """Return the key of a synthetic dataset's audit."""
    return _of_cell(AUDIT, component)


def tokens_key(component: Component) -> ItemKey:
    """Return the key of a dataset's tokens."""
    if component.generator is None:
        kind = SHUFFLED_CORPUS_TOKENS if component.shuffled else CORPUS_TOKENS
        return ItemKey(kind=kind, source=component.source)
    return _of_cell(SHUFFLED_DATASET_TOKENS if component.shuffled else DATASET_TOKENS, component)


def _of_cell(kind: Kind, component: Component) -> ItemKey:
    return ItemKey(kind=kind, source=component.source, generator=component.generator, prompt=component.prompt)


@cache
def _asset_path(path: tuple[str, str], cell: str | None) -> tuple[str, ...]:
    return tuple(part.format(cell=cell) for part in path)


@cache
def _is_folder_name(part: str) -> bool:
    """Return whether a text can name one folder on any file system."""
    size = len(part.encode("utf-8", "surrogatepass"))
    return part not in ("", ".", "..") and part.isprintable() and not set("/\\") & set(part) and size <= 255
