"""Published studies as peers of one's own: their files, read into the rows that one's own manifests have.

The traps of such files, and what happens to them:
- A run's seed stands in its name (`-seed-3`, `--data-seed=2-seed=3`). The column `seed` counts only where one name has
  several seeds: the published 42 is a label of runs whose seed nobody knows.
- A series that ends before those of its student is incomplete: it has no final score.
- A task that was not evaluated is stored as 0. No average probability is exactly 0, so it is missing, and so are the
  means that it counts for.
- Categories are computed again from the tasks, by the definition of `evaluate/categories.py`.
- Proxy scores are broken where their stated change is not output minus input.
"""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.artifacts.key import CHECKPOINT, MIXTURE, SCORES
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.categories import category_means, counted_tasks, macro_mean, micro_mean
from finephrase_dagster.results.published_names import components, is_original, read_name
from finephrase_dagster.results.warehouse import Key, mark_current, record_manifests, recorded, writing

if TYPE_CHECKING:
    import duckdb

FOLDER = "external"
FILES = {"scores": "scores.csv", "generations": "generations.json", "sweep": "sweep.csv"}
STEP_TOKENS = 512 * 4096
"""Tokens per optimizer step of the published trainings."""
DEFAULT_STUDENT = "1.7b"
PARAMETERS = {"0.5b": 483_714_048, "1.7b": 1_672_071_168, "2.9b": 2_860_792_320, "6.2b": 6_162_714_624}
EVALUATION = "lighteval as published, 3 shots, at most 1000 items"
UNLABELLED = "42"
TOLERANCE = 1e-9

_TASK = re.compile(r"^(?:\w+\|)?(?P<task>[^|]+?)(?::_average)?(?:\|\d+)?(?:/prob_norm_token)?$")

Row = tuple[Key, Mapping[str, Any], Mapping[str, Any]]
"""Key, manifest, and what the names mean."""


class FilesWrong(FinephraseError, exit_status=2):
    """A file of a published study cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was read from the files of a published study.

    Attributes:
        runs: number of training runs; `points` counts their scores by step.
        incomplete: runs without a score at the last step.
        missing: number of task scores that the file stores as 0.
        deviation: the largest difference between a category or mean of the file and the one computed here.
        broken_proxies: the generation runs whose proxy scores do not count.
    """

    name: str
    runs: int
    points: int
    incomplete: tuple[str, ...]
    missing: int
    deviation: float
    generations: int
    broken_proxies: tuple[str, ...]
    settings: int


def import_study(warehouse: Path, name: str, files: Mapping[str, Path]) -> Imported:
    """Keep a copy of a published study's files next to the warehouse, and record them there.

    Args:
        name: what to call the study; no study of one's own may have it.
        files: the paths of the kinds of `FILES`; `scores` is needed.

    Raises:
        FilesWrong: a file cannot be read, or the name is taken or cannot name a folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
        raise FilesWrong(f"the name {name!r} cannot name a study; use letters, digits, hyphens and underscores")
    for path in files.values():
        if not path.is_file():
            raise FilesWrong(f"{path} is not a file. Name a file of the published study.")
    kept = warehouse.parent / FOLDER / name
    with writing(warehouse) as connection, TemporaryDirectory(dir=warehouse.parent, prefix=".import-") as draft:
        taken = connection.execute("SELECT 1 FROM current WHERE study = ? AND NOT external", [name]).fetchone()
        if taken:
            raise FilesWrong(f"{name} is a study of your own. Choose another --name.")
        for kind, path in files.items():
            shutil.copyfile(path, Path(draft, FILES[kind]))
        imported = record_external(connection, name, Path(draft))
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for path in Path(draft).iterdir():
            path.replace(kept / path.name)
    return imported


def record_kept(data: Path, connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Record the imported studies whose files lie in a data folder, and return their names."""
    folders = sorted(path for path in (data / FOLDER).glob("*") if path.is_dir())
    return [record_external(connection, folder.name, folder).name for folder in folders]


def record_external(connection: duckdb.DuckDBPyConnection, name: str, folder: Path) -> Imported:
    """Record the files of a published study in place of those that were imported under its name before.

    Raises:
        FilesWrong: a file is missing, unreadable, or not of this form; the message names the place.
    """
    runs = _read_scores(folder / FILES["scores"])
    generations = _read_generations(folder / FILES["generations"])
    sweep = _read_sweep(folder / FILES["sweep"])
    rows = [*_run_rows(runs, _sizes(generations)), *generations, *sweep]
    known = recorded(connection)
    record_manifests(connection, [(key, manifest) for key, manifest, _ in rows if key not in known])
    mark_current(connection, name, [(key, names) for key, _, names in rows], external=True)
    return Imported(
        name=name,
        runs=len(runs),
        points=sum(len(run.points) for run in runs),
        incomplete=tuple(run.name for run in runs if not run.complete),
        missing=sum(run.missing for run in runs),
        deviation=max(run.deviation for run in runs),
        generations=len(generations),
        broken_proxies=tuple(key[2] for key, manifest, _ in generations if not manifest["proxies_valid"]),
        settings=len(sweep),
    )


