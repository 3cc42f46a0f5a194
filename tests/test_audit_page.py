"""The page of an audit: complete in one file, with everything that a person needs and nothing that text can break."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from audit_parts import essays
from finephrase_dagster.audit.audit import Audit
from finephrase_dagster.audit.chart import collapse_chart
from finephrase_dagster.audit.page import audit_page
from finephrase_dagster.audit.showcase import showcase
from finephrase_dagster.commands.main import app

HOSTILE = '</p><script>alert(1)</script><img src="https://example.org/x.png" onerror=alert(2)>&amp; \x00 \u202e'


class Tags(HTMLParser):
    """Collects the tags, and every attribute that could load something or run code."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.loading: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.loading += [name for name, _ in attributes if name in ("src", "href", "srcset") or name.startswith("on")]
        if tag not in ("meta", "line", "circle", "polyline", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle", "polyline", "rect"):
            assert self.open.pop() == tag


def rows(path: Path, texts: Sequence[str], sources: Sequence[str]) -> Path:
    columns = {"id": [f"{n:04} <b>" for n in range(len(texts))], "text": texts, "source_text": sources}
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
    return path


def page(path: Path, processes: int = 1) -> str:
    with Audit(path, processes=processes) as audit:
        return re.sub(r"[\d.,]+ core-seconds|[\d.,]+ s(?=<small>)|\d+\.\d%", "", audit_page(audit, "rows & more"))


def test_text_of_a_model_cannot_break_the_page(tmp_path: Path) -> None:
    text = page(rows(tmp_path / "rows.parquet", [HOSTILE] * 4 + [""] * 3, [HOSTILE] * 7))
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert not tags.seen & {"script", "img", "iframe", "link", "object", "form"}
    assert tags.loading == []
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "\x00" not in text
    assert "Content-Security-Policy" in text


@pytest.mark.slow
def test_a_page_of_long_texts_stays_below_a_megabyte(tmp_path: Path) -> None:
    text = page(rows(tmp_path / "rows.parquet", ["<&>" * 40_000] * 30, ['"' * 100_000] * 30))
    assert len(text.encode()) < 1_000_000


def test_the_worst_rows_have_the_most_flaws_and_the_best_have_none(tmp_path: Path) -> None:
    texts = ["", *essays(8, words=30)]
    with Audit(rows(tmp_path / "rows.parquet", texts, essays(9, seed=1, words=30))) as audit:
        shown = showcase(audit)
    assert shown.worst[0].id == "0000 <b>"
    assert "empty" in shown.worst[0].flaws
    assert all(not row.flaws for row in shown.best)
    assert len(shown.sample) == 9
    chosen = [row.id for group in (shown.worst, shown.best, shown.typical) for row in group]
    assert len(chosen) == len(set(chosen))


@pytest.mark.slow
def test_the_page_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.parquet", [f"Text {n} of {n * n}." for n in range(90)], ["Source."] * 90)
    assert page(path, processes=2) == page(path)


def test_the_curve_of_beginnings_stands_next_to_the_published_ones() -> None:
    chart = collapse_chart({"length": [2, 10, 60], "distinct": [3, 50, 100], "most_common": [60, 20, 1]}, 100)
    for text in ("Qwen3-1.7B: distinct 0.4 %", "SmolLM2-1.7B: most common 32.4 %", "different"):
        assert text in chart


def test_the_command_writes_the_page_and_says_what_to_do(tmp_path: Path) -> None:
    path, target = rows(tmp_path / "rows.parquet", ["", "Text."], ["Source.", "Source."]), tmp_path / "page.html"
    CliRunner().invoke(app, ["audit", str(path), "--html", str(target)])
    text = target.read_text(encoding="utf-8")
    assert "Not fit to train on: " in text
    assert "<strong>What to do:</strong> Look at the documents of the empty completions." in text
    assert "<code>max_tokens</code>" in text
