"""The README of a folder of datasets: it names one configuration per prompt, as the Hugging Face hub expects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import yaml

from finephrase_dagster.artifacts.artifact import MANIFEST
from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.artifacts.markdown import markdown_table
from finephrase_dagster.rephrase.account import PARTS
from finephrase_dagster.rephrase.progress import progress_rows, run_cost
from finephrase_dagster.rephrase.statistics import RunStatistics

README = "README.md"
MARK = "<!-- Written by `finephrase rephrase`, which replaces this file. Delete this line to keep your changes. -->"
DATA_FILES = "*.parquet"
HEADER = ("prompt", "model", "completed rows", "skipped", "failed", "completion tokens", "discarded tokens")
PROGRESS_HEADER = ("prompt", "documents", "done", "completion tokens", "tokens/s", "time left")
TIMES = {
    "total": "engine_seconds",
    "ideal": "ideal_seconds",
    "prefill": "prefill_seconds",
    "decode": "decode_seconds",
}
TIME_TEXT = """Seconds of one engine, over all runs. The columns from `kept` on add up to `total`, and `prefill` and
`decode` to `kept`. `ideal` is what the kept tokens take at an engine's best steady rate; goodput is its share of all.
"""
LOADING = """```python
datasets.load_dataset("path/to/this/folder", "{example}")
```

"""
COUNTS = ("completed", "skipped", "failed", "completion_tokens")
TEMPLATE = """---
{configs}---
{mark}

# Rephrased documents

One configuration per prompt.

{table}{loading}{time}Discarded tokens are those of rollouts that were not kept: a row that failed a gate was drawn
again.

`<prompt>/` holds the data files. `<prompt>/__meta__/` holds `manifest.json` (recipe, counts, hashes) and
`rejected.parquet` (the rows without a completion, each with the reason).
"""


def write_readme(folder: Folder, run: RunStatistics | None = None) -> None:
    """Write `README.md` for all datasets in a folder; keep a README that somebody else wrote.

    Args:
        run: the statistics of a run that is writing datasets of the folder; those that it has not completed are shown
            with their progress.
    """
    manifests = {name: manifest for name in folder.folders() if (manifest := _manifest(folder.below(name)))}
    writing = [name for name in (run.prompts if run else ()) if name not in manifests]
    if not manifests and not writing:
        return
    begun = [name for name in writing if folder.below(name).names(DATA_FILES)]
    content = readme_text(manifests, begun, _progress_section(run) if run and writing else "").encode()
    try:
        existing = folder.read(README)
    except FileNotFoundError:
        existing = None
    if existing is None or (MARK.encode() in existing and existing != content):
        folder.write(README, content)


def readme_text(manifests: dict[str, dict[str, Any]], begun: Sequence[str] = (), progress: str = "") -> str:
    """Return the README of datasets, given by prompt with their manifests.

    Args:
        begun: datasets with data files that are still being written.
        progress: the section on their progress.
    """
    # A configuration without data files cannot be loaded.
    loadable = [*(name for name, manifest in manifests.items() if manifest["files"]), *begun]
    configs = [{"config_name": name, "data_files": f"{name}/{DATA_FILES}"} for name in loadable]
    rows = [
        (name, _model(manifest), *(f"{count:,}" for count in _counts(manifest))) for name, manifest in manifests.items()
    ]
    return TEMPLATE.format(
        configs=yaml.safe_dump({"configs": configs}, sort_keys=False),
        mark=MARK,
        table=f"{markdown_table(HEADER, rows)}\n\n" if rows else "",
        loading=LOADING.format(example=loadable[0]) if loadable else "",
        time=progress + _time_section(manifests),
    )


def _progress_section(run: RunStatistics) -> str:
    table = markdown_table(PROGRESS_HEADER, progress_rows(run))
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S UTC}, {run_cost(run)}"
    return f"## Progress\n\nAs of {now}; run the same command again if it was interrupted.\n\n{table}\n\n"


def _time_section(manifests: dict[str, dict[str, Any]]) -> str:
    """Return the section on where the engines' time went; nothing for datasets whose manifests have no account."""
    accounts = {name: manifest["goodput"] for name, manifest in manifests.items() if manifest.get("goodput")}
    if not accounts:
        return ""
    rows = []
    for name, account in accounts.items():
        seconds = [*(account[field] for field in TIMES.values()), *account["parts"].values()]
        rows.append((name, _word(account["goodput"], ".0%"), *(_word(value, ",.1f") for value in seconds)))
    header = ("prompt", "goodput", *TIMES, *PARTS)
    return f"## Where the time went\n\n{TIME_TEXT}\n{markdown_table(header, rows)}\n\n"


def _word(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)


def _model(manifest: dict[str, Any]) -> str:
    """Return the model's name, and the fingerprint by which the recipe knows a model of ours."""
    identity = str(manifest["recipe"].get("model"))
    name = (manifest.get("run") or {}).get("model") or identity
    return identity if name == identity else f"{name} ({identity})"


def _counts(manifest: dict[str, Any]) -> list[int]:
    return [*(manifest[name] for name in COUNTS), manifest["discarded"]["completion_tokens"]]


def _manifest(folder: Folder) -> dict[str, Any] | None:
    try:
        manifest = json.loads(folder.read(MANIFEST))
    except (OSError, ValueError):
        return None
    needed = {"files", "recipe", "discarded", *COUNTS}
    return manifest if isinstance(manifest, dict) and needed <= manifest.keys() else None
