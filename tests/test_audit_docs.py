"""The page about audits describes every gate as its file does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from finephrase_dagster.audit.gate import Gate
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.study.paths import REPOSITORY

MARK = "<!-- gates: tests/test_audit_docs.py writes what follows -->\n"


def test_the_page_describes_every_gate() -> None:
    _, mark, written = (REPOSITORY / "docs" / "audit.md").read_text(encoding="utf-8").partition(MARK)
    described = "\n".join(description())
    assert mark, f"docs/audit.md has no line {MARK}"
    assert written == described, "write the page again: python tests/test_audit_docs.py"


def test_every_gate_says_why_its_threshold_is_what_it_is_and_what_to_do() -> None:
    assert [gate.name for gate in gates().values() if not (gate.reason and gate.remedy)] == []


def description() -> Iterator[str]:
    """Yield the lines of the page below its mark."""
    yield from ("", "| gate | value | required | if it fails |", "|---|---|---|---|")
    for gate in gates().values():
        outcome = "blocks" if gate.blocking else "warns"
        yield f"| [`{gate.name}`](#{gate.name}) | {gate.sentence} | {gate.bound} {threshold(gate)} | {outcome} |"
    for gate in gates().values():
        yield from ("", f"## {gate.name}", "", f"Measures {gate.sentence}.", "")
        yield f"- Required: {gate.bound} {threshold(gate)}. {gate.reason}".rstrip()
        if gate.needs:
            yield f"- Needs: {', '.join(f'`{need}`' for need in gate.needs)}."
        others = {name: value for name, value in gate.defaults.items() if name != "threshold"}
        if others:
            yield f"- Further settings: {listed(others)}."
        for settings in dict.fromkeys(listed(settings) for settings in gate.forms.values()):
            forms = [f"`{form}`" for form, own in gate.forms.items() if listed(own) == settings]
            yield f"- For {', '.join(forms)}: {settings}."
        yield f"- If it fails: {gate.remedy}".rstrip()


def threshold(gate: Gate) -> str:
    return f"{gate.defaults['threshold']:g}"


def listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`: {'none' if value is None else str(value)}" for name, value in settings.items())


if __name__ == "__main__":
    page = REPOSITORY / "docs" / "audit.md"
    page.write_text(
        page.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n".join(description()), encoding="utf-8"
    )
