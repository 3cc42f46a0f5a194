"""The audit of one synthetic dataset: what was promised is there, and it is not degenerate.

Reads a dataset as it lies on disk (a manifest, `part-*.parquet`, `rejected.parquet`) and judges shares of its
rows against the study's gates. Nothing is repaired or filtered here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import MANIFEST
from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.audit.forms import form_flaw
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.prompt import Check
from finephrase_dagster.study.spec import Gates

REJECTED = "rejected.parquet"
EXAMPLES = 3
EXCERPT = 240  # characters of a completion shown as an example


class AuditError(FinephraseError, exit_status=2):
    """A folder is no complete synthetic dataset; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row that fails a gate: its id, why, and the beginning of its text."""

    id: str
    reason: str
    text: str


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate.

    Attributes:
        value: a share, 0 to 1; of `accounting` the number of discrepancies.
        threshold: what the value is held against, as `bound` says.
        detail: one sentence for people.
        examples: rows that fail, at most three, where the gate failed.
    """

    name: str
    value: float
    threshold: float
    bound: Literal["at least", "at most"]
    passed: bool
    detail: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The verdict on one dataset, JSON-able by `as_json`.

    Attributes:
        rows: completions in the data files.
        distinct_openings: how many different first characters its completions have.
    """

    check: Check
    rows: int
    distinct_openings: int
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)

    def as_json(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}


def audit_dataset(folder: Path, *, check: Check, gates: Gates) -> Audit:
    """Judges a complete synthetic dataset.

    Args:
        folder: the folder with the manifest.
        check: the form its completions must have; see `audit.forms`.
        gates: the thresholds.

    Raises:
        AuditError: there is no readable manifest.
    """
    manifest = _manifest(folder)
    rows, rejected, discrepancies = _read(folder, manifest)
    discrepancies += _miscounts(manifest, rows, rejected)
    openings = Counter(row["text"][: gates.opening_characters] for row in rows)
    rows_in = manifest["rows_in"]
    results = (
        _accounting(discrepancies),
        _result(
            "completed",
            manifest["completed"] / rows_in if rows_in else 0.0,
            gates.min_completed,
            "at least",
            f"{manifest['completed']:,} of {rows_in:,} documents completed",
            [Example(id=str(row["id"]), reason=f"{row['status']}: {row['reason']}", text="") for row in rejected],
        ),
        _share("empty", rows, gates.max_empty, lambda row: None if row["text"].strip() else "empty"),
        _share("truncated", rows, gates.max_truncated, _truncation),
        _form(rows, check, gates.min_form),
        _common_opening(rows, openings, gates),
    )
    return Audit(check=check, rows=len(rows), distinct_openings=len(openings), gates=results)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AuditError(f"{folder}: no {MANIFEST}, so the dataset is not complete; finish the rephrasing") from error
    except (OSError, ValueError) as error:
        raise AuditError(f"{path}: cannot be read ({error}); rephrase again into another folder") from error
    wanted = ("rows_in", "completed", "skipped", "failed", "files")
    missing = [key for key in wanted if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise AuditError(f"{path}: lacks {', '.join(missing)}, so it is not a synthetic dataset's manifest")
    return manifest


def _read(folder: Path, manifest: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Completions, rejected rows, and where the files differ from what the manifest says of them."""
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    flaws: list[str] = []
    listed = {file["path"]: file for file in manifest["files"]}
    flaws += [
        f"{path.name} is not in the manifest"
        for path in sorted(folder.glob("part-*.parquet"))
        if path.name not in listed
    ]
    for name in sorted({*listed, REJECTED}):
        path = folder / name
        columns = ["id", "status", "reason"] if name == REJECTED else ["id", "text", "finish_reason"]
        try:
            found = pq.read_table(path, columns=columns).to_pylist()
        except (OSError, pa.ArrowException) as error:
            flaws.append(f"{name} cannot be read ({str(error).splitlines()[0]})")
            continue
        (rejected if name == REJECTED else rows).extend(found)
        if name in listed and len(found) != listed[name]["rows"]:
            flaws.append(f"{name} has {len(found)} rows, the manifest says {listed[name]['rows']}")
        if name in listed and sha256_file(path) != listed[name]["sha256"]:
            flaws.append(f"{name} has another hash than the manifest says")
    return [{**row, "text": row["text"] or ""} for row in rows], rejected, flaws


