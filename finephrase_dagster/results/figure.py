"""A figure: a question about scored runs, the data that answer it, one sentence of what they show, and a chart.

Each figure is one file in `results/figures/`; `finephrase_dagster.results.figures.figures()` finds it there. Charts are
declarative: `chart` returns a Vega-Lite specification, which is drawn without a browser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from finephrase_dagster.results.evidence import Evidence

if TYPE_CHECKING:
    import altair

    alt = altair
else:

    class _Altair:
        """Altair, imported by its first use: that takes a second, and the data of figures do not need it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("altair"), name)

    alt = _Altair()

Row = Mapping[str, Any]
Rows = Sequence[Row]

INK, MUTED, GRID, SURFACE = "#1c2128", "#5d6670", "#e4e7eb", "#ffffff"
SYNTHETIC, ORIGINAL, BASELINE = "#2f6fd0", "#8a929b", "#c2571a"
SERIES = (SYNTHETIC, BASELINE, "#2e8b57", "#8656b0", "#b8860b", "#c03a5b", "#3a8fa3")
DIVERGING = ("#b2472f", "#d98a6f", "#efcdbf", "#eef0f2", "#bfd3ee", "#7aa5dd", "#2f6fd0")
"""The colours of charts. A page replaces each of them where the reader prefers a dark page."""

WIDTH = 680
"""Width of a chart's plotting area in pixels."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a report shows in one place.

    Attributes:
        order: figures with smaller numbers come first.
        question: the question that it answers, for readers who know nothing of the study.
        columns: the headings of its data by field, with units.
        rows: returns its data; none if the evidence does not suffice.
        caption: states what the data show, in one or two sentences.
    """

    order: int
    title: str
    question: str
    columns: Mapping[str, str]
    rows: Callable[[Evidence], list[dict[str, Any]]]
    caption: Callable[[Rows], str]
    chart: Callable[[Rows], alt.TopLevelMixin]


def styled(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Return the specification of a chart in the colours and sizes of the report."""
    axis = {
        "domainColor": GRID,
        "gridColor": GRID,
        "tickColor": GRID,
        "labelColor": MUTED,
        "titleColor": MUTED,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 330,
    }
    specification: dict[str, Any] = chart.to_dict()
    specification["config"] = {
        "background": SURFACE,
        "padding": {"left": 36, "right": 24, "top": 5, "bottom": 5},  # for readers whose font is wider than ours
        "font": "Helvetica Neue, Arial, sans-serif",
        "view": {"stroke": None},
        "axis": axis,
        "axisY": {"domain": False, "ticks": False},
        "header": {"labelColor": INK, "titleColor": MUTED, "labelFontSize": 12, "titleFontWeight": "normal"},
        "legend": {"labelColor": INK, "titleColor": MUTED, "labelFontSize": 12, "titleFontWeight": "normal"}
        | {"labelLimit": 260, "symbolLimit": 12, "symbolOpacity": 1, "symbolBaseFillColor": MUTED},
        "text": {"color": INK, "fontSize": 11},
        "rule": {"color": MUTED},
        "range": {"category": list(SERIES), "diverging": list(DIVERGING)},
    }
    return specification


def cell_words(cells: alt.Chart, field: str, form: str, edges: Sequence[float]) -> alt.Chart:
    """Return the numbers of a grid of cells, in the colour of the page on the strongest colours."""
    strong = f"datum.{field} < {edges[0]} || datum.{field} >= {edges[-1]}"
    color = alt.condition(strong, alt.value(SURFACE), alt.value(INK))
    return cells.mark_text().encode(text=alt.Text(f"{field}:Q", format=form), color=color)


def as_word(value: Any) -> str:
    """Return a value of a figure's data as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return as_number(value) if isinstance(value, float) else str(value)


def as_number(value: float) -> str:
    """Return a number with about four digits, never as a power of ten because it is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def as_score(value: float) -> str:
    """Return a score or a difference of scores; those of tiny students have more digits."""
    if 0 < abs(value) < 0.00001:
        return f"{value:.1e}"
    return f"{value:.6f}" if abs(value) < 0.0005 else f"{value:.4f}"
