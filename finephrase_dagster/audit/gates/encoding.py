"""Completions with damaged characters: replacement and control characters, half surrogates, wrongly decoded UTF-8."""

import re

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
_LOST = re.compile(r"[\ufffd\ufffe\ud800-\udfff]")
# The bytes 0x80 to 0xBF, as Latin-1 or Windows-1252 show them: what follows the first byte of a character in UTF-8.
_TAIL = (
    r"[\x80-\xbf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c\u201d"
    r"\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)
_MOJIBAKE = re.compile(
    rf"[\xc2\xc3]{_TAIL}|\xe2[\x80\u20ac\x82\x84\u201a\u201e\x86\u2020]{_TAIL}|\xef[\xbb\xbf]{_TAIL}|\xf0[\x9f\u0178]"
    rf"|(?:[\xce-\xd1\xd7-\xda]{_TAIL}){{2}}|(?:[\xe0-\xed]{_TAIL}{{2}}){{2}}"
)

# Control characters, lost ones, and what UTF-8 begins with, as Latin-1 shows it; for RE2.
_HINT = r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\x{fffd}\x{fffe}\xc2\xc3\xe2\xef\xf0\xce-\xd1\xd7-\xda\xe0\xe3-\xed]"


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    text = row.text
    if match := _CONTROL.search(text):
        return f"a control character: U+{ord(match.group()):04X}"
    if match := _LOST.search(text):
        return f"a character that was lost in decoding: U+{ord(match.group()):04X}"
    source = row.source_text or ""
    damage = next((match.group() for match in _MOJIBAKE.finditer(text) if match.group() not in source), None)
    return f"UTF-8 that was decoded as another encoding: {damage!r}" if damage else None


GATE = row_gate(
    name="encoding",
    sentence="the share of completions with damaged characters",
    bound="at most",
    defaults={"threshold": 0.01},
    reason="Damaged characters come from the source or the decoding, and cannot be repaired later.",
    remedy="Compare a failing row with its source. Read the source with the right encoding, and generate again.",
    find_flaw=_flaw,
    hint=_HINT,
)
