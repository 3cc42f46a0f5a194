"""Chat templates that insert the date: whether a model's does, and the same template with a fixed date.

A template may insert the date only next to tools, which are never sent: what counts is what it makes of our messages.
Nothing but `strftime_now` lets a template read the clock. Two days would give two prompts under one fingerprint, so the
recipe holds a date, and the engine and the renderer use the template that has it.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from pathlib import Path
from typing import Any

from finephrase_dagster.corpora.tokenizer import read_tokenizer

CLOCK = "strftime_now"
_TAKES_DATE = re.compile(r"\bdate_string is (not )?defined|not date_string is defined")
TIMES = (datetime(2001, 2, 3, 4, 5, 6), datetime(2032, 12, 29, 22, 47, 38))
"""Two times that differ in everything that a format can show, also in the day of the week."""
_SYSTEM, _USER, _ASSISTANT = ({"role": role, "content": "Text."} for role in ("system", "user", "assistant"))
CONVERSATIONS = ([_USER], [_SYSTEM, _USER], [_SYSTEM, _USER, _ASSISTANT, _USER])
"""The forms of conversations that prompts have."""
_FORMAT = re.compile(r"""\bstrftime_now\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")


def read_clock(model: Path | str) -> str:
    """Return how a model's chat template can be given a date: "none" if it reads no clock, "argument" if requests can
    pass `date_string`, otherwise "template"."""
    template = _dated_template(model)
    if template is None:
        return "none"
    return "argument" if _TAKES_DATE.search(template) else "template"


def dated_template(model: Path | str, day: str) -> str | None:
    """Return a model's chat template with a fixed day instead of the clock; None if it reads no clock."""
    template = _dated_template(model)
    return None if template is None else fix_clock(template, date.fromisoformat(day))


def fix_clock(template: str, day: date) -> str:
    """Return a template whose `strftime_now` is a macro that formats a fixed day or time.

    A format that the template computes gives the day as `2025-01-01`.
    """
    formats = {first or second for first, second in _FORMAT.findall(template)}
    texts, other = json.dumps({name: day.strftime(name) for name in sorted(formats)}), json.dumps(day.isoformat())
    macro = f"{{%- macro {CLOCK}(format) -%}}{{{{- {texts}.get(format, {other}) -}}}}{{%- endmacro %}}"
    return f"{macro}{{{{ '' }}}}{template}"  # an expression, so that a line break at the template's start stays


def _dated_template(model: Path | str) -> str | None:
    """Return a model's chat template; None if it has none, or if what it makes of our messages depends on no clock."""
    try:
        tokenizer = read_tokenizer(model)
        template = tokenizer.get_chat_template()
    except (OSError, ValueError):  # whoever renders with it says so
        return None
    if not isinstance(template, str) or CLOCK not in template:
        return None
    first, second = ([_rendered(tokenizer, fix_clock(template, time), one) for one in CONVERSATIONS] for time in TIMES)
    is_refused = not any(first)  # all of them, perhaps for a reason that a prompt does not have
    return template if is_refused or first != second else None


def _rendered(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> str | None:
    """Return the text of a conversation; None if the template does not accept it."""
    try:
        return str(
            tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
        )
    except Exception:  # the errors of Jinja and of a template's own code
        return None
