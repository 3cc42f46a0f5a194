"""Snapshots: answers about artifacts that are computed once, however many items depend on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from finephrase_dagster.errors import FinephraseError

P = ParamSpec("P")
T = TypeVar("T")


class Remembering(Protocol):
    """An object that keeps the answers of its methods, errors included; None keeps none."""

    answers: dict[Any, Any] | None


S = TypeVar("S", bound=Remembering)


def remembered(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Return a method whose answers are kept in `answers`, of an object that keeps any."""

    @wraps(method)
    def answer(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.answers is None:
            return method(self, *args, **kwargs)
        question = (method, args)
        known = self.answers.get(question)
        if known is None:
            try:
                known = method(self, *args, **kwargs)
            except FinephraseError as error:
                known = error
            self.answers[question] = known
        if isinstance(known, FinephraseError):
            raise known.with_traceback(None)
        return known

    return answer
