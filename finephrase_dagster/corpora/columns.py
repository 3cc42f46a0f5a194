"""A row's values as a document, or the reason why it is none: conditions first, then text, tokens and id."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import pyarrow as pa

from finephrase_dagster.corpora.document import CorpusError, Document, Dropped, Row, text_flaw
from finephrase_dagster.study.source import OneOf, Range, TableSource

_SHOWN_VALUES = 5  # of a list, in a reason
_NOT_UNICODE = "text is not valid Unicode"


class Columns:
    """Which columns of a table are read, and what a row must hold to count.

    Attributes:
        names: the columns, as the study names them; nested ones with dots.
        texts: those that hold text.
    """

    def __init__(self, source: TableSource) -> None:
        texts = source.text_column
        self.texts: tuple[str, ...] = (texts,) if isinstance(texts, str) else texts
        self._id, self._tokens = source.id_column, source.token_column
        self._keep = [(name, _test(wanted), f"{name} {_told(wanted)}") for name, wanted in source.keep.items()]
        listed = [*self.texts, self._id, self._tokens, *source.keep]
        self.names: tuple[str, ...] = tuple(dict.fromkeys(name for name in listed if name is not None))

    def tops(self, present: Iterable[str]) -> list[str]:
        """The columns of a table that have to be read: those named, and those that hold nested ones."""
        present = set(present)
        return list(dict.fromkeys(name if name in present else name.split(".")[0] for name in self.names))

    def check(self, schema: pa.Schema, where: str) -> None:
        """Refuses a table that lacks a column.

        Raises:
            CorpusError: naming the table, the missing column and the columns there are.
        """
        for name in self.names:
            if name not in schema.names and not _nested(schema, name.split(".")):
                raise absent(where, name, schema.names)

    def check_row(self, values: Mapping[str, Any], where: str) -> None:
        """The same for a table that is known by a row alone.

        Raises:
            CorpusError: likewise.
        """
        for name in self.names:
            if not _can_hold(values, name):
                raise absent(where, name, values)

    def row(self, values: Mapping[str, Any], where: str, number: int) -> Row:
        """One row as a document, or the reason why it is none; `number` counts from 1.

        Raises:
            CorpusError: the row has text but no id.
        """
        for name, fits, reason in self._keep:
            if not fits(value_at(values, name)):
                return Dropped(source=where, reason=reason)
        text = self._text(values)
        flaw = _NOT_UNICODE if isinstance(text, bytes) else text_flaw(text)
        if flaw is not None or not isinstance(text, str):
            return Dropped(source=where, reason=flaw or "no text")
        name = self._id_of(values, text, where, number)
        return Document(id=name, text=text, source=where, tokens=self._count(values))

    def table_rows(self, table: pa.Table, where: str, number: int) -> Iterator[Row]:
        """The rows of a table, the first of which is row `number`.

        Raises:
            CorpusError: a row has text but no id.
        """
        for name in set(self.texts) & set(table.column_names):
            table = _with_bytes(table, name)
        for values in table.to_pylist():
            yield self.row(values, where, number)
            number += 1

    def _text(self, values: Mapping[str, Any]) -> object:
        if len(self.texts) == 1:
            return _decoded(value_at(values, self.texts[0]))
        parts = [_decoded(value_at(values, name)) for name in self.texts]
        told = [part for part in parts if part is not None and not (isinstance(part, str) and not part.strip())]
        if wrong := [part for part in told if not isinstance(part, str)]:
            return wrong[0]
        return "\n\n".join(map(str, told)) if told else next((part for part in parts if part is not None), None)

    def _id_of(self, values: Mapping[str, Any], text: str, where: str, number: int) -> str:
        if self._id is None:
            return hashlib.sha256(text.encode()).hexdigest()[:32]
        found = _decoded(value_at(values, self._id))
        if found is None or isinstance(found, bytes) or not str(found).strip() or text_flaw(str(found)):
            raise CorpusError(f"{where}, row {number}: no id in column {self._id!r}; give every row one")
        return str(found)

    def _count(self, values: Mapping[str, Any]) -> int | None:
        found = value_at(values, self._tokens) if self._tokens is not None else None
        return int(found) if _number(found) and math.isfinite(found) and found >= 0 else None


def value_at(values: Mapping[str, Any], name: str) -> Any:
    """The value of a column; one that has dots in its name, and is no column, is looked up step by step."""
    if name in values:
        return values[name]
    found: Any = values
    for step in name.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def absent(where: str, name: str, present: Iterable[str]) -> CorpusError:
    """The error that says of a table which column it lacks, and which it has."""
    return CorpusError(f"{where}: no column {name!r}; there are {', '.join(sorted(present)) or 'none'}")


def _with_bytes(table: pa.Table, name: str) -> pa.Table:
    """The table with a column of text as bytes: one text that is not UTF-8 would else stop all the others."""
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind := {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(column.type):
        column = column.cast(kind)
    return table.set_column(table.column_names.index(name), name, column)


def _decoded(value: object) -> object:
    """Bytes as the text they hold; as bytes where they hold none."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return value


def _nested(schema: pa.Schema, steps: list[str]) -> bool:
    if steps[0] not in schema.names:
        return False
    kind = schema.field(steps[0]).type
    for step in steps[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
            return False
        kind = kind.field(step).type
    return True


def _can_hold(values: Mapping[str, Any], name: str) -> bool:
    """Whether a value that a row lacks may be there in others: it is null, or what holds it is."""
    if name in values:
        return True
    found: Any = values
    for step in name.split("."):
        if found is None:
            return True
        if not isinstance(found, Mapping) or step not in found:
            return False
        found = found[step]
    return True


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _test(wanted: Range | OneOf) -> Callable[[Any], bool]:
    if isinstance(wanted, OneOf):
        # True is no 1 in a study file.
        listed = {(isinstance(value, bool), value) for value in wanted.values}
        return lambda value: isinstance(value, str | int | float) and (isinstance(value, bool), value) in listed
    low = -math.inf if wanted.min is None else wanted.min
    high = math.inf if wanted.max is None else wanted.max
    return lambda value: _number(value) and low <= value <= high


def _told(wanted: Range | OneOf) -> str:
    """What a row that is dropped does not fulfil."""
    if isinstance(wanted, OneOf):
        shown = ", ".join(str(value) for value in wanted.values[:_SHOWN_VALUES])
        return f"not one of {shown}{', ...' if len(wanted.values) > _SHOWN_VALUES else ''}"
    if wanted.max is None:
        return f"not {_plain(wanted.min)} or more"
    if wanted.min is None:
        return f"not {_plain(wanted.max)} or less"
    return f"not in {_plain(wanted.min)} to {_plain(wanted.max)}"


def _plain(number: float | None) -> str:
    return str(int(number)) if number is not None and number.is_integer() else str(number)
