"""Time and memory of the audit: `finephrase audit` with all gates that need no model, over completions with sources.

Completions are questions and answers of about 1,500 characters, made of prose sentences of Python's documentation, one
in ten of them of the source, which is as long. Sources are joined by id: `--order same` (as the completions) or
`shuffled`. Memory is the most that the command and its processes had resident together; shared pages count for each.
`--shorter` is a second dataset of rows of 300 characters, of which only the memory matters. Times are processor time,
which other programs on the machine change less than the time that passes.

`--memory` lists numbers of rows of 100 characters without sources, of which one in 1,000 repeats another one. They
show that memory does not grow with the rows.

The peer is the plain way to judge a row: each gate alone, from the row's text, without words that gates share and
without tests of many rows at once. It judges the first rows of the same dataset in this process.

    python benchmarks/audit.py [--rows 1000000] [--shorter 10000000] [--order same] [--processes 2]
    python benchmarks/audit.py --rows 0 --memory 1000000 10000000
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from memory import memory

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.audit.audit import read_part, resolve_settings
from finephrase_dagster.audit.dataset import open_dataset
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.audit.source_texts import join_sources

PART_ROWS = 50_000
PROSE = re.compile(r"[A-Z][\w\s,;:'\u2019()\"-]{20,300}[.!?]")
CHARACTERS, SHORTER_CHARACTERS = 1_500, 300
TARGET_SECONDS, TARGET_MB = 240, 3_000
EVERY_SECONDS = 0.2
SHORT_WORDS = 15  # of 6 characters


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shorter", type=int, default=0)
    parser.add_argument("--order", choices=("same", "shuffled"), default="same")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--memory", type=int, nargs="*", default=[])
    arguments = parser.parse_args()
    full = measure(arguments.rows, CHARACTERS, arguments) if arguments.rows else None
    shorter = measure(arguments.shorter, SHORTER_CHARACTERS, arguments) if arguments.shorter else None
    figures = {
        "full": full,
        "shorter": shorter,
        "memory": [measure_memory(rows, arguments.processes) for rows in arguments.memory],
        "target_seconds": TARGET_SECONDS * arguments.rows / 1_000_000,
        "target_mb": TARGET_MB,
        "order": arguments.order,
        "processes": arguments.processes,
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


def measure(rows: int, characters: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Audit a dataset of so many rows with the command."""
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        folder, source = Path(name) / "faq", Path(name) / "source.parquet"
        write_dataset(folder, source, rows, characters, shuffled=arguments.order == "shuffled")
        options = ["--check", "faq", "--source", str(source), "--processes", str(arguments.processes)]
        before = _children_seconds()
        report, seconds, peak = audit(folder, options)
        spent = _children_seconds() - before
        alone = one_gate_at_a_time(folder, source)
    if report["rows"] != rows or report["without_source"]:
        raise RuntimeError(
            f"the audit of {rows} rows reports {report['rows']}, {report['without_source']} without source"
        )
    per_row = {gate["name"]: gate["seconds"] for gate in report["gates"]} | {"reading": report["reading_seconds"]}
    shared = 1e6 * (sum(per_row[name] for name in alone) + per_row["reading"]) / rows
    return {
        "rows": rows,
        "characters": characters,
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds),
        "processor_seconds": round(spent, 1),
        "rows_per_processor_second": round(rows / spent),
        "peak_mb": peak,
        "microseconds_per_row": {gate: round(1e6 * spent / rows, 1) for gate, spent in per_row.items()},
        "processor_microseconds_per_row": round(1e6 * sum(per_row.values()) / rows),
        "one_gate_at_a_time": alone,
        "times_faster": round(sum(alone.values()) / shared, 2),
        "failed": [gate["name"] for gate in report["gates"] if not gate["passed"]],
    }


def measure_memory(rows: int, processes: int) -> dict[str, int]:
    """Audit so many short rows without sources; return the most resident memory in MB."""
    draw, words = np.random.default_rng(rows), np.array([name(number) for number in range(256, 4096)])
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as folder:
        for start in range(0, rows, PART_ROWS):
            numbers = np.arange(start, min(start + PART_ROWS, rows))
            columns = [words[draw.integers(0, len(words), len(numbers))] for _ in range(SHORT_WORDS)]
            texts = pa.compute.binary_join_element_wise(*columns, " ")
            places = np.where(numbers % 1000 == 1, numbers - start - 1, numbers - start)
            table = pa.table({"id": pa.array(numbers).cast(pa.string()), "text": texts.take(pa.array(places))})
            pq.write_table(table, Path(folder) / f"{start:012d}.parquet", compression="zstd")
        report, seconds, peak = audit(Path(folder), ["--processes", str(processes)])
    return {"rows": report["rows"], "seconds": round(seconds), "peak_mb": peak}


