"""Usage errors in the project's words: the option, what is wrong with its value, and where the options are listed."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from typer.exceptions import TyperException

USAGE = 2
"""Exit status of a usage error."""

_FLAWS = {
    "greater_than_equal": "{input} is less than {ge}",
    "less_than_equal": "{input} is more than {le}",
    "int_parsing": "{input!r} is not a whole number",
    "float_parsing": "{input!r} is not a number",
}
"""What is wrong with an option's value, by pydantic's name for the mistake."""


def is_usage_error(error: TyperException) -> bool:
    """Return whether the command line was wrong; typer has no public class for that. A page of help is no error."""
    return error.exit_code == USAGE and not error.message.startswith("Usage:")


def usage_message(error: TyperException) -> str:
    """Return a usage error as one line with the next action."""
    context: Any = getattr(error, "ctx", None)
    parameter = getattr(error, "param", None)
    if context is not None and error.message == "Missing command.":
        return f"Name a command: {', '.join(f'{context.command_path} {name}' for name in context.command.commands)}"
    text = error.format_message().rstrip(".")
    if parameter is not None and error.message:
        text = f"{parameter.opts[0]}: {_flaw(error)}"
    end = "" if text.endswith("?") else "."
    return f"{text}{end} See: {context.command_path if context is not None else 'finephrase'} --help"


def _flaw(error: TyperException) -> str:
    if not isinstance(error.__cause__, ValidationError):
        return error.message.removeprefix("Value error, ").rstrip(".")
    first = error.__cause__.errors()[0]
    if first["type"] not in _FLAWS:
        return error.message.removeprefix("Value error, ").rstrip(".")
    return _FLAWS[first["type"]].format(input=first["input"], **first.get("ctx", {}))
