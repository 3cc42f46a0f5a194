"""Cost of metrics: CPU seconds of `finephrase rephrase` with a metrics page that is read every second, and without.

Runs with and without the page alternate. CPU time is compared, because other work on the machine changes it less than
wall time, which is reported, too. The minimum of the rounds counts, because other work only adds to it.

    python benchmarks/metrics.py [--documents 40000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

from instant_server import InstantServer
from load import Ours, running, write_documents

SIZE, WORDS, CONCURRENCY = 4300, 360, 500
TARGET = 0.01


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    without, served, pages = [], [], 0
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name, InstantServer(words=WORDS) as server:
        root = Path(name)
        write_documents(root / "in.jsonl", arguments.documents, SIZE)
        driver = Ours(input=root / "in.jsonl", output=root / "out", url=server.url, concurrency=CONCURRENCY)
        for number in range(arguments.rounds):
            without.append(measure(driver, driver.command(), arguments.documents))
            with Scraper(port) as scraper:
                command = [*driver.command(), "--metrics-port", str(port)]
                served.append(measure(driver, command, arguments.documents))
            pages += scraper.pages
            print(f"round {number + 1}: {without[-1]} s without, {served[-1]} s with", file=sys.stderr)
    if not pages:
        raise RuntimeError("the metrics page was never read")
    cpu, wall = ([min(run[kind] for run in runs) for runs in (without, served)] for kind in (0, 1))
    figures = {
        "cpu_seconds_without": round(cpu[0], 3),
        "cpu_seconds_with": round(cpu[1], 3),
        "cpu_overhead": round(cpu[1] / cpu[0] - 1, 4),
        "target_overhead": TARGET,
        "wall_seconds_without": round(wall[0], 3),
        "wall_seconds_with": round(wall[1], 3),
        "pages_read": pages,
        **vars(arguments),
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


def measure(driver: Ours, command: list[str], documents: int) -> tuple[float, float]:
    """Return the CPU and wall seconds of one run."""
    shutil.rmtree(driver.output, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with running(command, driver.output.with_suffix(".log")) as run:
        seconds = run.finish()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    driver.check(documents)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 3), round(seconds, 3)


class Scraper:
    """Reads the metrics page every second, in a thread."""

    def __init__(self, port: int) -> None:
        self.pages = 0
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ended.wait(1):
            try:
                with urllib.request.urlopen(self._url, timeout=5) as page:
                    self.pages += b"finephrase_requests_sent_total" in page.read()
            except OSError:
                continue


if __name__ == "__main__":
    main()
