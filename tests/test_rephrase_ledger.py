"""The ledger: which rows a folder holds after an interruption."""

from __future__ import annotations

from pathlib import Path

from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.rephrase.ledger import Ledger
from finephrase_dagster.rephrase.outcome import Completed, journal_line


def completed(name: str) -> Completed:
    return Completed(
        id=name,
        text="text",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        document_cut=False,
        document_sha256="0",
    )


def test_rows_of_a_published_chunk_count_although_its_journal_lacks_some(tmp_path: Path) -> None:
    """A writer was killed after it published the chunk and before it removed the journal.

    In an object store, that journal may lack the rows since its last upload.
    """
    folder = LocalFolder(tmp_path / "faq")
    with folder.claim():
        ledger = Ledger(folder, "faq", chunk_rows=3)
        for row, name in enumerate(("a", "b", "c")):
            chunk = ledger.assign(0)
            ledger.record(chunk, row, completed(name))
        ledger.publish_full()
        left_over = folder.journal(chunk.name)
        left_over.append(journal_line(0, completed("a")))
        left_over.close()

    with folder.claim():
        resumed = Ledger(folder, "faq", chunk_rows=3)
        assert resumed.done_before == 3
        assert resumed.is_done(0, 2, "c")
        assert folder.journals() == []
        resumed.publish_left_over()
        assert resumed.count_rows(3).completed == 3
