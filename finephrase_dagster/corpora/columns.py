"""The columns that a source names, and what they make of a row: a document, or the reason why it is dropped."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeGuard

from finephrase_dagster.corpora.document import CorpusError, Document, Dropped, Row, row_id, text_flaw
from finephrase_dagster.corpora.inputs import WARC
from finephrase_dagster.corpora.rows import open_file, read_rows
from finephrase_dagster.corpora.table import as_text, may_have, missing_column, value_at
from finephrase_dagster.corpora.warc import warc_rows
from finephrase_dagster.study.fields import describe
from finephrase_dagster.study.source import OneOf, Range, TableSource

_SHOWN_VALUES = 5  # of a list, in a reason


class Columns:
    """Which columns of a source are read, and what a row must hold to be a document.

    Attributes:
        names: the columns, as the study names them; a dot leads into a struct.
        id_column: the column of the ids; None if a document's id is the hash of its text.
    """

    def __init__(self, source: TableSource) -> None:
        texts = source.text_column
        self._texts: tuple[str, ...] = (texts,) if isinstance(texts, str) else texts
        self.id_column, self._tokens = source.id_column, source.token_column
        self._keep = [(name, wanted, _test(wanted), f"{name} {_unmet(wanted)}") for name, wanted in source.keep.items()]
        listed = [*self._texts, self.id_column, self._tokens, *source.keep]
        self.names: tuple[str, ...] = tuple(dict.fromkeys(name for name in listed if name is not None))

    def file_rows(self, url: str, source: str, start: int) -> Iterator[Row]:
        """Yield the rows of a file after the first `start` ones, each as a document or the reason why it is dropped.

        Raises:
            CorpusError: the file cannot be read, lacks a column in every row, or has a row with text but without an id.
        """
        if url.endswith(WARC):
            with open_file(url) as file:
                for page, where, values in warc_rows(file, self.names, url, start):
                    if isinstance(values, str):
                        yield Dropped(source=page, reason=values, where=where)
                    else:
                        yield self.row(values, page, where)
            return
        lacking = set() if start or url.endswith(".parquet") else set(self.names)
        fields: set[str] = set()
        for row in read_rows(url, columns=self.names, id_column=self.id_column, start=start):
            where = f"{url}: row {row.number}"
            if row.values is None:
                yield Dropped(source=source, reason=row.flaw, where=f"{where} {row.detail}".rstrip())
                continue
            if lacking:
                lacking = {name for name in lacking if not may_have(row.values, name)}
                fields.update(row.values)
            try:
                found = self.row(row.values, source, where)
            except CorpusError as error:
                if self.id_column in lacking:  # no row before has it: the name is wrong rather than the row
                    raise missing_column(where, sorted(lacking), row.values) from error
                raise
            yield found
        if lacking and fields:
            raise missing_column(url, sorted(lacking), fields)

    def row(self, values: Mapping[str, Any], source: str, where: str) -> Row:
        """Return a row as a document, or the reason why it is dropped.

        Args:
            where: the file and row, for messages.

        Raises:
            CorpusError: the row has text but no id, or a listed value of the other type, such as 1.1 for "1.10".
        """
        for name, wanted, is_met, reason in self._keep:
            if not is_met(value := value_at(values, name)):
                if isinstance(wanted, OneOf):
                    _refuse_other_type(value, wanted, f"{where}: {name}")
                elif isinstance(value, str):
                    reason = f"{name} is not a number but a text"
                return Dropped(source=source, reason=reason, where=where)
        text = self._text(values)
        if flaw := text_flaw(text):
            return Dropped(source=source, reason=flaw.reason, where=f"{where} {flaw.detail}".rstrip())
        text = str(text)
        if self.id_column is None:
            document_id = hashlib.sha256(text.encode()).hexdigest()[:32]
        else:
            document_id = row_id(value_at(values, self.id_column), self.id_column, where)
        return Document(id=document_id, text=text, source=source, tokens=self._token_count(values))

    def _text(self, values: Mapping[str, Any]) -> object:
        """Return the text of a row; several columns are joined, and a value that is no string takes their place."""
        parts = [as_text(values, name) for name in self._texts]
        if len(parts) == 1:
            return parts[0]
        present = [part for part in parts if part is not None]
        if wrong := [part for part in present if not isinstance(part, str)]:
            return wrong[0]
        return "\n\n".join(part for part in present if part.strip()) if present else None

    def _token_count(self, values: Mapping[str, Any]) -> int | None:
        count = value_at(values, self._tokens) if self._tokens is not None else None
        return int(count) if _is_number(count) and math.isfinite(count) and count >= 0 else None


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _test(wanted: Range | OneOf) -> Callable[[Any], bool]:
    if isinstance(wanted, OneOf):
        # True is no 1 in a study file.
        listed = {(isinstance(value, bool), value) for value in wanted.values}
        return lambda value: isinstance(value, str | int | float) and (isinstance(value, bool), value) in listed
    low = -math.inf if wanted.min is None else wanted.min
    high = math.inf if wanted.max is None else wanted.max
    return lambda value: _is_number(value) and low <= value <= high


def _refuse_other_type(value: object, wanted: OneOf, where: str) -> None:
    """Refuse a text that stands for a listed number, or a number for a listed text: YAML reads 1.10 as 1.1."""
    if not isinstance(value, str) and not _is_number(value):
        return
    for listed in wanted.values:
        if isinstance(listed, str) != isinstance(value, str) and _number(listed) == _number(value) is not None:
            here, quotes = ("number", "without quotes") if isinstance(listed, str) else ("text", "in quotes")
            there = f"the study's 'keep' lists {describe(listed)}; write {value} {quotes} there"
            raise CorpusError(f"{where} is the {here} {value}, and {there}")


def _number(value: object) -> float | None:
    """Return a number, or the one that a text stands for."""
    try:
        return float(value) if isinstance(value, str) or _is_number(value) else None
    except (ValueError, OverflowError):
        return None


def _unmet(wanted: Range | OneOf) -> str:
    """Return the reason for dropping a row that does not meet a condition."""
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
