"""What the fields of all specs are made of: names, model references, numbers, and the frozen base."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from finephrase_dagster.study.problems import InvalidFields, Problem, found_in, shown

EMBEDDED = "embedded"
LARGEST = 2**63 - 1

Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$", max_length=64)]
"""A partition key and a part of a file name: lower-case words joined by single underscores, so that
the double underscore between names is unambiguous and no name leaves the data folder."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every random generator in use takes."""


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
    """The base of all specs: frozen, and refusing fields it does not know and numbers that are none."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _has_plain_numbers(cls, fields: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuses true and false where a number belongs, which Python takes for 1 and 0, and endless numbers."""
        wrong = []
        for name in cls.model_fields if isinstance(fields, dict) else ():
            for value in _plain(fields.get(name)):
                if isinstance(value, bool) and not _takes_bool(cls, name):
                    message = f"is {shown(value)}; write what belongs there, in quotes if it is a name"
                    wrong.append(Problem((name,), message))
                elif isinstance(value, (int, float)) and LARGEST < abs(value) < math.inf:
                    wrong.append(Problem((name,), f"has a number above {LARGEST}; write a smaller one"))
        if not wrong:
            return handler(fields)
        try:
            handler(fields)
        except ValidationError as error:
            told = {problem.place for problem in wrong}
            wrong += [problem for problem in found_in(error, fields) if problem.place not in told]
        raise InvalidFields(list(dict.fromkeys(wrong)))


def _plain(value: Any) -> Iterator[Any]:
    """A value, or those that stand directly in it."""
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value
    else:
        yield value


@cache
def _takes_bool(spec: type[BaseModel], field: str) -> bool:
    """Whether a field takes true and false, or is a spec that looks at its own values."""

    def among(kind: Any) -> bool:
        own = isinstance(kind, type) and issubclass(kind, BaseModel)
        return own or kind is bool or any(among(part) for part in get_args(kind))

    return among(spec.model_fields[field].annotation)


def check_heads(hidden: int, heads: int) -> None:
    """Rotary positions turn pairs of a head's dimensions."""
    if hidden % heads or (hidden // heads) % 2:
        raise ValueError(f"hidden {hidden} must be an even multiple of heads {heads}")