def audit(folder: Path, options: list[str]) -> tuple[dict[str, Any], float, int]:
    """Run `finephrase audit`; return its report, the seconds, and the most resident memory in MB."""
    command = [sys.executable, "-m", "finephrase_dagster.commands.main", "audit", str(folder), "--json", *options]
    started, peak = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        while process.poll() is None:
            peak = max(peak, memory(process.pid, "VmRSS"))
            time.sleep(EVERY_SECONDS)
        output.seek(0)
        return json.load(output), time.monotonic() - started, peak


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def one_gate_at_a_time(folder: Path, source: Path) -> dict[str, float]:
    """Return the microseconds in which each gate that judges rows alone judges one, from its text alone."""
    with tempfile.TemporaryDirectory() as name:
        dataset, settings = open_dataset([folder], check="faq"), resolve_settings({}, "faq")
        dataset.offers |= {"source_text"}
        sources = join_sources([source], [dataset.files], Path(name))[0]
        rows = next(read_part(dataset, dataset.files, sources))
    spent = {}
    for gate in (gate for gate in gates().values() if gate.by_row and set(gate.needs) <= dataset.offers):
        measure, fresh = gate.measure(dataset, settings[gate.name]), [replace(row) for row in rows]
        measure.flaw(fresh.pop())  # reads prompts and benchmarks
        started = time.process_time()
        for row in fresh:
            measure.flaw(row)
        spent[gate.name] = round(1e6 * (time.process_time() - started) / len(fresh), 1)
    return spent


def write_dataset(folder: Path, source: Path, rows: int, characters: int, *, shuffled: bool) -> None:
    """Write a finished dataset and its sources."""
    draw = random.Random(rows)
    text = " ".join(" ".join(topics.values()).split())
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", text) if PROSE.fullmatch(part)]
    count = round(characters * len(sentences) / sum(map(len, sentences)))
    (folder / "__meta__").mkdir(parents=True)
    files = []
    with pq.ParquetWriter(source, pa.schema([("id", pa.string()), ("text", pa.string())])) as writer:
        for start in range(0, rows, PART_ROWS):
            numbers = range(start, min(start + PART_ROWS, rows))
            ids = [f"d{number}" for number in numbers]
            sources = [draw.choices(sentences, k=count) for _ in numbers]
            path = folder / f"part-00000-{start // PART_ROWS:05d}.parquet"
            outputs = [faq(draw, sentences, of, number) for of, number in zip(sources, numbers, strict=True)]
            columns = {"id": ids, "text": outputs, "finish_reason": ["stop"] * len(ids)}
            pq.write_table(pa.table(columns), path, compression="zstd", row_group_size=10_000)
            files.append({"path": path.name, "rows": len(ids), "sha256": sha256_file(path)})
            table = pa.table({"id": ids, "text": [" ".join(of) for of in sources]})
            writer.write_table(table.take(draw.sample(range(len(ids)), len(ids))) if shuffled else table)
    rejected = pa.schema([(column, pa.string()) for column in ("id", "status", "reason")])
    pq.write_table(rejected.empty_table(), folder / "__meta__" / "rejected.parquet")
    manifest = {"rows_in": rows, "completed": rows, "skipped": 0, "failed": 0, "files": files}
    (folder / "__meta__" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def faq(draw: random.Random, sentences: list[str], source: list[str], number: int) -> str:
    """Return questions and answers of as many sentences as the source has, of which one in ten is the source's."""
    chosen = [draw.choice(source if draw.random() < 0.1 else sentences) for _ in source]
    pairs = [chosen[start : start + 4] for start in range(0, len(chosen), 4)]
    return "\n\n".join(
        f"Q: What does {' '.join(pair[0].split()[:6])} mean for {name(number + index)}?\nA: {' '.join(pair)}"
        for index, pair in enumerate(pairs)
    )


def name(number: int) -> str:
    """Return a made-up name for a number."""
    return "".join("bcdfghklmnprstvz"[int(digit, 16)] + "aeio"[int(digit, 16) % 4] for digit in f"{number:x}")


if __name__ == "__main__":
    main()
