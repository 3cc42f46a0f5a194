"""Tables: one row of a file as it was read, and looking up columns by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from finephrase_dagster.corpora.document import CorpusError


class FileRow(NamedTuple):
    """One row of a file.

    Attributes:
        number: the number of the row, from 1; in a JSONL file the number of the line.
        values: the values by column; None if the line cannot be parsed. Bytes that are not UTF-8 appear in strings as
            lone surrogates (Python's `surrogateescape`), so that they affect their own value only.
        flaw: why there are no values.
        detail: what exactly is wrong, for messages.
    """

    number: int
    values: dict[str, Any] | None
    flaw: str = ""
    detail: str = ""


def value_at(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column; a name with dots that is no column leads into structs."""
    if name in values:
        return values[name]
    value: Any = values
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def top_columns(names: Iterable[str], present: Iterable[str]) -> list[str]:
    """Return the columns of a table to read: those named, and the structs that hold nested ones."""
    present = set(present)
    return list(dict.fromkeys(name if name in present else name.split(".")[0] for name in names))


def check_schema(schema: pa.Schema, names: Iterable[str], where: str) -> None:
    """Refuse a table that lacks a column or has it more than once.

    Raises:
        CorpusError: naming the table, the column and the columns there are.
    """
    lacking = []
    for name in names:
        top = name if name in schema.names else name.split(".")[0]
        if schema.names.count(top) > 1:
            raise CorpusError(f"{where}: has the column {top!r} more than once; rename or remove one of them")
        if name not in schema.names and not _is_nested(schema, name.split(".")):
            lacking.append(name)
    if lacking:
        raise missing_column(where, lacking, schema.names)


def check_id_type(schema: pa.Schema, name: str, where: str) -> None:
    """Refuse a table whose ids are of a type that holds neither strings nor exact whole numbers.

    Raises:
        CorpusError: naming the table, the column and its type.
    """
    kind: pa.DataType | None = None
    steps = [name] if name in schema.names else name.split(".")
    if _is_nested(schema, steps):
        kind = schema.field(steps[0]).type
        for step in steps[1:]:
            kind = kind.field(step).type
    if kind is not None and pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind is None or holds_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind):
        return
    if (pa.types.is_decimal(kind) and kind.scale == 0) or str(kind) == "extension<arrow.uuid>":
        return
    raise CorpusError(
        f"{where}: row 1 has an id of the type {kind} in column {name!r}; an id is a string or a whole number: convert "
        "the column to one of them, or name another"
    )


def holds_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_text(values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column that holds text; bytes, as some writers store text, as a string."""
    value = value_at(values, name)
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class ColumnMissing(CorpusError):
    """A table has no columns of these `names`."""

    names: tuple[str, ...] = ()


def missing_column(where: str, names: str | Sequence[str], present: Iterable[str]) -> ColumnMissing:
    """Return the error for a table that lacks one column or several."""
    names = (names,) if isinstance(names, str) else tuple(names)
    lacking = " and no column ".join(map(repr, names))
    error = ColumnMissing(f"{where}: no column {lacking}; its columns are {', '.join(sorted(present)) or 'none'}")
    error.names = names
    return error


def _is_nested(schema: pa.Schema, steps: list[str]) -> bool:
    if steps[0] not in schema.names:
        return False
    kind = schema.field(steps[0]).type
    for step in steps[1:]:
        if not pa.types.is_struct(kind) or kind.get_field_index(step) < 0:
            return False
        kind = kind.field(step).type
    return True


def may_have(values: Mapping[str, Any], name: str) -> bool:
    """Whether a column may exist, judged by one row: it has the column, or null in place of the struct around it."""
    if name in values:
        return True
    value: Any = values
    for step in name.split("."):
        if value is None:
            return True
        if not isinstance(value, Mapping) or step not in value:
            return False
        value = value[step]
    return True
