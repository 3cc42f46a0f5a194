"""The driver's memory: resident MB of `finephrase rephrase` over a million short documents.

Documents of about 200 bytes, answers of 10 words, 500 requests at a time. The curve holds, for each quarter of
the documents, the most that was resident while they were asked for; it shall be flat. The peak is that of the
whole run, start and end included, as the kernel keeps it (VmHWM). Processes that the command starts count in.

    python benchmarks/memory.py [--documents 1000000]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path

from instant_server import InstantServer
from load import Ours, running, write_documents

SIZE, WORDS = 200, 10
QUARTERS = ("25%", "50%", "75%", "100%")
EVERY_SECONDS = 0.1
TARGET_MB = 600
FLAT_MB = 50  # more than this from the first quarter to the last is growth


def main() -> None:
    """Prints the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--concurrency", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name, InstantServer(words=WORDS) as server:
        root = Path(name)
        write_documents(root / "documents.jsonl", arguments.documents, SIZE)
        driver = Ours(
            input=root / "documents.jsonl", output=root / "ours", url=server.url, concurrency=arguments.concurrency
        )
        peak, curve, seconds = watch(driver, server, arguments.documents)
        driver.check(arguments.documents)
    growth = curve[QUARTERS[-1]] - curve[QUARTERS[0]]
    figures = {
        "peak_mb": peak,
        "target_mb": TARGET_MB,
        "resident_mb": curve,
        "growth_mb": growth,
        "flat": growth <= FLAT_MB,
        "documents_per_second": round(arguments.documents / seconds),
        "document_characters": SIZE,
        "answer_words": WORDS,
        **vars(arguments),
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


def watch(driver: Ours, server: InstantServer, documents: int) -> tuple[int, dict[str, int], float]:
    """Runs it: its peak, the most of each quarter, both in MB, and its seconds.

    Raises:
        RuntimeError: it failed, or a quarter was over before it could be looked at.
    """
    peak, curve = 0, dict.fromkeys(QUARTERS, 0)
    with running(driver.command(), driver.output.with_suffix(".log")) as run:
        while run.process.poll() is None:
            peak = max(peak, memory(run.process.pid, "VmHWM"))
            requests = server.counts().requests
            if 0 < requests < documents:
                quarter = QUARTERS[len(QUARTERS) * requests // documents]
                curve[quarter] = max(curve[quarter], memory(run.process.pid, "VmRSS"))
            time.sleep(EVERY_SECONDS)
        seconds = run.finish()
    if missed := [quarter for quarter, most in curve.items() if not most]:
        raise RuntimeError(f"nothing seen of {', '.join(missed)}; give more documents")
    return peak, curve, seconds


def memory(pid: int, field: str) -> int:
    """Megabytes (10^6 bytes) of a process and all that it started; those that have ended count nothing."""
    return sum(_kilobytes(one, field) for one in family(pid)) * 1024 // 1_000_000


def family(pid: int) -> list[int]:
    """A process and those that it and they started."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def _kilobytes(pid: int, field: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    main()
