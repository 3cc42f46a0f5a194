"""The ledger of one dataset: records each row's outcome durably, and publishes finished chunks as files.

An outcome is written to its chunk's journal before another request takes its place in the window. When all rows of
a chunk are done, the chunk is published: first its completions (`part-*.parquet`), then its summary
(`__meta__/chunks/part-*.parquet`: the rejected rows and, in the footer, the counts of the data file), then its
journal is removed. So the files tell what is done, whatever killed the writer. A row is known by its place in the
input; where the order of the input's rows has changed between runs, by its id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from finephrase_dagster.artifacts.folder import Folder, Journal
from finephrase_dagster.artifacts.leases import forget_leases
from finephrase_dagster.artifacts.verification import remember_verified
from finephrase_dagster.rephrase.chunks import PublishedChunks, chunk_of, place_of
from finephrase_dagster.rephrase.dataset import REJECTED, Dataset, LedgerError, RowCounts, write_manifest
from finephrase_dagster.rephrase.done import DoneRows, stretches_of
from finephrase_dagster.rephrase.journals import Chunk, JournalWriter
from finephrase_dagster.rephrase.outcome import (
    NONE,
    Completed,
    Rollout,
    add_rollout,
    read_journal,
    read_layout,
    total_discarded,
)
from finephrase_dagster.rephrase.survey import Survey


class Ledger(JournalWriter):
    """The rows of one dataset, in a folder that the caller has claimed."""

    def __init__(
        self,
        folder: Folder,
        prompt: str,
        *,
        chunk_rows: int,
        keep_raw: bool = False,
        has_rollouts: bool = False,
        layout: str = "",
    ) -> None:
        """Read what earlier runs finished.

        Args:
            folder: claimed by the caller.
            chunk_rows: input rows per output file.
            keep_raw, has_rollouts, layout: see `JournalWriter`.
        """
        super().__init__(folder, prompt, keep_raw=keep_raw, has_rollouts=has_rollouts, layout=layout)
        self._chunk_rows = chunk_rows
        self._open: dict[int, Chunk] = {}
        self._published = PublishedChunks(folder)
        self._left_over = self._unpublished_journals()
        with self._writing():
            self._published.adopt(self._left_over)
        self._published.check_files()
        self._next = _next_numbers([*self._left_over, *self._published.parts])
        self._example_place: tuple[int, int] | None = None
        self._done = DoneRows()
        self._drawn: dict[str, dict[int, Rollout]] = {}
        self._read_done()
        self.done_before = self._done.count

    def is_done(self, shard: int, row: int, name: str) -> bool:
        """Return whether an earlier run finished a row, given its place in the input and its id."""
        return bool(self._done.count) and self._done.has(shard, row, name)

    def next_needed(self, shard: int, row: int) -> int:
        """Return the first row of an input file, from a given one on, that may not be done, or is the example."""
        needed = self._done.next_missing(shard, row)
        if self._example_place and self._example_place[0] == shard and row <= self._example_place[1]:
            return min(needed, self._example_place[1])
        return needed

    def missing(self, rows: Sequence[int]) -> list[tuple[int, int, int]] | None:
        """Return what is not done: input file, first row, and the row after the last one.

        Args:
            rows: the number of rows of each input file.

        Returns:
            None if rows that are done are known by their ids only.
        """
        return None if self._done.knows_ids else self._done.complement(rows)

    def chunk_names(self) -> Collection[str]:
        """Return the names of the published chunks."""
        return self._published.parts

    def drawn(self, name: str) -> Mapping[int, Rollout]:
        """Return the rollouts that earlier runs drew for a row that is not done, by number."""
        return self._drawn.get(name, {})

    def assign(self, shard: int) -> Chunk:
        """Return the chunk for the next row of an input file."""
        chunk = self._open.get(shard)
        if chunk is None:
            name = f"part-{shard:05d}-{self._next[shard]:05d}"
            self._next[shard] += 1
            with self._writing():
                chunk = self._open[shard] = Chunk(name, self.folder.journal(name))
            self._chunks.append(chunk)
        chunk.assigned += 1
        if chunk.assigned == self._chunk_rows:
            self.close(shard)
        return chunk

    def close(self, shard: int) -> None:
        """Close a shard's current chunk: no more rows are assigned to it."""
        chunk = self._open.pop(shard, None)
        if chunk is not None:
            chunk.closed = True

    def publish_full(self) -> None:
        """Publish the chunks whose rows are all done."""
        with self._publishing, self._writing():
            for chunk in [chunk for chunk in self._chunks if chunk.is_full]:
                self._publish(chunk.name, [chunk.journal])
                self._chunks.remove(chunk)

    def publish_left_over(self) -> None:
        """Publish the journals that an interrupted run left, full or not."""
        with self._publishing, self._writing():
            while self._left_over:
                name, journals = next(iter(self._left_over.items()))
                self._publish(name, [self.folder.journal(journal) for journal in journals])
                del self._left_over[name]

    def count_rows(self, rows_in: int) -> RowCounts:
        """Count the rows of all published chunks.

        Raises:
            LedgerError: completed, skipped and failed rows do not add up to the input rows, or a file is missing.
        """
        counts = RowCounts(rows_in=rows_in)
        self._published.check_files()
        for part in self._published.parts.values():
            if part["rows"]:
                counts.files.append({key: part[key] for key in ("path", "rows", "sha256")})
            counts.completed += part["rows"]
            counts.prompt_tokens += part["prompt_tokens"]
            counts.completion_tokens += part["completion_tokens"]
            counts.documents_cut += part["documents_cut"]
            counts.cleaned.update(part["cleaned"])
            counts.discarded = total_discarded([counts.discarded, part["discarded"]])
            for name, reused in part.get("reused", {}).items():
                counts.reused[name] = total_discarded([counts.reused.get(name, NONE), reused])
            for status, reason, count in part["rejected"]:
                counts.rejected[status, reason] += count
        counts.files.sort(key=lambda file: file["path"])
        if rows_in != counts.completed + counts.skipped + counts.failed:
            raise LedgerError(
                f"{self.folder}: the input has {rows_in} rows, but {counts.completed} are completed, {counts.skipped} "
                f"skipped and {counts.failed} failed. Delete this folder and run the command again."
            )
        return counts

    def complete(self, dataset: Dataset, counts: RowCounts, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write `rejected.parquet` and then the manifest: from here on the dataset is complete."""
        published = self._published
        verified = {part["path"]: [*part["stamp"], part["sha256"]] for part in published.parts.values() if part["rows"]}
        with self._writing():
            published.keep()
            manifest = write_manifest(dataset, counts, map(published.rejected, sorted(published.parts)), facts)
            stamp = self.folder.stamps([REJECTED])[REJECTED]
            remember_verified(self.folder, {**verified, REJECTED: [*stamp, manifest["meta_files"][0]["sha256"]]})
            published.remove()  # needed only until there is a manifest
        return manifest

    def forget_rejected(self) -> None:
        """Delete the records of a dataset without completions, so that the next run sends its rows again."""
        with self._writing():
            self._published.remove()

    def _publish(self, name: str, journals: Sequence[Journal]) -> None:
        if name not in self._published.parts:  # else an earlier attempt ended before it had removed the journals
            finished = self._finished([journal.read() for journal in journals])
            for journal in journals:  # so that they have all rows of a data file whose summary is not written
                journal.sync()
            self._published.publish(name, finished)
            self.published += 1
        for journal in journals:
            journal.remove()

    def _unpublished_journals(self) -> dict[str, list[str]]:
        """Return the journals of each chunk without a summary, and delete the others.

        A writer that was killed while it removed a journal leaves both. The summary counts: in an object store, parts
        of the journal may be gone.
        """
        unpublished: dict[str, list[str]] = {}
        with self._writing():
            for name in self.folder.journals():
                if (chunk := chunk_of(name)) in self._published.parts:
                    self.folder.journal(name).remove()
                else:
                    unpublished.setdefault(chunk, []).append(name)
        return unpublished

    def _read_done(self) -> None:
        """Read which rows are in files and journals."""
        for name, part in self._published.parts.items():
            shard, _ = place_of(name)
            self.tokens_before += part["completion_tokens"]
            for line in part["rollouts"]:
                add_rollout(self._drawn, line)
            if self._layout and part["layout"] == self._layout:
                self._done.add(shard, [*part["completed"], *part["others"]])
                if part["rows"] and self._example_place is None:
                    self._example_place, self.example = (shard, part["example"][0]), part["example"][1]
            else:
                names = list(self._published.ids(name))
                if part["rows"] and self.example is None:
                    self.example = names[0]
                self._done.add_ids(names)
        for name, journals in self._left_over.items():
            contents = []
            for journal in map(self.folder.journal, journals):
                contents.append(journal.read())
                journal.close()
            self._read_left_over(name, contents)

    def _read_left_over(self, name: str, contents: Sequence[bytes]) -> None:
        """Read which rows are in the journals of a chunk."""
        rows = {place: row for content in reversed(contents) for place, row in read_journal(content)}
        for content in contents:
            for line in self._unfinished_rollouts(content, rows):
                add_rollout(self._drawn, line)
        if self._layout and all(read_layout(content) == self._layout for content in contents if content):
            self._done.add(place_of(name)[0], stretches_of(rows))
        else:
            self._done.add_ids(row.id for row in rows.values())
        completed = [(place, row) for place, row in rows.items() if isinstance(row, Completed)]
        self.tokens_before += sum(row.completion_tokens for _, row in completed)
        if self.example is None and completed:
            self._example_place, self.example = (place_of(name)[0], completed[0][0]), completed[0][1].id


def begin_ledger(
    dataset: Dataset, survey: Survey, *, prompt: str, chunk_rows: int, log: Callable[[str], None] = lambda line: None
) -> Ledger:
    """Return the ledger of a dataset whose folder the caller has claimed, and keep recipe and survey in the folder."""
    dataset.begin(log)
    forget_leases(dataset.folder)
    survey.save(dataset.folder)
    return Ledger(
        dataset.folder,
        prompt,
        chunk_rows=chunk_rows,
        keep_raw=dataset.keeps_raw,
        has_rollouts=dataset.has_rollouts,
        layout=survey.layout,
    )


def _next_numbers(chunks: Iterable[str]) -> Counter[int]:
    """Return, by input file, the number of its next chunk."""
    numbers: Counter[int] = Counter()
    for name in chunks:
        shard, number = place_of(name)
        numbers[shard] = max(numbers[shard], number + 1)
    return numbers
