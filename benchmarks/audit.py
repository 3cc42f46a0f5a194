"""Memory and speed of the audit: all gates over a synthetic dataset of ten million rows.

The rows are questions and answers of about 120 characters, in files of 50,000 rows; ids, texts and their beginnings all
differ. Memory is the most that the process had resident (VmHWM), and also that of an audit of 100,000 rows.

    python benchmarks/audit.py [--rows 10000000]
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
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.fingerprint import sha256_file

PART_ROWS, SMALL = 50_000, 100_000
TARGET_MB = 1_000
PROGRAM = """
import json, sys
from pathlib import Path
from finephrase_dagster.audit.audit import audit_dataset
report = audit_dataset(sys.argv[1], check="faq")
status = Path("/proc/self/status").read_text()
peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
print(json.dumps({"passed": report.passed, "rows": report.rows, "peak_mb": peak * 1024 // 1_000_000}))
"""


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    arguments = parser.parse_args()
    small, large = measure(SMALL), measure(arguments.rows)
    print(
        json.dumps(
            {
                "large": large,
                "small": small,
                "target_mb": TARGET_MB,
                "target_met": large["peak_mb"] <= TARGET_MB,
                "cores": os.cpu_count(),
            }
        )
    )


def measure(rows: int) -> dict[str, Any]:
    """Audit a dataset of so many rows in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        write_dataset(Path(name), rows)
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-c", PROGRAM, name], check=True, capture_output=True, text=True)
        seconds = time.monotonic() - started
    report = json.loads(done.stdout)
    if not report["passed"] or report["rows"] != rows:
        raise RuntimeError(f"the audit of {rows} rows reports {report}")
    return {**report, "seconds": round(seconds, 1), "rows_per_second": round(rows / seconds)}


def write_dataset(folder: Path, rows: int) -> None:
    """Write a finished dataset."""
    (folder / "__meta__").mkdir()
    files = []
    for start in range(0, rows, PART_ROWS):
        numbers = range(start, min(start + PART_ROWS, rows))
        path = folder / f"part-00000-{start // PART_ROWS:05d}.parquet"
        texts = [
            f"Q: {number:x} is what?\nA: It is the number {number}.\n\nQ: And after {number:x}?\nA: It is {number + 1}."
            for number in numbers
        ]
        columns = {"id": [f"d{number}" for number in numbers], "text": texts, "finish_reason": ["stop"] * len(numbers)}
        pq.write_table(pa.table(columns), path, compression="zstd")
        files.append({"path": path.name, "rows": len(numbers), "sha256": sha256_file(path)})
    rejected = pa.schema([(column, pa.string()) for column in ("id", "status", "reason")])
    pq.write_table(rejected.empty_table(), folder / "__meta__" / "rejected.parquet")
    manifest = {"rows_in": rows, "completed": rows, "skipped": 0, "failed": 0, "files": files}
    (folder / "__meta__" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


if __name__ == "__main__":
    main()
