"""The README of a folder of datasets: it names one configuration per prompt, as the Hugging Face hub expects."""

from __future__ import annotations

import json
from typing import Any

import yaml

from finephrase_dagster.artifacts.artifact import MANIFEST
from finephrase_dagster.artifacts.folder import Folder
from finephrase_dagster.artifacts.markdown import markdown_table

README = "README.md"
MARK = "<!-- Written by `finephrase rephrase`, which replaces this file. Delete this line to keep your changes. -->"
DATA_FILES = "*.parquet"
HEADER = ("prompt", "model", "completed rows", "skipped", "failed", "completion tokens", "discarded tokens")
COUNTS = ("completed", "skipped", "failed", "completion_tokens")
TEMPLATE = """---
{configs}---
{mark}

# Rephrased documents

One configuration per prompt.

{table}

```python
datasets.load_dataset("path/to/this/folder", "{example}")
```

Discarded tokens are those of rollouts that were not kept: a row that failed a gate was drawn again.

`<prompt>/` holds the data files. `<prompt>/__meta__/` holds `manifest.json` (recipe, counts, hashes) and
`rejected.parquet` (the rows without a completion, each with the reason).
"""


def write_readme(folder: Folder) -> None:
    """Write `README.md` for all complete datasets in a folder; keep a README that somebody else wrote."""
    manifests = {name: manifest for name in folder.folders() if (manifest := _manifest(folder.below(name)))}
    if not manifests:
        return
    content = readme_text(manifests).encode()
    try:
        existing = folder.read(README)
    except FileNotFoundError:
        existing = None
    if existing is None or (MARK.encode() in existing and existing != content):
        folder.write(README, content)


def readme_text(manifests: dict[str, dict[str, Any]]) -> str:
    """Return the README of datasets, given by prompt with their manifests."""
    # A configuration without data files cannot be loaded.
    loadable = [name for name, manifest in manifests.items() if manifest["files"]]
    configs = [{"config_name": name, "data_files": f"{name}/{DATA_FILES}"} for name in loadable]
    rows = [
        (name, str(manifest["recipe"].get("model")), *(f"{count:,}" for count in _counts(manifest)))
        for name, manifest in manifests.items()
    ]
    return TEMPLATE.format(
        configs=yaml.safe_dump({"configs": configs}, sort_keys=False),
        mark=MARK,
        table=markdown_table(HEADER, rows),
        example=[*loadable, *manifests][0],
    )


def _counts(manifest: dict[str, Any]) -> list[int]:
    return [*(manifest[name] for name in COUNTS), manifest["discarded"]["completion_tokens"]]


def _manifest(folder: Folder) -> dict[str, Any] | None:
    try:
        manifest = json.loads(folder.read(MANIFEST))
    except (OSError, ValueError):
        return None
    needed = {"files", "recipe", "discarded", *COUNTS}
    return manifest if isinstance(manifest, dict) and needed <= manifest.keys() else None
