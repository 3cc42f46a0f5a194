"""Export of a release: rows per second and memory, next to a peer that only copies the rows.

    python benchmarks/release.py [--rows 1000000]

Writes datasets of 100,000 and of N rows of 1.5 KB, exports each in a process of its own, and reports seconds and the
largest memory of that process. The export writes the origin of each row, hashes its files, reads them again and
compares them with the datasets, row by row. The peers read and write Parquet and do none of that: DuckDB's
COPY, and `datasets`, which loads into its cache and writes again. The last line is JSON; `ratio` is the time of the
export over that of DuckDB's COPY.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.rephrase.journals import COMPLETED_SCHEMA

ROW_BYTES, CHUNK_ROWS, FEW = 1_500, 5_000, 100_000
BOUND_SECONDS = 60.0


def write_rows(folder: Path, rows: int) -> None:
    """Write a dataset of random English-like rows, in files as `finephrase rephrase` writes them."""
    folder.mkdir(parents=True)
    drawn = random.Random(0)
    words = ["".join(drawn.choices("etaoinshrdlu", k=drawn.randint(2, 9))) for _ in range(5_000)]
    texts = [" ".join(drawn.choices(words, k=ROW_BYTES // 6))[:ROW_BYTES] for _ in range(CHUNK_ROWS)]
    for number in range(rows // CHUNK_ROWS):
        place = number % ROW_BYTES
        columns = [
            [f"doc-{number * CHUNK_ROWS + row}" for row in range(CHUNK_ROWS)],
            ["faq"] * CHUNK_ROWS,
            [text[place:] + text[:place] for text in texts],
            ["stop"] * CHUNK_ROWS,
            [400] * CHUNK_ROWS,
            [350] * CHUNK_ROWS,
            [False] * CHUNK_ROWS,
            [f"{row:064x}" for row in range(CHUNK_ROWS)],
            [""] * CHUNK_ROWS,
        ]
        table = pa.table(columns, schema=COMPLETED_SCHEMA)
        pq.write_table(table, folder / f"part-00000-{number:05d}.parquet", compression="zstd")


def export(folder: Path, output: Path) -> None:
    """Export a dataset as the command and the asset do."""
    from finephrase_dagster.release.content import ORIGIN
    from finephrase_dagster.release.export import DataFile
    from finephrase_dagster.release.export import export as export_rows

    origin = {name: 0 if type_ == pa.int64() else "0" * 40 for name, (type_, _) in ORIGIN.items()}
    files = [DataFile(path=path, origin=origin, lineage=origin) for path in sorted(folder.glob("*.parquet"))]
    (output / "__meta__").mkdir(parents=True)
    export_rows(files, output, most_bytes=512_000_000, log=lambda line: None)


def copy_with_duckdb(folder: Path, output: Path) -> None:
    """Copy the rows with DuckDB."""
    import duckdb

    duckdb.execute("SET threads = 2")
    duckdb.execute("SET preserve_insertion_order = true")
    rows = duckdb.read_parquet(f"{folder}/*.parquet")
    rows.write_parquet(str(output), compression="zstd")


def copy_with_datasets(folder: Path, output: Path) -> None:
    """Copy the rows with `datasets`."""
    import datasets

    files, cache = f"{folder}/*.parquet", f"{output}-cache"
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
    loaded.to_parquet(f"{output}.parquet")


WAYS = {"export": export, "duckdb": copy_with_duckdb, "datasets": copy_with_datasets}


def measure(way: str, folder: Path, output: Path) -> dict[str, float]:
    """Return the seconds and the largest memory of a way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder), "--output", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    for path in output.parent.glob(f"{output.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    print(f"{way}: {folder.name} rows in {figures['seconds']:.1f} s, {figures['megabytes']:.0f} MB", flush=True)
    return figures


def main() -> None:
    """Measure all ways, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.way:
        began, used = time.perf_counter(), time.process_time()
        WAYS[options.way](options.folder, options.output)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
        print(json.dumps({**spent, "megabytes": memory}))
        return
    with tempfile.TemporaryDirectory(prefix="finephrase-release-") as root:
        few, many, output = Path(root, f"{FEW:,}"), Path(root, f"{options.rows:,}"), Path(root, "out")
        write_rows(few, FEW)
        write_rows(many, options.rows)
        small, large = measure("export", few, output), measure("export", many, output)
        peers = {way: measure(way, many, output) for way in ("duckdb", "datasets")}
    growth = large["megabytes"] / small["megabytes"]
    print(
        json.dumps(
            {
                "rows": options.rows,
                "seconds": round(large["seconds"], 1),
                "cpu_seconds": round(large["cpu_seconds"], 1),
                "bound_seconds": BOUND_SECONDS,
                "rows_per_second": round(options.rows / large["seconds"]),
                "megabytes": {f"{FEW}": round(small["megabytes"]), f"{options.rows}": round(large["megabytes"])},
                "memory_growth": round(growth, 2),
                **{f"{way}_seconds": round(figures["seconds"], 1) for way, figures in peers.items()},
                **{f"{way}_megabytes": round(figures["megabytes"]) for way, figures in peers.items()},
                "ratio": round(large["seconds"] / peers["duckdb"]["seconds"], 2),
                "passed": large["seconds"] <= BOUND_SECONDS and growth <= 1.25,
            }
        )
    )


if __name__ == "__main__":
    main()
