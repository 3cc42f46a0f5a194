"""Sources: where text to rephrase and to mix comes from and which rows of it count; nothing about how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from finephrase_dagster.study.fields import Spec

Value = str | int | float | bool
Text = Annotated[str, Field(min_length=1)]


class Range(Spec):
    """Numbers from `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("says neither min nor max; write one of them")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class OneOf(Spec):
    """Listed values."""

    values: tuple[Value, ...] = Field(min_length=1)


def _kind(said: Any) -> str:
    return "one of" if isinstance(said, OneOf) or (isinstance(said, Mapping) and "values" in said) else "range"


Condition = Annotated[Annotated[Range, Tag("range")] | Annotated[OneOf, Tag("one of")], Discriminator(_kind)]
"""What a column must hold: a range, unless it says `values`."""


class Sample(Spec):
    """A share of the documents, drawn by their ids: the same whatever the order they are read in."""

    rate: float = Field(gt=0, le=1)
    seed: int = Field(ge=0)


class EmbeddedSource(Spec):
    """Real text that every installation carries; nothing is downloaded."""

    kind: Literal["embedded"]
    corpus: Literal["package_readmes", "language_reference"]
    limit: int | None = Field(default=None, ge=1, description="documents at most")

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the corpus."""
        return self.model_dump(mode="json")


class TableSource(Spec):
    """Rows with a text: what files and hub datasets have in common.

    A column may be nested (`metadata.score`).
    """

    text_column: Text | tuple[Text, ...] = Field(
        default="text", description="several are joined by a blank line; one that is empty is left out"
    )
    id_column: Text | None = Field(default=None, description="default: an id from the text's hash")
    token_column: Text | None = Field(default=None, description="the tokens of a row, as the source counts them")
    keep: Mapping[Text, Condition] = Field(
        default_factory=dict, description="rows count only if each of these columns holds what is said here"
    )
    sample: Sample | None = None
    limit: int | None = Field(default=None, ge=1, description="documents at most")
    documents: int | None = Field(default=None, ge=1, description="how many it is known to have; no identity")
    tokens: float | None = Field(default=None, gt=0, description="how many it is known to have; no identity")
    license: str | None = Field(default=None, description="no identity")

    @property
    def identity(self) -> dict[str, Any]:
        """What determines the corpus."""
        return self.model_dump(mode="json", exclude={"documents", "tokens", "license"})


class FilesSource(TableSource):
    """Parquet, JSONL (plain, .gz, .zst) or WARC (.warc, .wet, .gz) files, here or in an object store."""

    kind: Literal["files"]
    paths: tuple[Text, ...] = Field(min_length=1, description="files, folders or glob patterns; paths or s3://... URLs")


class HubSource(TableSource):
    """A dataset on the Hugging Face hub, streamed; or a local folder of the same layout."""

    kind: Literal["hub"]
    dataset: Text
    revision: Text
    subset: Text | None = None
    split: Text = "train"
    files: tuple[Text, ...] | None = Field(
        default=None,
        min_length=1,
        description="glob patterns in the dataset; default: all of subset and split",
    )


Source = Annotated[EmbeddedSource | FilesSource | HubSource, Field(discriminator="kind")]
