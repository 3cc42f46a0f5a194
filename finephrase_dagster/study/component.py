"""Cells, the release, and components: the datasets that a mixture may name, as values instead of text.

`Study.datasets` maps every name that a study file may use to its component, so no other code reads such a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from finephrase_dagster.study.catalogue import CellGates
from finephrase_dagster.study.fields import Name, Spec
from finephrase_dagster.study.generator import Keep, OnFailure, Rollouts
from finephrase_dagster.study.student import Reason


def cell_name(generator: str, source: str) -> str:
    """Return the name of a cell, a generator on a source."""
    return f"{generator}__{source}"


@dataclass(frozen=True, kw_only=True)
class Component:
    """A source corpus, or the synthetic dataset of one prompt of one cell.

    Attributes:
        source: the corpus, or the corpus that was rephrased.
        generator: the model that rephrased it; None for a corpus.
        prompt: the prompt that it was rephrased with; None for a corpus.
        shuffled: whether the words of each document are shuffled, for a negative control.
    """

    source: str
    generator: str | None = None
    prompt: str | None = None
    shuffled: bool = False

    @property
    def cell(self) -> str | None:
        """The name of the dataset's cell; None for a corpus."""
        return cell_name(self.generator, self.source) if self.generator is not None else None

    @property
    def name(self) -> str:
        """The name that a study file uses: `<source>` or `<generator>__<source>/<prompt>`."""
        return f"{self.cell}/{self.prompt}" if self.cell is not None else self.source


class Cell(Spec):
    """One generator on one source; its prompts are the partitions."""

    generator: Name
    source: Name
    prompts: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="default: all prompts of the study"
    )
    guided: bool | None = Field(default=None, description="default: as the generator says")
    rollouts: Rollouts | None = Field(default=None, description="default: as the generator says")
    keep: Keep | None = Field(default=None, description="default: as the generator says")
    on_failure: OnFailure = Field(
        default="refuse",
        description="`drop_rows`: train without the rows that fail a gate; `regenerate`: draw them again",
    )
    reuse: bool = Field(
        default=False, description="whether completions of earlier datasets are reused where requests are the same"
    )
    gates: CellGates = Field(default_factory=dict, description="quality thresholds that differ from the study's")

    def __hash__(self) -> int:
        return hash((self.generator, self.source))

    @property
    def name(self) -> str:
        return cell_name(self.generator, self.source)

    def component(self, prompt: str) -> Component:
        """Return the dataset of one of its prompts."""
        return Component(generator=self.generator, source=self.source, prompt=prompt)


class Release(Spec):
    """What of a study is published as one dataset, and how it is called."""

    license: str = Field(min_length=1, description="license of the release, as the hub names it", examples=["odc-by"])
    title: str | None = Field(default=None, min_length=1, description="default: the name of the study")
    configurations: Mapping[Name, Annotated[tuple[str, ...], Field(min_length=1, strict=False)]] = Field(
        default_factory=dict,
        description="datasets, or patterns of their names, by configuration; default: one configuration per prompt",
        examples=[{"faq": ["writer__my_text/faq"]}],
    )
    despite_audits: Mapping[str, Reason] = Field(
        default_factory=dict, description="the reason why a dataset that failed its audit is released, by dataset"
    )
    tags: tuple[str, ...] = Field(default=(), description="further tags for the hub")
    languages: tuple[str, ...] = Field(default=("en",), min_length=1, description="language codes")
    limits: str | None = Field(default=None, min_length=1, description="what readers of the card should beware of")
    file_megabytes: int = Field(default=512, ge=1, le=5000, description="the largest size of a file")
