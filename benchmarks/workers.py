"""Several workers on one machine: two against one, and a worker that is killed while another one joins.

The server stands in for engines: an answer takes 0.25 s, whatever the load, and each worker has 64 requests in flight,
so that one worker completes at most 256 documents/s. (An engine is what limits a worker; two workers that are limited
by two processor cores, which they share with the server, cannot be faster than one.) Documents/s count from the start
of the command `finephrase rephrase --workers N` to its end.

In the second part answers take between 0.025 and 0.5 s. Of two workers one is killed when half of the documents were
requested, and a third one joins. Every row must be in the dataset once. The simulation of workers is asked for the time
that this takes, given the rate of an engine, the time that a worker takes to start, and the moment of the death.

    python benchmarks/workers.py [--documents 20000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from instant_server import MODEL, InstantServer
from load import CONTEXT, MAX_TOKENS, PROMPT, SEED, Ours, running, write_documents

from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.artifacts.lease import Timing
from finephrase_dagster.production.simulation import Fleet, simulate
from finephrase_dagster.production.workers import COMMAND
from finephrase_dagster.rephrase.job import RephraseJob, build_job, execute

SIZE, WORDS, SECONDS, CONCURRENCY, CHUNK_ROWS = 4300, 360, 0.25, 64, 1000
RAGGED_MEAN = 1.05
TARGET_RATIO = 1.8


class Workers(Ours):
    """`finephrase rephrase --workers N`, with `CONCURRENCY` requests of each worker."""

    def command(self) -> list[str]:
        count = str(self.concurrency // CONCURRENCY)
        return [*super().command(), "--workers", count, "--chunk-rows", str(CHUNK_ROWS)]


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        root = Path(name)
        write_documents(root / "documents.jsonl", arguments.documents, SIZE)
        for number in range(arguments.rounds):
            for workers in rates:
                rates[workers].append(measure(root, f"{number}-{workers}", workers, arguments.documents))
                print(f"{workers} workers: {rates[workers][-1]:.0f} documents/s", file=sys.stderr)
        changed = kill_and_join(root, arguments.documents)
    one, two = median(rates[1]), median(rates[2])
    figures = {
        "one_worker_documents_per_second": round(one),
        "two_workers_documents_per_second": round(two),
        "ratio": round(two / one, 2),
        "target_ratio": TARGET_RATIO,
        "killed_and_joined": changed,
        **vars(arguments),
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


def measure(root: Path, name: str, workers: int, documents: int) -> float:
    """Return the documents/s of the complete command.

    Raises:
        RuntimeError: not every row is in the dataset once, or a request was repeated.
    """
    with InstantServer(words=WORDS, track=True, seconds=SECONDS) as server:
        driver = Workers(
            input=root / "documents.jsonl",
            output=root / name,
            url=server.url,
            concurrency=workers * CONCURRENCY,
        )
        with running(driver.command(), driver.output.with_suffix(".log")) as run:
            seconds = run.finish()
        driver.check(documents)
        counts = server.counts()
        if (counts.requests, counts.repeated) != (documents, 0):
            raise RuntimeError(f"{counts} for {documents} documents")
    return documents / seconds


def kill_and_join(root: Path, documents: int) -> dict[str, float]:
    """Kill one of two workers at half time and let a third one join; return what was repeated, and how long it took."""
    with InstantServer(words=WORDS, track=True, seconds=SECONDS, ragged=True) as server:
        job = build_job(
            [str(root / "documents.jsonl")],
            prompts=[PROMPT],
            output=str(root / "changed"),
            endpoints=[server.url],
            model=MODEL,
            context=CONTEXT,
            max_tokens=MAX_TOKENS,
            seed=SEED,
            concurrency=CONCURRENCY,
            chunk_rows=CHUNK_ROWS,
        )
        began = time.monotonic()
        workers = [start(job), start(job)]
        while server.counts().requests < documents / 2:
            time.sleep(0.1)
        death = time.monotonic() - began
        workers[0].kill()
        workers.append(start(job))
        for worker in workers:
            worker.wait()
        seconds, first = time.monotonic() - began, server.counts().first
        assert first is not None
        manifest = execute(job)[PROMPT]
        counts = server.counts()
    Workers(input=root, output=root / "changed", url="", concurrency=CONCURRENCY).check(documents)
    if counts.repeated > CONCURRENCY:
        raise RuntimeError(f"{counts.repeated} requests were repeated, but only {CONCURRENCY} were in flight")
    fleet = Fleet(
        workers=2,
        rate=CONCURRENCY / (RAGGED_MEAN * SECONDS),
        in_flight=CONCURRENCY,
        start_seconds=first - began,
        warned=1.0,  # the processes are on one machine, so their end is known at once
        away_seconds=0.0,
        deaths=(death,),
    )
    simulated = simulate(documents, CHUNK_ROWS, fleet, timing=Timing.of(LocalFolder(root))).seconds
    return {
        "seconds": round(seconds, 2),
        "simulated_seconds": round(simulated, 2),
        "simulated_to_real": round(simulated / seconds, 3),
        "repeated_requests": counts.repeated,
        "in_flight_of_the_killed_worker": CONCURRENCY,
        "workers_started": len(workers),
        "runs_in_the_manifest": manifest["run"]["workers"],
    }


def start(job: RephraseJob) -> subprocess.Popen[bytes]:
    """Start a worker."""
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(job.model_dump_json().encode() + b"\n")
    process.stdin.flush()
    return process


if __name__ == "__main__":
    main()
