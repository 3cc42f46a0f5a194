"""Reuse: samples of an earlier evaluation of the same checkpoint, so that a new task costs only itself.

Bits per byte follow from the answers and log-probabilities of a sample, so samples that lack them are reused too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import labelled_manifest
from finephrase_dagster.artifacts.folder import LocalFolder
from finephrase_dagster.artifacts.verification import check_folder
from finephrase_dagster.evaluate.evaluation import bits_per_byte
from finephrase_dagster.evaluate.metric import BITS
from finephrase_dagster.evaluate.tasks import benchmarks

Recipe = Mapping[str, Any]
SAME_SAMPLES = {("3", "4")}
"""An earlier and a later version of the code that give the same samples; those of 3 lack bits per byte."""


def known_samples(earlier: Path, recipe: Recipe, samples: str) -> list[dict[str, Any]]:
    """Return the samples of an earlier evaluation that one by `recipe` would give again.

    Args:
        earlier: the folder of the earlier scores, which need not exist.
        recipe: of the scores to make.
        samples: the path of the file with the samples in both folders.

    Raises:
        ArtifactDamaged: a file of the earlier scores is not what its manifest lists.
    """
    import pyarrow.parquet as pq

    manifest = labelled_manifest(earlier)
    tasks = unchanged_tasks(manifest["recipe"], recipe) if manifest else set()
    if not manifest or not tasks or not (earlier / samples).is_file():
        return []
    check_folder(LocalFolder(earlier.resolve()), manifest)
    known = [sample for sample in pq.read_table(earlier / samples).to_pylist() if sample["task"] in tasks]
    return [{**sample, BITS: bits_per_byte(sample["golds"], sample["gold_log_probabilities"])} for sample in known]


def unchanged_tasks(earlier: Recipe, recipe: Recipe) -> set[str]:
    """Return the tasks that both recipes of scores evaluate alike; none if more than tasks and items differs."""
    apart = {"tasks": None, "items": None, "code": None}
    codes = earlier.get("code"), recipe.get("code")
    if {**earlier, **apart} != {**recipe, **apart} or (codes[0] != codes[1] and codes not in SAME_SAMPLES):
        return set()
    return {task for task in {*earlier["tasks"]} & {*recipe["tasks"]} if _items(earlier, task) == _items(recipe, task)}


def _items(recipe: Recipe, task: str) -> Any:
    items = recipe["items"]
    return items.get(benchmarks()[task].folder) if isinstance(items, Mapping) else items
