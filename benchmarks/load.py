"""What the benchmarks of the rephrasing driver share: the documents, the two commands, and a run of one.

Ours is the whole command, `finephrase rephrase`; the peer is DataTrove's InferenceRunner with checkpoints
(`datatrove_peer.py`). Both read the same file and ask the same server for the same prompt.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
from instant_server import MODEL

HERE = Path(__file__).parent
SCRIPT = HERE / "datatrove_peer.py"
PROMPT = "faq"
CONTEXT, MAX_TOKENS, SEED = 8192, 2048, 0
STRIDE = 977  # characters from one document's beginning to the next one's; prime, so that slices seldom come again


def write_documents(path: Path, count: int, size: int) -> None:
    """Writes JSONL rows of `size` characters of real text, each with its own marker; always the same."""
    text = " ".join(topics.values())
    with path.open("w", encoding="utf-8", buffering=1 << 20) as file:
        for number in range(count):
            marker = f"Document {number:07d}. "
            start = number * STRIDE % (len(text) - size)
            row = {"id": f"d{number:07d}", "text": marker + text[start : start + size - len(marker)]}
            file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())  # else it is written out while something is measured


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A way to rephrase a file: what it reads, where it writes, whom it asks."""

    input: Path
    output: Path
    url: str
    concurrency: int

    def command(self) -> list[str]:
        """The whole command."""
        raise NotImplementedError

    def import_command(self) -> list[str]:
        """A command that imports what the whole one does, and ends."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """The Parquet files that it leaves."""
        raise NotImplementedError

    def rows(self) -> Rows:
        """What stands in its files."""
        ids: set[str] = set()
        rows, unreadable = 0, []
        for path in self.files():
            try:
                found = pq.read_table(path, columns=["id"])["id"].to_pylist()
            except (pa.ArrowException, OSError):
                unreadable.append(path.name)
                continue
            rows += len(found)
            ids.update(found)
        return Rows(rows, len(ids), unreadable)

    def check(self, documents: int) -> None:
        """Sees that every document stands in a file, once.

        Raises:
            RuntimeError: one does not.
        """
        rows = self.rows()
        if rows != Rows(documents, documents, []):
            raise RuntimeError(f"{documents} documents, but {rows} in {self.output}")

    def _options(self) -> list[str]:
        options = {
            "input": self.input,
            "output": self.output,
            "endpoint": self.url,
            "model": MODEL,
            "max-tokens": MAX_TOKENS,
            "seed": SEED,
            "concurrency": self.concurrency,
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]


class Ours(Driver):
    """`finephrase rephrase`."""

    def command(self) -> list[str]:
        module = [sys.executable, "-m", "finephrase_dagster.commands.main", "rephrase"]
        return [*module, "--prompt", PROMPT, "--context", str(CONTEXT), *self._options()]

    def import_command(self) -> list[str]:
        return [sys.executable, "-c", "import finephrase_dagster.commands.main, finephrase_dagster.rephrase.job"]

    def files(self) -> list[Path]:
        return sorted((self.output / PROMPT).glob("part-*.parquet"))

    def check(self, documents: int) -> None:
        super().check(documents)
        manifest = json.loads((self.output / PROMPT / "__meta__" / "manifest.json").read_text(encoding="utf-8"))
        if not manifest["rows_in"] == manifest["completed"] == documents:
            raise RuntimeError(
                f"{documents} documents, but rows_in {manifest['rows_in']} and completed {manifest['completed']}"
            )


class Peer(Driver):
    """DataTrove's InferenceRunner with checkpoints."""

    def command(self) -> list[str]:
        prompt = HERE.parent / "prompts" / f"{PROMPT}.md"
        return [sys.executable, str(SCRIPT), "--prompt", str(prompt), "--context", str(CONTEXT), *self._options()]

    def import_command(self) -> list[str]:
        return [sys.executable, str(SCRIPT), "--help"]

    def files(self) -> list[Path]:
        return sorted((self.output / "data").glob("*.parquet"))


@dataclass(frozen=True)
class Rows:
    """What stands in a driver's files: rows, the documents they are of, and names of files that nobody can read."""

    rows: int
    distinct: int
    unreadable: list[str]


@dataclass
class Run:
    """A command that runs, or ran.

    Attributes:
        started: just before the process was made, in seconds of `time.monotonic()`.
        process: the process.
        log: what it says.
    """

    started: float
    process: subprocess.Popen[bytes]
    log: Path

    def finish(self) -> float:
        """Waits for its end; the seconds from start to end.

        Raises:
            RuntimeError: it failed; with its last words.
        """
        status = self.process.wait()
        seconds = time.monotonic() - self.started
        if status:
            raise RuntimeError(
                f"{self.process.args!r}: exit status {status}:\n{self.log.read_text(errors='replace')[-4000:]}"
            )
        return seconds


@contextlib.contextmanager
def running(command: list[str], log: Path) -> Iterator[Run]:
    """Starts a command; neither it nor what it started outlives the block."""
    with log.open("wb") as file:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
        )
        try:
            yield Run(started, process, log)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a killed peer leaves a process of multiprocessing's behind
            process.wait()


def import_seconds(command: list[str], times: int = 3) -> float:
    """The seconds of a process that only imports: the least of so many, the first of which fills caches."""
    seconds = []
    for _ in range(times):
        started = time.monotonic()
        subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - started)
    return min(seconds)


def environment() -> dict[str, str]:
    """The runs' environment: offline."""
    return {**os.environ, "HF_HUB_OFFLINE": "1"}
