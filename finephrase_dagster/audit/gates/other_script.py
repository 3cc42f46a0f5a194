"""Completions with words in a script that their source does not use."""

import re

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

# One letter of another script is a symbol (a Greek letter in a formula); two make a word. One Chinese character is one.
SCRIPTS = {
    "Greek": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]{3}"),
    "Cyrillic": re.compile(r"[\u0400-\u052f]{2}"),
    "Armenian": re.compile(r"[\u0530-\u058f]{2}"),
    "Hebrew": re.compile(r"[\u0590-\u05ff]{2}"),
    "Arabic": re.compile(r"[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff]{2}"),
    "Devanagari": re.compile(r"[\u0900-\u097f]{2}"),
    "another Indic script": re.compile(r"[\u0980-\u0dff]{2}"),
    "Thai or Lao": re.compile(r"[\u0e00-\u0eff]{2}"),
    "Tibetan, Burmese, Georgian or Khmer": re.compile(r"[\u0f00-\u10ff\u1780-\u17ff]{2}"),
    "Ethiopic": re.compile(r"[\u1200-\u137f]{2}"),
    "Korean": re.compile(r"[\u1100-\u11ff\uac00-\ud7af]"),
    "Japanese": re.compile(r"[\u3041-\u30ff]"),
    "Chinese characters": re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]"),
}
# A letter that only looks like a Latin one, between Latin letters: Cyrillic, or Greek but for the signs of physics.
_LOOK_ALIKE = re.compile(r"[A-Za-z]+[\u0400-\u052f\u03b1\u03b5\u03b9\u03bf\u03c1\u0391\u0395\u039f][A-Za-z]+")
_ANY = re.compile(r"[\u0370-\u1fff\u3041-\u9fff\uac00-\ud7af]")


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    if row.text.isascii() or not _ANY.search(row.text):
        return None
    source = row.source_text or ""
    for script, letters in SCRIPTS.items():
        if (word := letters.search(row.text)) and not letters.search(source):
            return f"{script}, which the source does not use: {row.text[word.start() : word.start() + 20]!r}"
    if (word := _LOOK_ALIKE.search(row.text)) and not _LOOK_ALIKE.search(source):
        return f"letters of another script in a word: {word[0]!r}"
    return None


GATE = row_gate(
    name="other_script",
    sentence="the share of completions with words in a script that their source does not use",
    bound="at most",
    blocking=False,
    defaults={"threshold": 0.02},
    reason="Small multilingual models switch into another script now and then; more than one row in fifty"
    " shows that they lose the text.",
    remedy="Lower the temperature, or take a generator that knows the language of the sources.",
    find_flaw=_flaw,
    needs=("source_text",),
    version=2,
)
