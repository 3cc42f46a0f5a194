"""Completions with list items, table cells or headings that have no content."""

import re
from collections.abc import Sequence

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_ITEM = re.compile(
    r"^[ \t]*(?:(?P<bullet>[*+\u2022-])|(?:\d{1,3}|[A-Z])[.)]|[a-z]\))"
    r"(?P<blank>[ \t]+(?:[*_]{2,4}|\[[ xX]\]|N/A|\.{3}|\u2026))?[ \t]*$",
    re.MULTILINE,
)
_MARK = r"(?:[*+\u2022-]|\d{1,3}[.)])[ \t]"
_LABEL = re.compile(
    rf"^([ \t]*){_MARK}+[*_]{{2}}[^*_\n]+(?::[*_]{{2}}|[*_]{{2}}[ \t]*:)[ \t]*(?=\n\1{_MARK}|\s*\Z)", re.MULTILINE
)
_ANOTHER = r"(?![*+\u2022-](?:\s|$)|(?:(?:\d{1,3}|[A-Z])[.)]|[a-z]\))(?:\s|$)|\#{1,6}\s)"  # an item or a heading
_CONTENT = re.compile(rf"\n(?:[ \t]*\n)*[ \t]+{_ANOTHER}\S|\n{_ANOTHER}\S")
_PARAGRAPH = re.compile(rf"\s*\n{_ANOTHER}\S")
_HEADING = re.compile(r"^(#{1,6})[ \t]+\S.*$", re.MULTILINE)
_LABELLED = re.compile(
    r"#+\s+[a-z]|.*[\[\].?!:]"
)  # a comment of code, or a heading that is content itself: a link, a question
_BARE_HEADING = re.compile(r"(?:\A|\n[ \t]*\n)(#{1,6})[ \t]*$", re.MULTILINE)  # under a line of text, it underlines it
_FENCE = re.compile(r"^(```|~~~).*?(?:^\1|\Z)", re.MULTILINE | re.DOTALL)
_SEPARATOR = re.compile(r"\|?[ :|-]*-[ :|-]*\|?")
_HINT = (  # an empty item, or what headings and tables have, for RE2
    r"(?m)[#|]|[*_]{2}[ \t]*:|:[*_]{2}|^[ \t]*(?:[*+\x{2022}-]|(?:\p{Nd}{1,3}|[A-Z])[.)]|[a-z]\))"
    r"(?:[ \t]+(?:[*_]{2,4}|\[[ xX]\]|N/A|\.{3}|\x{2026}))?[ \t]*$"
)
_MOST_EMPTY = 0.34  # of a table's cells without a word
_EMPTY_CELL = re.compile(r"\|[ \t]*\|")


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    text = row.text
    if "\n" not in text.strip():
        return None
    if "```" in text or "~~~" in text:
        text = _FENCE.sub("code", text)
    return _list_flaw(text) or ("#" in text and _heading_flaw(text)) or ("|" in text and _table_flaw(row, text)) or None


def _list_flaw(text: str) -> str | None:
    for mark in _ITEM.finditer(text):
        content = _CONTENT if mark["bullet"] else _PARAGRAPH  # "1." may stand above its paragraph
        if not content.match(text, mark.end()) and (mark.group().strip() != "-" or _is_list(text)):
            return f"an empty list item: {mark.group().strip()!r}"
    label = _LABEL.search(text) if "**" in text or "__" in text else None
    return f"a list item with nothing but a label: {label.group().strip()!r}" if label else None


def _is_list(text: str) -> bool:
    """Return whether a dash begins items of this text; alone on a line, it may also underline a heading."""
    return re.search(r"^[ \t]*-[ \t]+\S", text, re.MULTILINE) is not None


def _heading_flaw(text: str) -> str | None:
    if bare := _BARE_HEADING.search(text):
        return f"an empty heading: {bare[1]!r}"
    headings = list(_HEADING.finditer(text))
    for heading, following in zip(headings, [*headings[1:], None], strict=False):
        if following and len(following[1]) > len(heading[1]):
            continue
        body = text[heading.end() : following.start() if following else len(text)]
        if not body.strip() and not _LABELLED.match(heading.group()):
            return f"a heading without a body: {heading.group()[:60]!r}"
    return None


def _table_flaw(row: AuditedRow, text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines()]
    for number, line in enumerate(lines):
        if "|" not in line or not _SEPARATOR.fullmatch(line) or not number or "|" not in lines[number - 1]:
            continue
        end = next((at for at in range(number + 1, len(lines)) if "|" not in lines[at]), len(lines))
        rows = [_cells(one) for one in lines[number + 1 : end]]
        if any(not any(cell.strip("*_-") for cell in cells) for cells in rows):
            return "an empty table row"
        cells = [cell for cells in rows for cell in cells]
        empty = cells.count("")
        wordless = sum(not cell.strip("*_-") for cell in cells)
        if cells and wordless / len(cells) > _MOST_EMPTY:
            return f"empty table cells: {wordless} of {len(cells)}"
        if (
            empty
            and not any(map(_is_ticked, zip(*rows, strict=False)))
            and not _EMPTY_CELL.search(row.source_text or "")
        ):
            return f"empty table cells: {empty} of {len(cells)}"
    return None


def _is_ticked(column: Sequence[str]) -> bool:
    """Return whether a column has marks, such as ticks, where others are empty."""
    return "" in column and any(column) and all(len(cell) <= 1 or not any(map(str.isalnum, cell)) for cell in column)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


GATE = row_gate(
    name="empty_parts",
    sentence="the share of completions with list items, table cells or headings that have no content",
    bound="at most",
    blocking=False,
    defaults={"threshold": 0.05},
    reason="An empty item or cell shows that the generator filled a form without having anything to say.",
    remedy="Read the examples. Ask for fewer parts in the prompt, or generate with `guided: true`.",
    find_flaw=_flaw,
    hint=_HINT,
    version=3,
)
