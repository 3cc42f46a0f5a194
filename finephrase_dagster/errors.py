"""The base class of every error that this project raises on purpose."""

from __future__ import annotations

from typing import Any, ClassVar


class FinephraseError(Exception):
    """An error whose message is all that a person needs: what is wrong, why it matters, and the next action.

    A subclass states both attributes as class arguments: `class EngineFailed(FinephraseError, retryable=True)`.

    Attributes:
        exit_status: of a command that ends with this error. 2: the request was wrong (a usage error, an unreadable
            file, a recipe that does not match what is in the folder). 1: the work failed or is incomplete.
        retryable: whether the same work may succeed later although nobody changes anything (an infrastructure
            failure).
    """

    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init_subclass__(cls, *, exit_status: int | None = None, retryable: bool | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if exit_status is not None:
            cls.exit_status = exit_status
        if retryable is not None:
            cls.retryable = retryable
