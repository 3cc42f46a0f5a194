"""Memory of rephrasing: resident MB of `finephrase rephrase` over a million short documents.

Documents of about 200 bytes, answers of 10 words, 500 requests in flight. `resident_mb` is the maximum during each
quarter of the documents; it should stay constant. The peak is that of the complete run, as the kernel records it
(VmHWM). Child processes of the command are included.

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
FLAT_MB = 50  # allowed growth from the first quarter to the last


def main() -> None:
    """Print the figures as one JSON object on the last line."""
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
    """Run the command; return its peak and the maximum of each quarter, in MB, and its seconds.

    Raises:
        RuntimeError: it failed, or a quarter was too short to be measured.
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
        raise RuntimeError(f"nothing was measured in {', '.join(missed)}; raise --documents")
    return peak, curve, seconds


def memory(pid: int, field: str) -> int:
    """Return the megabytes (10^6 bytes) of a process and its descendants that still run."""
    return sum(_kilobytes(one, field) for one in family(pid)) * 1024 // 1_000_000


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    pids = [pid]
    for parent in pids:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids += map(int, children.read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
    return pids


def _kilobytes(pid: int, field: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    match = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    main()
