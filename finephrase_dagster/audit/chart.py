"""Charts of an audit as SVG, coloured by the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

PUBLISHED_LENGTH, PUBLISHED_ROWS = 10, 10_000
PUBLISHED = {"Qwen3-1.7B": (40, 7_619), "SmolLM2-1.7B": (1_897, 3_235)}
"""Distinct prefixes of ten characters and the count of the most common one, in 10,000 math completions of the published
study, by generator."""
_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH, _HEIGHT = 52, 110, 12, 40, 760, 320


def collapse_chart(curve: Mapping[str, Sequence[int]], rows: int) -> str:
    """Return the shares of distinct prefixes and of the most common one by length, with the published points."""
    lengths = curve["length"]
    lowest = min([PUBLISHED["Qwen3-1.7B"][0] / PUBLISHED_ROWS, *(count / rows for count in curve["distinct"])])
    decades = max(1, -int(log10(max(lowest, 1e-6)) // 1))

    def x(length: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * length / lengths[-1]

    def y(share: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * min(-log10(max(share, 1e-9)) / decades, 1)

    parts = []
    for decade in range(decades + 1):
        share = 10.0**-decade
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>'
        )
        parts.append(_text(_LEFT - 8, y(share) + 4, f"{100 * share:g} %", "end"))
    for length in range(0, lengths[-1] + 1, 10):
        parts.append(_text(x(length), _HEIGHT - _BOTTOM + 16, str(length), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "length of the prefix in characters", "middle"))
    for name, label in (("distinct", "different"), ("most_common", "most common")):
        points = [(x(length), y(count / rows)) for length, count in zip(lengths, curve[name], strict=True)]
        line = " ".join(f"{left:.1f},{top:.1f}" for left, top in points)
        parts.append(f'<polyline class="line {name}" points="{line}"/>')
        parts.append(_text(points[-1][0] + 8, points[-1][1] + 4, label, "start", f"label {name}"))
    for generator, counts in PUBLISHED.items():
        for name, count in zip(("distinct", "most_common"), counts, strict=True):
            left, top = x(PUBLISHED_LENGTH), y(count / PUBLISHED_ROWS)
            title = f"<title>{escape(generator)}: {name.replace('_', ' ')} {100 * count / PUBLISHED_ROWS:.1f} %</title>"
            parts.append(f'<circle class="point {name}" cx="{left:.1f}" cy="{top:.1f}" r="4.5">{title}</circle>')
            parts.append(_text(left + 9, top + 4, generator, "start", "published"))
    label = "Share of distinct prefixes and of the most common prefix by length"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def histogram(counts: Sequence[int], edges: Sequence[float], label: str) -> str:
    """Return counts between edges as bars of the same width."""
    width, height, bottom = 340, 130, 20
    most = max([*counts, 1])
    step = width / max(len(counts), 1)
    bars = [
        f'<rect class="bar" x="{index * step + 0.5:.1f}" y="{(height - bottom) * (1 - count / most):.1f}" '
        f'width="{max(step - 1, 0.5):.1f}" height="{(height - bottom) * count / most:.1f}">'
        f"<title>{_number(edges[index])} to {_number(edges[index + 1])}: {count:,}</title></rect>"
        for index, count in enumerate(counts)
    ]
    axis = f'<line class="axis" x1="0" x2="{width}" y1="{height - bottom}" y2="{height - bottom}"/>'
    ends = _text(0, height - 4, _number(edges[0]), "start") + _text(width, height - 4, _number(edges[-1]), "end")
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{"".join(bars)}{axis}{ends}</svg>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _text(x: float, y: float, text: str, anchor: str, style: str = "tick") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
