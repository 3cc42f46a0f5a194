"""One source of a study as documents: the right reader, unique ids, and the limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from finephrase_dagster.corpora.document import CorpusError, Document, Dropped
from finephrase_dagster.corpora.embedded import read_language_reference, read_package_readmes
from finephrase_dagster.study.fingerprint import sha256_text
from finephrase_dagster.study.source import EmbeddedSource, FilesSource, HubSource, Source


def read_source(source: Source, name: str, *, requirements: Path) -> Iterator[Document | Dropped]:
    """Reads a source in its stable order.

    Args:
        source: what to read; its limit counts documents that are kept.
        name: the source's name in the study, for messages.
        requirements: the list of `name==version` lines that `package_readmes` reads.

    Raises:
        CorpusError: the source cannot be read as the study says, or two rows have one id.
    """
    limited = _limited(_unique(_rows(source, requirements), _ids_from_text(source)), source.limit)
    try:
        yield from limited
    except CorpusError as error:
        raise CorpusError(f"source {name}: {error}") from error


def _rows(source: Source, requirements: Path) -> Iterator[Document | Dropped]:
    if isinstance(source, EmbeddedSource):
        if source.corpus == "package_readmes":
            return read_package_readmes(requirements)
        return read_language_reference()
    # The readers bring DataTrove and Arrow along, which the embedded corpora do without.
    from finephrase_dagster.corpora.readers import Columns, read_files, read_hub

    columns = Columns(text=source.text_column, id=source.id_column)
    if isinstance(source, FilesSource):
        return read_files(source.paths, columns=columns)
    return read_hub(source.dataset, revision=source.revision, subset=source.subset, split=source.split, columns=columns)


def _ids_from_text(source: Source) -> bool:
    return isinstance(source, FilesSource | HubSource) and source.id_column is None


def _unique(rows: Iterable[Document | Dropped], ids_from_text: bool) -> Iterator[Document | Dropped]:
    """Refuses a second document of an id; where the id is the text's hash, drops the repetition."""
    seen: set[bytes] = set()  # half a hash an id: 64 bits would collide within a billion documents
    for row in rows:
        if isinstance(row, Document):
            key = bytes.fromhex(sha256_text(row.id)[:32])
            if key in seen:
                if not ids_from_text:
                    raise CorpusError(f"{row.source}: the id {row.id!r} stands twice; make ids unique")
                yield Dropped(source=row.source, reason="repeated text")
                continue
            seen.add(key)
        yield row


def _limited(rows: Iterable[Document | Dropped], limit: int | None) -> Iterator[Document | Dropped]:
    kept = 0
    for row in rows:
        yield row
        kept += isinstance(row, Document)
        if kept == limit:
            return
