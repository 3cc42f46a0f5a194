"""Completions with damaged characters: replacement and control characters, half surrogates, wrongly decoded UTF-8.

Symbols of a tokenizer that were not turned into text count as damage, too.
"""

import re

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]")
_LOST = re.compile(r"[\ufffd\ufffe\ud800-\udfff]")
# The bytes 0x80 to 0xBF, as Latin-1 or Windows-1252 show them: what follows the first byte of a character in UTF-8.
_TAIL = (
    r"[\x80-\xbf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c\u201d"
    r"\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178]"
)
_MOJIBAKE = (
    rf"[\xc2\xc3]{_TAIL}|\xe2[\x80\u20ac\x82\x84\u201a\u201e\x86\u2020]{_TAIL}|\xef[\xbb\xbf]{_TAIL}|\xf0[\x9f\u0178]"
    rf"|(?:[\xce-\xd1\xd7-\xda]{_TAIL}){{2}}|(?:[\xe0-\xed]{_TAIL}{{2}}){{2}}"
)

# How UTF-8 looks in other encodings: in Mac Roman, in code pages 437 and 850, in Windows-1250 and -1251, and in KOI8-R.
_OTHERS = (
    "\u221a[\u00a9\u00ae\u00b0\u00b4\u00b6\u00a7\u00a3\u00a8\u00df\u00c4-\u00dc\u00e0-\u00fc\u2020\u2022\u2122\u2260]"
    "|\u201a\u00c4[\u00f4\u00fa\u00ec\u00f9\u00f2\u00ee\u00a2\u00b6\u00eb\u00f1]"
    "|[\u251c\u252c][\u00a1-\u00ff\u0192\u20a7\u2310]|\u0393[\u00c7-\u00ff]|\u00d4\u00c7"
    "|\u0102[\u00a9\u0142\u02c7\u00b6\u00a4\u013d\u00a8\u00a7\u00ae\u00ab]"
    "|\u0432\u0402|\u0413[\u00a9\u00b6\u00a4\u0458\u00a8\u00a7\u00ae\u00ab\u045e]|[\u0400-\u04ff][\u2500-\u259f]"
    "|(?:[\u0420\u0421][\u0402-\u040f\u0452-\u045f\u0406\u0456\u0490\u0491\u00a0-\u00bb\u2010-\u2122]){3}"
)
_SINGLE_BYTES = "(?:[\u00a1-\u00bf]*[\u00c0-\u00ff]){5}"  # Cyrillic or Chinese in a national encoding, as Latin-1
# Lost to ASCII ("it?s"), escapes of a program ("caf\u00e9" with a backslash), and marks that were escaped twice.
_ESCAPED = (
    r"\b[a-z]+\?(?:s|t|re|ve|ll|d|m)\b(?![=&/])|[A-Za-z]\\(?:u00[0-9a-f]{2}|u20[0-2][0-9a-f]|x[89a-f][0-9a-f]\b)"
    r"|[A-Za-z]\\x[89a-f][0-9a-f]|&amp;(?:#\d+|[a-z]+);"
    "|\u951f\u65a4"
)
# A space and a line break as byte-level BPE writes them; both letters begin words in Maltese.
_TOKENS = r"[a-z.,;:!?)]\u0120[A-Za-z(]|[\w.,;:!?)]\u010a"
_DAMAGE = re.compile(f"{_MOJIBAKE}|{_OTHERS}|{_SINGLE_BYTES}|{_ESCAPED}|{_TOKENS}")

# Control characters, lost ones, and what damage begins with; for RE2.
_HINT = (
    r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\x{fffd}\x{fffe}\xc2\xc3\xe2\xef\xf0\xce-\xd1\xd7-\xda\xe0\xe3-\xed]"
    r"|[\x{a1}-\x{ff}]{5}|\xd4\xc7|[\x{221a}\x{201a}\x{251c}\x{252c}\x{393}\x{102}\x{951f}]|\x{432}\x{402}|\x{413}[^\x{410}-\x{44f}]"
    r"|[\x{400}-\x{4ff}][\x{2500}-\x{259f}]|(?:[\x{420}\x{421}][^\x{410}-\x{44f}]){3}"
    r"|[\x{120}\x{10a}]|[a-z]\?(?:s|t|re|ve|ll|d|m)\b|[A-Za-z]\\[ux]|&amp;"
)


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    text = row.text
    if match := _CONTROL.search(text):
        return f"a control character: U+{ord(match.group()):04X}"
    if match := _LOST.search(text):
        return f"a character that was lost in decoding: U+{ord(match.group()):04X}"
    source = row.source_text or ""
    damage = next((match.group() for match in _DAMAGE.finditer(text) if match.group() not in source), None)
    return f"text that was decoded as another encoding: {damage!r}" if damage else None


GATE = row_gate(
    name="encoding",
    sentence="the share of completions with damaged characters",
    bound="at most",
    defaults={"threshold": 0.01},
    reason="Damaged characters come from the source or the decoding, and cannot be repaired later.",
    remedy="Compare a failing row with its source. Read the source with the right encoding, and generate again.",
    find_flaw=_flaw,
    hint=_HINT,
    version=3,
)