@dataclass(kw_only=True)
class _Run:
    name: str
    mixture: str
    student: str
    seed: str | None
    fingerprint: str
    points: dict[int, dict[str, Any]]
    missing: int = 0
    deviation: float = 0.0
    complete: bool = True


def _read_scores(path: Path) -> list[_Run]:
    series: dict[tuple[str, str], list[tuple[int, Mapping[str, str]]]] = defaultdict(list)
    with _opened(path) as rows:
        for line, row in rows:
            if not row.get("runname") or row.get("steps") in (None, ""):
                raise FilesWrong(f"{path}, line {line}: needs the columns 'runname' and 'steps'")
            series[row["runname"], row.get("seed") or UNLABELLED].append((line, row))
    if not series:
        raise FilesWrong(f"{path} holds no scores. Name a file with a header and one row per run and step.")
    labels = Counter(name for name, _ in series)
    digest = sha256_file(path)
    runs = [_run(path, name, label, labels[name] > 1, digest, lines) for (name, label), lines in series.items()]
    for student in {run.student for run in runs}:
        ends = Counter(max(run.points) for run in runs if run.student == student)
        last = max(ends, key=lambda end: (ends[end], end))
        for run in runs:
            run.complete = run.complete if run.student != student else max(run.points) >= last
    return runs


def _run(path: Path, name: str, label: str, several: bool, digest: str, lines: Sequence[tuple[int, Any]]) -> _Run:
    arm = read_name(name)
    run = _Run(
        name=f"{name} seed {label}" if several else name,
        mixture=arm.mixture,
        student=arm.student or DEFAULT_STUDENT,
        seed=arm.seed or (label if several or label != UNLABELLED else None),
        fingerprint=digest,
        points={},
    )
    for line, row in lines:
        step = _number(path, line, "steps", row["steps"])
        if not step or not step.is_integer():
            raise FilesWrong(f"{path}, line {line}: 'steps' is {row['steps']!r}, not a positive whole number")
        if int(step) in run.points:
            raise FilesWrong(f"{path}, line {line}: {run.name} has step {int(step)} twice. Remove one of the rows.")
        run.points[int(step)] = _point(path, line, row, run)
    return run


def _point(path: Path, line: int, row: Mapping[str, str], run: _Run) -> dict[str, Any]:
    """Return the scores of one row, computed from its tasks; of the file itself if the row has no tasks at all."""
    stated: dict[str, float] = {}
    tasks: dict[str, float | None] = {}
    for column, text in row.items():
        if column in ("runname", "seed", "steps"):
            continue
        value = _number(path, line, column, text)
        if column.startswith("agg_score_"):
            stated |= {} if value is None else {column.removeprefix("agg_score_"): value}
        elif (match := _TASK.match(column)) and match["task"] in counted_tasks():
            tasks[match["task"]] = value
    given = {task: value for task, value in tasks.items() if value}
    run.missing += len(tasks) - len(given)
    if not given:
        return {
            "tasks": {},
            "macro": stated.pop("macro", None),
            "micro": stated.pop("micro", None),
            "categories": stated,
        }
    zeros = {task: value or 0.0 for task, value in tasks.items()}
    of_zeros = {**category_means(zeros), "macro": macro_mean(zeros), "micro": micro_mean(zeros)}
    computed = {mean: value for mean, value in of_zeros.items() if value is not None}
    deviations = [abs(computed[mean] - value) for mean, value in stated.items() if mean in computed]
    run.deviation = max(run.deviation, *deviations, 0.0)
    return {"tasks": given, "categories": category_means(given), "macro": macro_mean(given), "micro": micro_mean(given)}


def _run_rows(runs: Sequence[_Run], sizes: Mapping[str, float]) -> Iterator[Row]:
    for run in runs:
        steps = max(run.points)
        names: dict[str, Any] = {
            "mixture": run.mixture,
            "student": run.student,
            "seed": run.seed,
            "decay_from": None,
            "complete": run.complete,
            "parameters": PARAMETERS.get(run.student),
            "tokens": steps * STEP_TOKENS,
            "epochs": _epochs(run.mixture, steps * STEP_TOKENS, sizes),
            "evaluation": EVALUATION,
            "samples": None,
        }
        version = run.fingerprint[:16]
        curve = [{"step": step, **point} for step, point in sorted(run.points.items())]
        trained = {"steps": steps, "tokens": steps * STEP_TOKENS, "parameters": PARAMETERS.get(run.student)}
        yield (run.fingerprint, SCORES.asset, run.name), {"version": version, "curve": curve}, names
        yield (run.fingerprint, CHECKPOINT.asset, run.name), {"version": version, **trained}, names
    for mixture in {run.mixture: None for run in runs}:
        parts = components(mixture)
        manifest = {
            "version": runs[0].fingerprint[:16],
            "tokens": None,
            "components": [{"name": name, "version": name, "weight": share, "epochs": None} for name, share in parts],
        }
        names = {"components": {name: {"name": name, "original": is_original(name)} for name, _ in parts}}
        yield (runs[0].fingerprint, MIXTURE.asset, mixture), manifest, names


