"""The report: one page of HTML that answers a study's question, with figures and their data, and needs no network."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from finephrase_dagster.results import figure
from finephrase_dagster.results.conclusion import Conclusion, conclude
from finephrase_dagster.results.evidence import Evidence
from finephrase_dagster.results.figure import Figure, as_word, styled
from finephrase_dagster.results.figures import figures

PAGE = "report.html"
SHOWN_ROWS = 40
"""Rows of a figure's data that the page shows; the download has all."""

DARK = dict(
    zip(
        (figure.INK, figure.MUTED, figure.GRID, figure.SURFACE, figure.ORIGINAL, *figure.SERIES, *figure.DIVERGING[:6]),
        (
            *("#e8eaed", "#a3abb5", "#343a42", "#181b1f", "#7e8791"),
            *("#6aa5f5", "#ea8a4f", "#5cb887", "#b48ad8", "#d9ab3a", "#e8728e", "#62bccf"),
            *("#e0785c", "#6e382b", "#4a332d", "#2a2e33", "#2b3f5c", "#2c568f"),
        ),
        strict=True,
    )
)
"""What takes the place of each colour on a dark page."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure with its data, as the page shows it."""

    name: str
    figure: Figure
    caption: str
    specification: Mapping[str, Any]
    svg: str
    rows: Sequence[Mapping[str, Any]]

    @property
    def csv(self) -> str:
        """All of its data."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.figure.columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    @property
    def link(self) -> str:
        """All of its data as a link that a browser saves as a file."""
        return "data:text/csv;base64," + base64.b64encode(self.csv.encode()).decode()

    @property
    def inline(self) -> str:
        """The drawing as an element of a page: it scales, has a name, and takes the page's background."""
        svg = self.svg.replace(f'<rect width="100%" height="100%" fill="{figure.SURFACE}"/>', "")
        (width, height) = re.findall(r'<svg[^>]*? width="([\d.]+)" height="([\d.]+)"', svg)[0]
        head = f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{self.figure.title}" '
        return head + re.sub(r'^<svg[^>]*?(xmlns=")', r"\1", svg, count=1)

    @property
    def shown(self) -> list[list[str]]:
        """The first rows, as words."""
        return [[as_word(row.get(name)) for name in self.figure.columns] for row in self.rows[:SHOWN_ROWS]]


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """What the report says about one study."""

    evidence: Evidence
    conclusion: Conclusion
    figures: Sequence[Drawn]


def draw(name: str, evidence: Evidence) -> Drawn | None:
    """Draw a figure; None if the evidence does not suffice for it."""
    import vl_convert

    one = figures()[name]
    rows = one.rows(evidence)
    if not rows:
        return None
    specification = styled(one.chart(rows))
    return Drawn(
        name=name,
        figure=one,
        caption=one.caption(rows),
        specification=specification,
        svg=vl_convert.vegalite_to_svg(specification),
        rows=rows,
    )


def chapter(evidence: Evidence) -> Chapter:
    """Return what the report says about a study."""
    drawn = [draw(name, evidence) for name in figures()]
    return Chapter(evidence=evidence, conclusion=conclude(evidence), figures=[one for one in drawn if one is not None])


def render(chapters: Sequence[Chapter]) -> str:
    """Return the page of some studies."""
    from jinja2 import Environment, StrictUndefined

    template = files(__package__).joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(template).render(chapters=chapters, dark=DARK, surface=figure.SURFACE)


def write_figure(folder: Path, drawn: Drawn) -> Path:
    """Write a figure as SVG, CSV and Vega-Lite specification; return the drawing's path."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{drawn.name}.csv", drawn.csv)
    _write(folder / f"{drawn.name}.vl.json", json.dumps(drawn.specification, indent=1))
    return _write(folder / f"{drawn.name}.svg", drawn.svg)


def write_report(folder: Path, chapters: Sequence[Chapter]) -> Path:
    """Write the page `report.html` and each figure as SVG, CSV and Vega-Lite specification; return the page's path.

    Each file appears complete or not at all.
    """
    for one in chapters:
        for drawn in one.figures:
            write_figure(folder / "figures" / one.evidence.study, drawn)
    return _write(folder / PAGE, render(chapters))


def _write(path: Path, text: str) -> Path:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    return draft.replace(path)
