"""Shared by the benchmarks of rephrasing: the documents, the command and its peer, and how they are run.

Ours is the complete command `finephrase rephrase`; the peer is DataTrove's InferenceRunner with checkpoints
(`datatrove_peer.py`). Both read the same file and send the same prompt to the same server.
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
STRIDE = 977  # characters between the beginnings of two documents; prime, so that documents rarely repeat


def write_documents(path: Path, count: int, size: int) -> None:
    """Write JSONL rows of `size` characters of real text with a marker each; always the same rows."""
    text = " ".join(topics.values())
    with path.open("w", encoding="utf-8", buffering=1 << 20) as file:
        for number in range(count):
            marker = f"Document {number:07d}. "
            start = number * STRIDE % (len(text) - size)
            row = {"id": f"d{number:07d}", "text": marker + text[start : start + size - len(marker)]}
            file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())  # otherwise it would be written to disk during a measurement


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A program that rephrases a file: its input, its output and its server."""

    input: Path
    output: Path
    url: str
    concurrency: int

    def command(self) -> list[str]:
        """Return the complete command."""
        raise NotImplementedError

    def import_command(self) -> list[str]:
        """Return a command that only imports what the complete command imports."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """Return the Parquet files that it wrote."""
        raise NotImplementedError

    def rows(self) -> Rows:
        """Return what its files contain."""
        ids: set[str] = set()
        rows, unreadable = 0, []
        for path in self.files():
            try:
                ids_read = pq.read_table(path, columns=["id"])["id"].to_pylist()
            except (pa.ArrowException, OSError):
                unreadable.append(path.name)
                continue
            rows += len(ids_read)
            ids.update(ids_read)
        return Rows(rows, len(ids), unreadable)

    def check(self, documents: int) -> None:
        """Check that every document is in the files exactly once.

        Raises:
            RuntimeError: one is not.
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
    """The content of a program's files: rows, distinct documents, and the names of unreadable files."""

    rows: int
    distinct: int
    unreadable: list[str]


@dataclass
class Run:
    """A command that is running or has ended.

    Attributes:
        started: just before the process was made, in seconds of `time.monotonic()`.
        process: the process.
        log: the file with its output.
    """

    started: float
    process: subprocess.Popen[bytes]
    log: Path

    def finish(self) -> float:
        """Wait for its end; return the seconds from start to end.

        Raises:
            RuntimeError: it failed; the message ends with its last output.
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
    """Start a command, and end it and its children with the block."""
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
    """Return the shortest time of several processes that only import; the first one fills the caches."""
    seconds = []
    for _ in range(times):
        started = time.monotonic()
        subprocess.run(command, env=environment(), check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.monotonic() - started)
    return min(seconds)


def environment() -> dict[str, str]:
    """Return the environment of the runs: offline."""
    return {**os.environ, "HF_HUB_OFFLINE": "1"}
