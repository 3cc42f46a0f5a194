"""The ledger: which rows a folder holds after an interruption."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.artifacts.folder import Journal, LocalFolder
from finephrase_dagster.rephrase.dataset import Dataset, read_dataset
from finephrase_dagster.rephrase.ledger import Ledger
from finephrase_dagster.rephrase.outcome import Completed, Rejected, Rollout, journal_line, with_discarded


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


ROWS = 11


class Killed(BaseException):
    """The writer was killed."""


class MortalFolder(LocalFolder):
    """A folder whose writer is killed before, or after, one of the changes that it makes."""

    def __init__(self, path: Path, changes: float, *, after: bool = False) -> None:
        super().__init__(path)
        self._left, self._after = changes, after

    def _change(self, change: Callable[[], None]) -> None:
        self._left -= 1
        if self._left < 0 and not self._after:
            raise Killed
        change()
        if self._left < 0:
            raise Killed

    def write(self, name: str, content: bytes) -> None:
        self._change(lambda: super(MortalFolder, self).write(name, content))

    def remove(self, name: str) -> None:
        self._change(lambda: super(MortalFolder, self).remove(name))

    def journal(self, name: str) -> Journal:
        journal = super().journal(name)
        append, remove = journal.append, journal.remove
        journal.append = lambda record: self._change(lambda: append(record))  # type: ignore[method-assign]
        journal.remove = lambda: self._change(remove)  # type: ignore[method-assign]
        return journal


def work(folder: LocalFolder, sent: list[int], layout: str) -> None:
    """Finish a dataset of `ROWS` rows, or be killed: every fourth row fails, every third is drawn twice.

    What is sent is `10 * row`, and 1 more for a second rollout.
    """
    dataset = Dataset(folder=folder, recipe={"rows": "of a test"})
    with folder.claim():
        if dataset.manifest():
            return
        dataset.begin()
        ledger = Ledger(folder, "faq", chunk_rows=3, has_rollouts=True, layout=layout)
        try:
            ledger.publish_left_over()
            for row in range(ROWS):
                if not ledger.is_done(0, row, f"d{row}"):
                    chunk, outcome = ledger.assign(0), completed(f"d{row}")
                    if row % 3 == 0 and 0 not in ledger.drawn(f"d{row}"):
                        sent.append(10 * row)
                        ledger.record_rollout(chunk, row, 0, Rollout(outcome, ("form",)))
                    sent.append(10 * row + 1)
                    if row % 4 == 0:
                        outcome = Rejected(id=f"d{row}", status="failed", reason="no")
                    ledger.record(chunk, row, with_discarded(outcome, [(1, 1, 1)] if row % 3 == 0 else []))
                    ledger.publish_full()
            ledger.close(0)
            ledger.publish_full()
            ledger.complete(dataset, ledger.count_rows(ROWS), {})
        finally:
            ledger.release()


def check(path: Path) -> None:
    """Check that every row is there once."""
    finished = read_dataset(path)
    assert sorted(finished.table()["id"].to_pylist()) == sorted(f"d{row}" for row in range(ROWS) if row % 4)
    assert sorted(finished.rejected()["id"].to_pylist()) == ["d0", "d4", "d8"]
    assert (finished.manifest["completed"], finished.manifest["failed"]) == (8, 3)
    assert finished.manifest["discarded"] == {"rollouts": 4, "prompt_tokens": 4, "completion_tokens": 4}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["the order of the rows", ""])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_every_row_is_there_once_wherever_the_writer_is_killed(tmp_path: Path, layout: str, after: bool) -> None:
    for changes in range(99):
        path, sent = tmp_path / str(changes), list[int]()
        try:
            work(MortalFolder(path, changes, after=after), sent, layout)
        except Killed:
            work(LocalFolder(path), sent, layout)
            check(path)
            assert len(sent) <= ROWS + 4 + 1  # the request that was being recorded is sent again
            continue
        check(path)
        break
    assert changes > 2 * ROWS


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_torn_or_damaged_journal_costs_the_rows_of_the_damaged_lines_alone(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, sent = Path(name) / "faq", list[int]()
        with contextlib.suppress(Killed):
            work(MortalFolder(path, data.draw(st.integers(1, 25))), sent, "an order")
        before = len(sent)
        for journal in (path / "__meta__" / "journals").glob("*"):
            content = bytearray(journal.read_bytes())
            if content:
                place = data.draw(st.integers(0, len(content) - 1))
                if data.draw(st.booleans()):
                    content[place] ^= 1 << data.draw(st.integers(0, 7))
                else:
                    del content[place:]
                journal.write_bytes(content)
        work(LocalFolder(path), sent, "an order")
        check(path)
        assert len(sent) - before <= ROWS + 4
