"""The page of an audit: one HTML file without scripts or anything from the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from finephrase_dagster.audit.audit import Audit, AuditReport, GateResult
from finephrase_dagster.audit.chart import collapse_chart, histogram
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.audit.overlap import MOST, REMEDY, PromptOverlap
from finephrase_dagster.audit.showcase import SAMPLED, Showcase, ShownRow, showcase

STYLE = Path(__file__).with_suffix(".css")
TEXT_SHOWN, REASON_SHOWN = 2_500, 400  # characters
BINS = 30
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_CONTROL = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127], "\ufffd")


def audit_page(audit: Audit, title: str) -> str:
    """Return the page of an audit as HTML; reads the dataset a second time for the rows that it shows."""
    return html_page(title, [audit_sections(audit, title)])


def audit_sections(audit: Audit, title: str) -> str:
    """Return what the page of an audit says, as a part of a page."""
    report, shown = audit.report, showcase(audit)
    sections = [
        _head(title, audit),
        _gate_table(report),
        _remedies(report),
        _rows(shown, report.rows),
        _curve(report),
        _histograms(report, shown),
    ]
    return "\n".join(section for section in sections if section)


def overlap_section(pairs: Sequence[PromptOverlap]) -> str:
    """Return a table of how far the datasets of several prompts say the same."""
    lines = []
    for pair in pairs:
        verdict, style = ("passed", "good") if pair.passed else ("warning", "warn")
        lines.append(
            f"<tr><td>{_text(pair.first)} and {_text(pair.second)}</td>"
            f'<td><span class="chip {style}">{verdict}</span></td>'
            f'<td class="number">{pair.near_duplicates:.1%}</td><td class="number">{pair.mean_similarity:.3f}</td>'
            f'<td class="number">{pair.documents:,}</td></tr>'
        )
    return (
        "<h1>Prompts on the same documents</h1>\n<p>How many documents have nearly the same completion with two "
        f"prompts. With more than {MOST:.0%} a prompt adds little to the other one. {REMEDY}</p>\n"
        '<div class="scroll"><table>\n<tr><th>prompts</th><th>verdict</th><th class="number">'
        'near-duplicates</th><th class="number">mean similarity</th><th class="number">documents</th></tr>\n'
        + "\n".join(lines)
        + "\n</table></div>"
    )


def html_page(title: str, parts: Sequence[str]) -> str:
    """Return a self-contained page."""
    style = STYLE.read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Audit of {_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + '\n<hr class="part">\n'.join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(title: str, audit: Audit) -> str:
    report = audit.report
    failed = [gate.name for gate in report.gates if gate.blocking and not gate.passed]
    verdict = f"Not fit to train on: {', '.join(failed)}" if failed else "Passes every blocking gate"
    facts = [f"{report.rows:,} completions"]
    if left_out := audit.dataset.left_out:
        facts.append(f"{left_out:,} of them left out of training, because they fail a gate")
    if audit.dataset.check:
        facts.append(f"form {audit.dataset.check}")
    if report.without_source:
        facts.append(f"{report.without_source:,} without a source")
    facts.append(_cost(audit))
    chip = f'<span class="chip {"bad" if failed else "good"}">{_text(verdict)}</span>'
    return f'<h1>{_text(title)}</h1>\n<p class="lead">{_text(" · ".join(facts))}</p>\n<p>{chip}</p>'


def _cost(audit: Audit) -> str:
    seconds = audit.report.reading_seconds + sum(gate.seconds for gate in audit.report.gates)
    cost = f"audited in {seconds:,.1f} core-seconds"
    run = (audit.dataset.manifest or {}).get("run") or {}
    if engine := run.get("engine_seconds"):
        cost += f", {seconds / engine:.2%} of the {engine:,.0f} s in which the engine wrote them"
    return cost


def _in_order(report: AuditReport) -> list[GateResult]:
    """Return the gates, those that failed first."""
    return sorted(report.gates, key=lambda gate: (gate.passed, not gate.blocking))


def _gate_table(report: AuditReport) -> str:
    total = report.reading_seconds + sum(gate.seconds for gate in report.gates) or 1.0
    lines = []
    for gate in _in_order(report):
        verdict, style = _verdict(gate)
        lines.append(
            f"<tr><td><strong>{_text(gate.name)}</strong><small>{_prose(gates()[gate.name].sentence)}</small></td>"
            f'<td><span class="chip {style}">{verdict}</span></td><td class="number">{gate.value:.4g}</td>'
            f'<td class="number">{gate.bound} {gate.threshold:g}</td><td class="number">{gate.failing:,}</td>'
            f'<td class="number">{gate.seconds:,.1f} s<small>{gate.seconds / total:.1%}</small></td></tr>'
        )
    notes = [f"Reading the rows and their words took {report.reading_seconds / total:.1%} of the time."]
    lacks: dict[str, list[str]] = {}
    for name, lack in report.skipped.items():
        lacks.setdefault(lack, []).append(name)
    notes += [f"Not run: {', '.join(names)} ({lack})." for lack, names in lacks.items()]
    return (
        '<h2>Gates</h2>\n<div class="scroll"><table>\n<tr><th>gate</th><th>verdict</th><th class="number">value</th>'
        '<th class="number">required</th><th class="number">failing rows</th>'
        '<th class="number">core-seconds</th></tr>\n'
        + "\n".join(lines)
        + f'\n</table></div>\n<p class="note">{_text(" ".join(notes))}</p>'
    )


def _verdict(gate: GateResult) -> tuple[str, str]:
    if gate.drops and gate.failing:
        return "rows left out", "warn"
    if gate.passed:
        return "passed", "good"
    return ("failed", "bad") if gate.blocking else ("warning", "warn")


def _remedies(report: AuditReport) -> str:
    cards = []
    for gate in _in_order(report):
        if gate.passed:
            continue
        examples = "".join(f"<li><code>{_text(row.id, 120)}</code>: {_text(row.reason)}</li>" for row in gate.examples)
        cards.append(
            f'<div class="card"><h3 class="{_verdict(gate)[1]}">{_text(gate.name)}</h3>\n<p>{_text(gate.detail)}</p>\n'
            + (f"<ul>{examples}</ul>\n" if examples else "")
            + f"<p><strong>What to do:</strong> {_prose(gates()[gate.name].remedy)}</p></div>"
        )
    return "<h2>What to do</h2>\n" + "\n".join(cards) if cards else ""


def _rows(shown: Showcase, rows: int) -> str:
    if not shown.sample:
        return ""
    sample = "all completions" if rows <= SAMPLED else f"the {SAMPLED:,} completions whose ids have the lowest hashes"
    groups = (
        ("Worst", "Most gates failed.", shown.worst),
        ("Typical", "The first of the sample that are neither among the worst nor the best.", shown.typical),
        ("Best", "No gate failed, and most different words.", shown.best),
    )
    return f'<h2>Completions and their sources</h2>\n<p class="note">Chosen from {sample}.</p>\n' + "\n".join(
        f'<h3>{name}</h3>\n<p class="note">{note}</p>\n' + "\n".join(map(_row, group))
        for name, note, group in groups
        if group
    )


def _row(row: ShownRow) -> str:
    flaws = "".join(
        f'<span class="flaw"><strong class="bad">{_text(name)}</strong> {_text(reason)}</span>'
        for name, reason in row.flaws.items()
    )
    words = f"words: {row.words:,}" + ("" if row.source_words is None else f"; of the source: {row.source_words:,}")
    completion = f'<div><h4>Completion</h4><p class="text" dir="auto">{_text(row.text, TEXT_SHOWN)}</p></div>'
    if row.source_text is not None:
        source = f'<div><h4>Source</h4><p class="text" dir="auto">{_text(row.source_text, TEXT_SHOWN)}</p></div>'
        completion = f'<div class="pair">{source}{completion}</div>'
    head = f'<header><code>{_text(row.id, 120)}</code><span class="note">{words}</span></header>'
    return f'<article class="card row">{head}{flaws}{completion}</article>'


def _curve(report: AuditReport) -> str:
    curve = next((gate.figures.get("prefixes") for gate in report.gates if gate.name == "collapse"), None)
    if not curve or not report.rows:
        return ""
    return (
        "<h2>How completions begin</h2>\n<p>How many different beginnings there are, and how often the most common one "
        "occurs, by length. Circles are 10,000 math completions of two generators of the published study, of which "
        "SmolLM2-1.7B made the better training data. The share of different beginnings falls with the number of "
        f"completions; here there are {report.rows:,}.</p>\n"
        f'<div class="card">{collapse_chart(curve, report.rows)}</div>'
    )


def _histograms(report: AuditReport, shown: Showcase) -> str:
    charts = list(_length_charts(shown.sample))
    for gate in report.gates:
        for name, figure in gate.figures.items():
            if "histogram" in name and figure:
                label = (
                    f"{gate.name}: {name.removesuffix('histogram').replace('_', ' ').strip() or 'score'} per completion"
                )
                charts.append((label, histogram(*_bins(figure), label)))
    cards = "".join(f'<div class="card"><h3>{_text(label)}</h3>{chart}</div>' for label, chart in charts)
    return f'<h2>Lengths and scores</h2>\n<div class="charts">{cards}</div>' if charts else ""


def _bins(figure: Any) -> tuple[Sequence[int], Sequence[float]]:
    """Return the counts of a histogram and its edges; a list of counts spans 0 to 1."""
    if isinstance(figure, dict):
        counts, edges = sorted(figure.values(), key=len)
        return counts, edges
    return figure, np.linspace(0, 1, len(figure) + 1).tolist()


def _length_charts(sample: Sequence[ShownRow]) -> Iterator[tuple[str, str]]:
    ratios = [row.words / row.source_words for row in sample if row.source_words]
    sources = [row.source_words for row in sample if row.source_words is not None]
    for label, values in (
        ("Words per completion", [row.words for row in sample]),
        ("Words per source", sources),
        ("Words of the completion per word of its source", ratios),
    ):
        if values:
            high = float(np.quantile(values, 0.99)) or 1.0
            counts, edges = np.histogram(np.minimum(values, high), BINS, (0, high))
            yield label, histogram(counts.tolist(), edges.tolist(), label)


def _prose(text: str) -> str:
    """Return a sentence of ours for HTML, with code between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _text(text: str, characters: int = REASON_SHOWN) -> str:
    """Return text for HTML: escaped, cut, and without control characters."""
    cut = text if len(text) <= characters else f"{text[:characters]} …"
    return escape(cut.translate(_CONTROL))
