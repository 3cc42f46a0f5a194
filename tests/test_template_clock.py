"""A chat template that inserts the date gives the same prompts on every day: the recipe's date."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from finephrase_dagster.artifacts.recipe import ENDPOINT_DAY, request_parameters, resolve_day
from finephrase_dagster.corpora.tokenizer import read_tokenizer
from finephrase_dagster.generators.template_clock import dated_template, read_clock
from finephrase_dagster.rephrase.render import Renderer
from rephrase_parts import CHAT_TEMPLATE, prompt, write_tokenizer

DAYS = (datetime(2024, 2, 29, 9, 0), datetime(2031, 12, 1, 23, 0))
TEMPLATES = {
    "with an argument": "{%- if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% endif %}\n"
    "Today: {{ date_string }}\n",
    "without one": "Date is {{ strftime_now('%B %d, %Y') }}.\n",
    "in parts": "\n{% if strftime_now is defined %}{{ strftime_now('%Y')|int + 1 }} "
    '{{ strftime_now("%H:%M") }}{% endif %}',
    "in a macro": "{% macro today() %}{{ strftime_now('%d.%m.%y') }}{% endmacro %}{{ today() }}",
    "computed": "{% set f = '%' ~ 'A' %}{{ strftime_now(f) }}",
    "in a loop": "{% for word in ['a', 'b'] %}{{ word }}{{ strftime_now('%j') }}{% endfor %}",
}


def write_model(folder: Path, head: str) -> Path:
    tokenizer = read_tokenizer(write_tokenizer(folder))
    tokenizer.chat_template = head + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


class Clock(datetime):
    """A clock that stands at `today`."""

    today: datetime

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return cls.today


def rendered(model: Path, day: str | None, now: datetime, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the prompt that the library renders at a time."""
    Clock.today = now
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    renderer = Renderer(model=model, prompts={"faq": prompt("faq")}, context=512, max_tokens=8, day=day)
    return renderer._text("faq", "a document")


@pytest.mark.parametrize("head", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_a_template_that_inserts_the_date_renders_alike_on_every_day(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path, head)
    first, second = (rendered(model, None, now, monkeypatch) for now in DAYS)
    assert first != second
    first, second = (rendered(model, "2025-01-01", now, monkeypatch) for now in DAYS)
    assert first == second
    if "set f" not in head:  # a computed format is not known beforehand
        assert first == rendered(model, None, datetime(2025, 1, 1), monkeypatch)


def test_a_template_without_a_date_stays_as_it_is(tmp_path: Path) -> None:
    model = write_model(tmp_path, "Be brief.")
    assert read_clock(model) == "none"
    assert dated_template(model, "2025-01-01") is None
    assert resolve_day("none", "2025-01-01", endpoints=False) == {}


@pytest.mark.parametrize(
    "head",
    [
        "{% if tools %}Today: {{ strftime_now('%d %b %Y') }}{% endif %}",
        "{% set now = strftime_now('%d %b %Y') %}{% if tools is not none and tools %}{{ now }}{% endif %}",
        "{# strftime_now('%Y') is not called #}",
        "{{ raise_exception('no') if messages[0].role == 'system' }}{% if tools %}{{ strftime_now('%Y') }}{% endif %}",
    ],
)
def test_a_template_that_inserts_the_date_next_to_tools_alone_needs_none(head: str, tmp_path: Path) -> None:
    model = write_model(tmp_path, head)
    assert read_clock(model) == "none"
    assert dated_template(model, "2025-01-01") is None


@pytest.mark.parametrize(
    "head",
    [
        *TEMPLATES.values(),
        "{% if messages|length > 2 %}{{ strftime_now('%H') }}{% endif %}",
        "{{ raise_exception('no') if messages[0].content == 'Text.' }}{{ strftime_now('%H') }}",
    ],
)
def test_a_date_counts_whatever_its_form_and_the_conversation_that_has_it(head: str, tmp_path: Path) -> None:
    assert read_clock(write_model(tmp_path, head)) != "none"


def test_an_endpoint_is_sent_the_date_if_its_template_takes_one(tmp_path: Path) -> None:
    clock = read_clock(write_model(tmp_path / "argument", TEMPLATES["with an argument"]))
    day = resolve_day(clock, "2025-01-01", endpoints=True)
    recipe = {"max_tokens": 8, "sampling": dict.fromkeys(("temperature", "top_p", "top_k"), 1), **day}
    assert request_parameters(recipe)["chat_template_kwargs"] == {"date_string": "01 Jan 2025"}
    clock = read_clock(write_model(tmp_path / "none", TEMPLATES["without one"]))
    assert resolve_day(clock, "2025-01-01", endpoints=True) == {"date": ENDPOINT_DAY}
