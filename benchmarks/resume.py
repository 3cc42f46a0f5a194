"""Resuming: how soon `finephrase rephrase` continues after SIGKILL, and what it repeats, next to DataTrove's runner.

The command is killed when the server has received 25,000 of 30,000 documents (4.3 KB each, 360 words per answer, 500
requests in flight); then the same command runs to its end. The server distinguishes documents and records when the
first request of the second run arrived. Requests that were answered but not yet in the journal when the command died
are repeated; there cannot be more of them than requests in flight. The time of the imports is measured separately.

    python benchmarks/resume.py [--documents 30000] [--kill-at 25000]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from instant_server import Counts, InstantServer
from load import Driver, Ours, Peer, import_seconds, running, write_documents

SIZE, WORDS = 4300, 360
TARGET_SECONDS, TARGET_SECONDS_AFTER_IMPORTS = 2.0, 1.0


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=30_000)
    parser.add_argument("--kill-at", type=int, default=25_000)
    parser.add_argument("--concurrency", type=int, default=500)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        source = Path(name) / "documents.jsonl"
        write_documents(source, arguments.documents, SIZE)
        for side, kind in (("ours", Ours), ("peer", Peer)):
            with InstantServer(words=WORDS, track=True) as server:
                driver = kind(input=source, output=Path(name) / side, url=server.url, concurrency=arguments.concurrency)
                figures[side] = kill_and_resume(driver, server, arguments.kill_at)
            if side == "ours":
                driver.check(arguments.documents)
    ours = figures["ours"]
    figures["targets_met"] = {
        "seconds_to_first_request": ours["seconds_to_first_request"] <= TARGET_SECONDS,
        "seconds_after_imports": ours["seconds_after_imports"] <= TARGET_SECONDS_AFTER_IMPORTS,
        "repeated_requests": ours["repeated_requests"] <= arguments.concurrency,
        "distinct_rows": ours["distinct_rows"] == ours["rows"] == arguments.documents,
    }
    print(json.dumps({**figures, **vars(arguments), "cores": os.cpu_count()}))


def kill_and_resume(driver: Driver, server: InstantServer, kill_at: int) -> dict[str, Any]:
    """Kill a run, run the command again, and return what the server received.

    Raises:
        RuntimeError: a run failed, or the first run had finished everything.
    """
    log = driver.output.with_suffix(".log")
    with running(driver.command(), log) as run:
        while server.counts().requests < kill_at:
            if run.process.poll() is not None:
                run.finish()
                raise RuntimeError(f"the run ended before {kill_at} requests; lower --kill-at")
            time.sleep(0.005)
        run.process.kill()
        run.process.wait()
    before = settled(server)
    server.reset()
    with running(driver.command(), log) as run:
        seconds = run.finish()
    after, rows = server.counts(), driver.rows()
    if after.first is None:
        raise RuntimeError("the first run had finished everything before it was killed; lower --kill-at")
    to_first, imports = after.first - run.started, import_seconds(driver.import_command())
    return {
        "seconds_to_first_request": round(to_first, 3),
        "seconds_of_imports": round(imports, 3),
        "seconds_after_imports": round(to_first - imports, 3),
        "seconds_of_second_run": round(seconds, 3),
        "requests_until_kill": before.requests,
        "requests_after": after.requests,
        "repeated_requests": after.repeated,
        "distinct_rows": rows.distinct,
        "rows": rows.rows,
        "unreadable_files": len(rows.unreadable),
    }


def settled(server: InstantServer) -> Counts:
    """Return the counts once everything that a killed run sent has been received."""
    counts = server.counts()
    while True:
        time.sleep(0.2)
        later = server.counts()
        if later == counts:
            return counts
        counts = later


if __name__ == "__main__":
    main()
