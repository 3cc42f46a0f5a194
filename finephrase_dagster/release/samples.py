"""Samples of a release: a few rows from all over a configuration, each with its source document."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.release import release_artifact
from finephrase_dagster.artifacts.verification import check_artifact
from finephrase_dagster.audit.forms import form_flaw
from finephrase_dagster.rephrase.side_by_side import CUT, PreviewRow, side_by_side_page

BATCH_ROWS = 1_000


def samples(lineage: Lineage, configuration: str, count: int) -> list[PreviewRow]:
    """Return rows of a configuration at equal distances, read without the rows between them."""
    artifact = release_artifact(lineage, configuration)
    manifest, folder = artifact.manifest(), check_artifact(artifact)
    count = min(count, manifest["rows"])
    rows = list(_rows_at([number * manifest["rows"] // count for number in range(count)], manifest["files"], folder))
    corpora = {
        one.version: one for one in (lineage.source(part.source) for part in lineage.study.released[configuration])
    }
    wanted: dict[Path, set[str]] = defaultdict(set)
    for row in rows:
        wanted[corpora[row["source_version"]].folder / row["source_shard"]].add(row["id"])
    texts = {(shard, key): text for shard, ids in wanted.items() for key, text in _texts(shard, ids)}
    checks = {prompt.name: prompt.check for prompt in lineage.prompts.values()}
    return [
        PreviewRow(
            source=texts[corpora[row["source_version"]].folder / row["source_shard"], row["id"]],
            flaw=CUT if row["finish_reason"] == "length" else form_flaw(checks[row["prompt"]], row["text"]),
            **{
                name: row[name]
                for name in ("prompt", "id", "text", "prompt_tokens", "completion_tokens", "document_cut")
            },
        )
        for row in rows
    ]


def _rows_at(places: Sequence[int], files: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows at ascending places, reading only the row groups that hold them."""
    left, first = list(places), 0
    for listed in files:
        if not left:
            return
        if left[0] >= first + listed["rows"]:
            first += listed["rows"]
            continue
        with pq.ParquetFile(folder / listed["path"]) as file:
            for number in range(file.num_row_groups):
                rows = file.metadata.row_group(number).num_rows
                here = [place - first for place in left if place < first + rows]
                if here:
                    yield from file.read_row_group(number).take(here).to_pylist()
                left, first = left[len(here) :], first + rows


def _texts(shard: Path, ids: set[str]) -> Iterator[tuple[str, str]]:
    with pq.ParquetFile(shard) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["id", "text"]):
            yield from ((row["id"], row["text"]) for row in batch.to_pylist() if row["id"] in ids)


def samples_page(lineage: Lineage, count: int) -> str:
    """Return a page with some samples of each configuration."""
    by_configuration = {name: samples(lineage, name, count) for name in lineage.study.released}
    summaries = [
        (
            name,
            f"{release_artifact(lineage, name).manifest()['rows']:,}",
            str(len(some)),
            str(sum(sample.flaw is None for sample in some)),
        )
        for name, some in by_configuration.items()
    ]
    return side_by_side_page(
        f"Samples of {lineage.study.name}",
        [row for some in by_configuration.values() for row in some],
        settings={"samples per configuration": str(count)},
        columns=("configuration", "rows", "shown", "with the form asked for"),
        summaries=summaries,
    )
