"""Resuming a long input: seconds from the start of `finephrase rephrase` to its first request, whatever is done.

The input has 10 million short documents. The command is killed at its first request, which follows the survey of the
input; the dataset then gets data files with nothing, a fifth, or all but the last rows, as if earlier runs had written
them. In the last state it is also resumed with `--workers 2`. The server answers at once. The last figure is the time
that a finished dataset takes to answer. Memory is the most that the command, or one of its workers, had resident.

    python benchmarks/growth.py [--rows 10000000]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from instant_server import InstantServer
from load import PROMPT, Ours, running
from memory import memory
from workers import Workers

from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.rephrase.chunks import PublishedChunks
from finephrase_dagster.rephrase.journals import Finished
from finephrase_dagster.rephrase.outcome import count_reused, total_discarded
from finephrase_dagster.rephrase.survey import saved_survey

CHUNK_ROWS = 5_000
LEFT = 20_000  # rows that are not done when all but the last are
TARGET_SECONDS, TARGET_SECONDS_FINISHED, SMALL = 2.0, 1.0, 100_000
FLAT_MB = 50


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    small, large = measure(SMALL), measure(arguments.rows)
    growth = max(large["peak_mb"].values()) - max(small["peak_mb"].values())
    seconds = large["seconds_to_first_request"]
    met = {
        "seconds_to_first_request": all(seconds[name] <= TARGET_SECONDS for name in seconds if name != "first_run"),
        "seconds_finished": large["seconds_finished"] <= TARGET_SECONDS_FINISHED,
        "flat": growth <= FLAT_MB,
    }
    figures = {"large": large, "small": small, "growth_mb": growth, "targets_met": met, "cores": os.cpu_count()}
    print(json.dumps(figures))


def measure(rows: int) -> dict[str, Any]:
    """Return the seconds to the first request and the peak memory of each state of a dataset."""
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name, InstantServer(words=10) as server:
        root = Path(name)
        write_rows(root / "in.jsonl", rows)
        driver = Ours(input=root / "in.jsonl", output=root / "out", url=server.url, concurrency=64)
        folder = root / "out" / PROMPT
        seconds, peak = {"first_run": first_request(driver, server)[0]}, {}
        begun = 0
        for state, done in (("nothing", 0), ("a_fifth", rows // 5), ("almost_all", rows - LEFT)):
            shutil.rmtree(folder / "__meta__" / "journals")
            publish(folder, driver.input, begun, done)
            begun = done // CHUNK_ROWS * CHUNK_ROWS
            seconds[state], peak[state] = first_request(driver, server)
        shutil.rmtree(folder / "__meta__" / "journals")
        workers = Workers(input=driver.input, output=driver.output, url=server.url, concurrency=2 * driver.concurrency)
        seconds["almost_all_with_workers"], peak["almost_all_with_workers"] = first_request(workers, server)
        with running(driver.command(), root / "log") as run:
            run.finish()
        manifest = json.loads((folder / "__meta__" / "manifest.json").read_text(encoding="utf-8"))
        if manifest["rows_in"] != rows or manifest["completed"] != rows:
            raise RuntimeError(f"{manifest['completed']} of {rows} rows are completed")
        times = []
        for _ in range(3):
            with running(driver.command(), root / "log") as run:
                times.append(run.finish())
    return {
        "rows": rows,
        "seconds_to_first_request": seconds,
        "peak_mb": peak,
        "seconds_finished": round(min(times), 3),
    }


def first_request(driver: Ours, server: InstantServer) -> tuple[float, int]:
    """Run the command until its first request, and return its seconds and its peak memory in MB."""
    time.sleep(0.5)  # what a killed run sent has been received
    server.reset()
    with running(driver.command(), driver.output.with_suffix(".log")) as run:
        while (first := server.counts().first) is None:
            if run.process.poll() is not None:
                run.finish()
                raise RuntimeError("the run ended before its first request")
            time.sleep(0.01)
        processes = [run.process.pid, *(child.pid for child in psutil.Process(run.process.pid).children())]
        peak = max(memory(process, "VmHWM") for process in processes)
    return round(first - run.started, 3), peak


def write_rows(path: Path, rows: int) -> None:
    """Write short documents as JSONL."""
    with path.open("w", encoding="utf-8", buffering=1 << 20) as file:
        for number in range(rows):
            file.write(f'{{"id": "d{number}", "text": "Document {number}."}}\n')


def publish(folder: Path, source: Path, begin: int, end: int) -> None:
    """Write data files with the rows from `begin` to `end`, as a run does."""
    target = LocalFolder(folder)
    survey = saved_survey(target, [str(source)], None)
    if survey is None:
        raise RuntimeError(f"{folder} keeps no survey of {source}")
    chunks = PublishedChunks(target)
    for start in range(begin, end - CHUNK_ROWS + 1, CHUNK_ROWS):
        rows = range(start, start + CHUNK_ROWS)
        constants = {"prompt": PROMPT, "text": "Words.", "finish_reason": "stop", "cleaned": "", "document_sha256": "0"}
        table = pa.table(
            {
                "id": [f"d{row}" for row in rows],
                **{name: pa.array([value] * CHUNK_ROWS) for name, value in constants.items()},
                "prompt_tokens": pa.array([9] * CHUNK_ROWS, pa.int64()),
                "completion_tokens": pa.array([3] * CHUNK_ROWS, pa.int64()),
                "document_cut": pa.array([False] * CHUNK_ROWS),
            }
        )
        part = {
            "rows": CHUNK_ROWS,
            "prompt_tokens": 9 * CHUNK_ROWS,
            "completion_tokens": 3 * CHUNK_ROWS,
            "documents_cut": 0,
            "cleaned": {},
            "layout": survey.layout,
            "completed": [[start, start + CHUNK_ROWS]],
            "others": [],
            "rejected": [],
            "rollouts": [],
            "example": [start, f"d{start}"],
            "discarded": total_discarded([]),
            "reused": count_reused([]),
        }
        chunks.publish(f"part-00000-{1_000 + start // CHUNK_ROWS:05d}", Finished(table, [], part))


if __name__ == "__main__":
    main()
