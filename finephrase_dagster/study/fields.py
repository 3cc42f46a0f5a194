"""What the fields of all specs are made of: names, model references, and the frozen base."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

EMBEDDED = "embedded"

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$", max_length=64)]
"""A partition key and a part of a file name: lower-case words joined by single underscores, so that
the double underscore between names is unambiguous and no name leaves the data folder."""


def _model_reference(value: str) -> str:
    if value == EMBEDDED or value.startswith(("/", "./", "../")):
        return value
    if re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", value):
        return value
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value):
        raise ValueError(f"{value!r} has no revision; write {value}@<commit>, or @main for what it is today")
    raise ValueError(f"{value!r} is neither 'embedded', a folder (/..., ./...) nor <owner>/<name>@<revision>")


ModelReference = Annotated[str, AfterValidator(_model_reference)]
"""`embedded`, a folder that begins with `/` or `.`, or `<owner>/<name>@<revision>` on the hub."""


class Spec(BaseModel):
    """The base of all specs: frozen, and refusing fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def check_heads(hidden: int, heads: int) -> None:
    """Rotary positions turn pairs of a head's dimensions."""
    if hidden % heads or (hidden // heads) % 2:
        raise ValueError(f"hidden {hidden} must be an even multiple of heads {heads}")