def _epochs(mixture: str, tokens: int, sizes: Mapping[str, float]) -> float | None:
    """Return how often the most repeated synthetic component was seen, by the tokens that its generator counted."""
    known = [share * tokens / sizes[name] for name, share in components(mixture) if name in sizes]
    return max(known, default=None)


def _sizes(generations: Sequence[Row]) -> dict[str, float]:
    """Return the completion tokens of each synthetic component."""
    return {
        name: manifest["completion_tokens"]
        for _, manifest, _ in generations
        for name, _ in components(manifest["training_run"] or "")
        if is_original(name) is False
    }


def _read_generations(path: Path) -> list[Row]:
    """Return one row per generation run; none without the file."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_bytes())
        return [_generation(entry, sha256_file(path)) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FilesWrong(
            f"{path} is not a list of generation runs ({type(error).__name__}: {error}). Name a file in the form of "
            "rephrasing_metadata.json."
        ) from error


_ACCOUNT = (
    "num_documents",
    "failed_requests",
    "input_tokens",
    "output_tokens",
    "gpu_time_seconds",
    "output_tps_per_gpu",
)


def _generation(entry: Mapping[str, Any], digest: str) -> Row:
    proxies = {name: value for name, value in entry.items() if isinstance(value, int | float) and name not in _ACCOUNT}
    documents, failed = entry["num_documents"], entry["failed_requests"]
    hours = entry["gpu_time_seconds"] / 3600
    manifest = {
        "version": digest[:16],
        "rows_in": documents,
        "completed": documents - failed,
        "skipped": 0,
        "failed": failed,
        "prompt_tokens": entry["input_tokens"],
        "completion_tokens": entry["output_tokens"],
        "run": {
            "completion_tokens": entry["output_tokens"],
            "tokens_per_second": entry["output_tps_per_gpu"],
            "gpu_hours": hours,
        },
        "training_run": entry.get("training_run"),
        "proxies": proxies,
        "proxies_valid": all(_is_consistent(proxies, score) for score in ("edu_score", "dclm_score")),
    }
    names = {"generator": entry["model"], "source": entry["source_dataset"], "prompt": Path(entry["prompt"]).stem}
    return (digest, f"synthetic/{entry['model']}__{entry['source_dataset']}", entry["run"]), manifest, names


def _is_consistent(proxies: Mapping[str, float], score: str) -> bool:
    """Return whether the stated change of a proxy score is the score of the outputs minus that of the inputs."""
    fields = [proxies.get(name) for name in (f"output_{score}", f"input_{score}", f"{score}_difference")]
    if None in fields:
        return True
    after, before, change = fields
    return math.isclose(after - before, change, abs_tol=TOLERANCE)  # type: ignore[operator,arg-type]


def _read_sweep(path: Path) -> list[Row]:
    """Return one row per model of a throughput sweep; none without the file."""
    if not path.exists():
        return []
    digest = sha256_file(path)
    result: list[Row] = []
    with _opened(path) as rows:
        for line, row in rows:
            if not {"model", "base_tp", "base_tps", "t0_tps", "t0_params", "t1_tps", "t1_params"} <= row.keys():
                raise FilesWrong(f"{path}, line {line}: is not a row in the form of throughput_sweep.csv")
            named = {"base_tps": f"tp={row['base_tp']}", "t0_tps": row["t0_params"], "t1_tps": row["t1_params"]}
            settings = [
                {"settings": setting, "tokens_per_second": _number(path, line, field, row[field])}
                for field, setting in named.items()
            ]
            manifest = {"version": digest[:16], "settings": settings}
            result.append(((digest, "throughput/sweep", row["model"]), manifest, {"generator": row["model"]}))
    return result


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[tuple[int, dict[str, str]]]]:
    """Yield the rows of a CSV file with their line numbers."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            yield ((reader.line_num, {key: value for key, value in row.items() if key}) for row in reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FilesWrong(f"{path} cannot be read as CSV: {error}. Name a CSV file with a header.") from error


def _number(path: Path, line: int, column: str, text: str | None) -> float | None:
    """Return the number in a cell; None for an empty one or NaN."""
    try:
        value = float(text or "nan")
    except ValueError as error:
        raise FilesWrong(f"{path}, line {line}: column {column!r} is {text!r}, not a number") from error
    if math.isinf(value):
        raise FilesWrong(f"{path}, line {line}: column {column!r} is infinite")
    return None if math.isnan(value) else value