def _miscounts(
    manifest: dict[str, Any], rows: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]
) -> list[str]:
    flaws = []
    completed, skipped, failed = (manifest[key] for key in ("completed", "skipped", "failed"))
    if manifest["rows_in"] != completed + skipped + failed:
        flaws.append(
            f"rows_in {manifest['rows_in']} is not the sum of completed {completed}, skipped {skipped}"
            f" and failed {failed}"
        )
    if len(rows) != completed:
        flaws.append(f"the data files hold {len(rows)} rows, the manifest says {completed} completed")
    status = Counter(row["status"] for row in rejected)
    for name, count in (("skipped", skipped), ("failed", failed)):
        if status[name] != count:
            flaws.append(f"{REJECTED} holds {status[name]} {name} rows, the manifest says {count}")
    if others := sorted(set(map(str, status)) - {"skipped", "failed"}):
        flaws.append(f"{REJECTED} holds rows with the status {', '.join(others)}")
    repeated = [id for id, count in Counter(row["id"] for row in (*rows, *rejected)).items() if count > 1]
    if repeated:
        flaws.append(f"{len(repeated)} ids stand more than once, such as {repeated[0]!r}")
    return flaws


def _accounting(flaws: Sequence[str]) -> GateResult:
    return GateResult(
        name="accounting",
        value=float(len(flaws)),
        threshold=0.0,
        bound="at most",
        passed=not flaws,
        detail="; ".join(flaws) or "every document is accounted for and every file is as the manifest says",
    )


def _result(
    name: str,
    value: float,
    threshold: float,
    bound: Literal["at least", "at most"],
    detail: str,
    examples: Sequence[Example],
) -> GateResult:
    passed = value >= threshold if bound == "at least" else value <= threshold
    return GateResult(
        name=name,
        value=value,
        threshold=threshold,
        bound=bound,
        passed=passed,
        detail=f"{detail}; {bound} {threshold:.0%} are wanted",
        examples=() if passed else tuple(examples[:EXAMPLES]),
    )


def _example(row: dict[str, Any], reason: str) -> Example:
    return Example(id=str(row["id"]), reason=reason, text=row["text"][:EXCERPT])


def _truncation(row: dict[str, Any]) -> str | None:
    return "ended at max_tokens" if row["finish_reason"] == "length" else None


def _share(
    name: str,
    rows: Sequence[dict[str, Any]],
    threshold: float,
    flaw: Callable[[dict[str, Any]], str | None],
) -> GateResult:
    """A gate on the share of rows with a flaw."""
    found = [_example(row, reason) for row in rows if (reason := flaw(row)) is not None]
    value = len(found) / len(rows) if rows else 0.0
    return _result(name, value, threshold, "at most", f"{len(found):,} of {len(rows):,} completions are {name}", found)


def _form(rows: Sequence[dict[str, Any]], check: Check, threshold: float) -> GateResult:
    flawed = [_example(row, reason) for row in rows if (reason := form_flaw(check, row["text"])) is not None]
    formed = len(rows) - len(flawed)
    detail = f"{formed:,} of {len(rows):,} completions have the form {check!r}"
    if flawed:
        common, count = Counter(example.reason for example in flawed).most_common(1)[0]
        detail += f" (most common flaw, {count:,} times: {common})"
    return _result("form", formed / len(rows) if rows else 0.0, threshold, "at least", detail, flawed)


def _common_opening(rows: Sequence[dict[str, Any]], openings: Counter[str], gates: Gates) -> GateResult:
    opening, count = openings.most_common(1)[0] if openings else ("", 0)
    return _result(
        "common_opening",
        count / len(rows) if rows else 0.0,
        gates.max_common_opening,
        "at most",
        f"{count:,} of {len(rows):,} completions open with {opening!r}, {len(openings):,} openings are distinct",
        [_example(row, f"opens with {opening!r}") for row in rows if row["text"].startswith(opening)],
    )
