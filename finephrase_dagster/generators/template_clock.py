"""Chat templates that insert the date: whether a model's does, and the same template with a fixed date.

Nothing but `strftime_now` lets a template read the clock. Two days would give two prompts under one fingerprint, so the
recipe holds a date, and the engine and the renderer use the template that has it.
"""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

from finephrase_dagster.corpora.tokenizer import read_tokenizer

CLOCK = "strftime_now"
_TAKES_DATE = re.compile(r"\bdate_string is (not )?defined|not date_string is defined")
_FORMAT = re.compile(r"""\bstrftime_now\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")


def read_clock(model: Path | str) -> str:
    """Return how a model's chat template can be given a date: "none" if it reads no clock, "argument" if requests can
    pass `date_string`, otherwise "template"."""
    template = _chat_template(model)
    if CLOCK not in template:
        return "none"
    return "argument" if _TAKES_DATE.search(template) else "template"


def dated_template(model: Path | str, day: str) -> str | None:
    """Return a model's chat template with a fixed day instead of the clock; None if it reads no clock."""
    template = _chat_template(model)
    return fix_clock(template, day) if CLOCK in template else None


def fix_clock(template: str, day: str) -> str:
    """Return a template whose `strftime_now` is a macro that formats a fixed day.

    A format that the template computes gives the day as `2025-01-01`.
    """
    fixed = date.fromisoformat(day)
    formats = {first or second for first, second in _FORMAT.findall(template)}
    texts = json.dumps({name: fixed.strftime(name) for name in sorted(formats)})
    macro = f"{{%- macro {CLOCK}(format) -%}}{{{{- {texts}.get(format, {json.dumps(day)}) -}}}}{{%- endmacro %}}"
    return f"{macro}{{{{ '' }}}}{template}"  # an expression, so that a line break at the template's start stays


def _chat_template(model: Path | str) -> str:
    try:
        template = read_tokenizer(model).get_chat_template()
    except (OSError, ValueError):  # there is none; whoever renders with it says so
        return ""
    return template if isinstance(template, str) else ""
