"""A page with documents and their completions side by side; it needs no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

CUT = "was cut off at the most tokens of a completion"


@dataclass(frozen=True, kw_only=True)
class PreviewRow:
    """What became of one document with one prompt.

    Attributes:
        text: the completion, cleaned; None if there is none.
        flaw: why the completion fails the form that its prompt asks for, or why there is none; None if it has the form.
        document_cut: whether the document was cut to fit the context.
    """

    prompt: str
    id: str
    source: str
    text: str | None
    flaw: str | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    document_cut: bool = False


def side_by_side_page(
    title: str,
    rows: Iterable[PreviewRow],
    *,
    settings: Mapping[str, str],
    columns: Sequence[str],
    summaries: Iterable[Sequence[str]],
) -> str:
    """Return the page.

    Args:
        settings: what is shown below the title, by name.
        columns: the header of the table of summaries.
        summaries: its rows.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("finephrase_dagster.rephrase", ""), autoescape=True)
    template = environment.get_template("side_by_side.html.jinja")
    return template.render(title=title, rows=rows, settings=settings, columns=columns, summaries=summaries)
