"""Sources: where raw text comes from and which of its rows are documents. The kinds are in `corpora/kinds/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

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
            raise ValueError("has neither min nor max; write one of them")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self

    def __str__(self) -> str:
        low = "" if self.min is None else f"from {self.min:g}"
        high = "" if self.max is None else f"to {self.max:g}"
        return f"{low} {high}".strip()


class OneOf(Spec):
    """Listed values."""

    values: tuple[Value, ...] = Field(min_length=1)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


def _form_of_condition(value: Any) -> str:
    return "one of" if isinstance(value, OneOf) or (isinstance(value, Mapping) and "values" in value) else "range"


Condition = Annotated[
    Annotated[Range, Tag("range")] | Annotated[OneOf, Tag("one of")], Discriminator(_form_of_condition)
]
"""What a column must hold: a range, or one of the listed `values`."""


class Sample(Spec):
    """A share of the documents, drawn by a hash of their ids and so independent of the order they are read in."""

    rate: float = Field(gt=0, le=1)
    seed: int = Field(default=0, ge=0)


class SourceSpec(Spec, ABC):
    """The base class of all source kinds. Each kind is one file in `corpora/kinds/`.

    Attributes:
        kind: the name of the kind; a subclass narrows it to a literal.
    """

    kind: str
    limit: int | None = Field(default=None, ge=1, description="most documents")

    @property
    @abstractmethod
    def label(self) -> str:
        """Where the text comes from, as Markdown for a table of sources."""

    @property
    def page(self) -> str | None:
        """The URL of the source's web page; None if it has none."""
        return None

    @property
    def selection(self) -> str:
        """Which rows are documents, in a few words."""
        return f"the first {self.limit:,}" if self.limit else "all"

    @abstractmethod
    def identity(self, *, requirements: Path) -> dict[str, Any]:
        """Return everything that determines the corpus, for its recipe.

        Args:
            requirements: the list of `name==version` lines that the embedded corpus `package_readmes` is read from.
        """

    @abstractmethod
    def reader(self, *, requirements: Path) -> Any:
        """Return a `corpora.reader.Reader` of the source's rows.

        Args:
            requirements: as in `identity`.
        """


class TableSource(SourceSpec):
    """A source whose rows have columns, as in files and hub datasets. A column may be nested (`metadata.score`)."""

    text_column: Text | tuple[Text, ...] = Field(
        default="text", description="texts of several columns are joined by blank lines; empty ones are left out"
    )
    id_column: Text | None = Field(default=None, description="default: the id is a hash of the text")
    token_column: Text | None = Field(default=None, description="number of tokens of a row, as the source counts")
    keep: Mapping[Text, Condition] = Field(
        default_factory=dict, description="drop rows whose columns do not meet these conditions"
    )
    sample: Sample | None = None
    documents: int | None = Field(default=None, ge=1, description="expected number; not part of the identity")
    tokens: float | None = Field(default=None, gt=0, description="expected number of tokens; not part of the identity")
    license: str | None = Field(default=None, description="license of the text; not part of the identity")

    @property
    def selection(self) -> str:
        parts = [f"{column} {condition}" for column, condition in self.keep.items()]
        parts += [f"{100 * self.sample.rate:.3g} % of them"] if self.sample else []
        parts += [f"the first {self.limit:,}"] if self.limit else []
        return "; ".join(parts) or "all"

    def read_fields(self) -> dict[str, Any]:
        """Return the fields that determine the corpus; expected sizes and the license do not."""
        return self.model_dump(mode="json", exclude={"documents", "tokens", "license"})
