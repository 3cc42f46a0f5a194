"""Components: the datasets that a mixture may name, as values instead of text.

`Study.datasets` maps every name that a study file may use to its component, so no other code reads such a name.
"""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    source: str
    generator: str | None = None
    prompt: str | None = None

    @property
    def cell(self) -> str | None:
        """The name of the dataset's cell; None for a corpus."""
        return cell_name(self.generator, self.source) if self.generator is not None else None

    @property
    def name(self) -> str:
        """The name that a study file uses: `<source>` or `<generator>__<source>/<prompt>`."""
        return f"{self.cell}/{self.prompt}" if self.cell is not None else self.source
