"""The graph: every partition of every asset of a study, what it needs, and whether it is there.

Only recipes of today count. What an artifact was made from is in its manifest, so an artifact that is
stale tells which of its inputs changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finephrase_dagster.artifacts.artifact import MANIFEST, Artifact, ArtifactMissing
from finephrase_dagster.artifacts.fingerprint import differences
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.study.file import StudyError

STAGES = ("sources", "generators", "synthetic", "audits", "tokens", "mixtures", "early", "training", "evaluation")
"""The stages that make artifacts, in the order in which data flows."""

Status = Literal["current", "stale", "missing", "waiting", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One partition of one asset of the graph, and how to name its artifact.

    Attributes:
        stage: one of `STAGES`.
        asset: the asset's path, such as `mixtures/mixture`.
        partition: its partition key; None where the asset has none.
        needs: the names of the items that its recipe names.
        artifact: names the artifact; raises `ArtifactMissing` while an input is missing.
    """

    stage: str
    asset: str
    partition: str | None
    needs: tuple[str, ...]
    artifact: Callable[[], Artifact]

    @property
    def name(self) -> str:
        return f"{self.asset}/{self.partition}" if self.partition else self.asset


@dataclass(frozen=True, kw_only=True)
class State:
    """Whether an item's artifact is there, and why not.

    `current`: complete, by the recipe of today. `stale`: there, but by another recipe. `missing`: not
    there, though its inputs are. `waiting`: an input is not there. `stopped`: the study's early stop ended it.
    """

    status: Status
    reasons: tuple[str, ...] = ()


def items(lineage: Lineage) -> Iterator[Item]:
    """Every partition of every asset, upstream first."""
    study = lineage.study

    def item(stage: str, name: str, needs: tuple[str, ...], of: Callable[..., Artifact], *key: Any) -> Item:
        asset, partition = _split(name)
        return Item(stage=stage, asset=asset, partition=partition, needs=needs, artifact=lambda: of(*key))

    for name in study.sources:
        yield item("sources", source_item(name), (), lineage.source, name)
    for name, generator in study.generators.items():
        texts = generator.embedded.sources if generator.trained_here and generator.embedded else ()
        yield item("generators", generator_item(name), tuple(map(source_item, texts)), lineage.generator, name)
    for cell in study.cells:
        made_from = (source_item(cell.source), generator_item(cell.generator))
        for prompt in study.prompts_of(cell):
            yield item("synthetic", dataset_item(f"{cell.name}/{prompt}"), made_from, lineage.dataset, cell, prompt)
    for cell in study.cells:
        for prompt in study.prompts_of(cell):
            dataset = f"{cell.name}/{prompt}"
            yield item("audits", audit_item(dataset), (dataset_item(dataset),), lineage.audit, cell, prompt)
    if not study.mixtures:
        return
    assert study.tokenizer is not None
    texts = study.tokenizer.sources if study.tokenizer.trained_here else ()
    yield item("tokens", TOKENIZER, tuple(map(source_item, texts)), lineage.tokenizer)
    for dataset in study.datasets:
        yield item("tokens", tokens_item(dataset), (dataset_item(dataset), TOKENIZER), lineage.tokens, dataset)
    for name, mixture in study.mixtures.items():
        parts = [tokens_item(component) for component in mixture.components]
        parts += [audit_item(component) for component in mixture.components if "/" in component]
        yield item("mixtures", mixture_item(name), tuple(parts), lineage.mixture, name)
    made_of = {name: (mixture_item(run.mixture), TOKENIZER) for name, run in study.student_runs.items()}
    for name in study.rivals:
        yield item("early", early_item(name), made_of[name], lineage.early, name)
    for name in study.rivals:
        yield item("early", f"early/scores/{name}", (early_item(name),), lineage.early_scores, name)
    for name in study.pre_decay_runs:
        yield item("training", pre_decay_item(name), made_of[name], lineage.pre_decay_checkpoint, name)
    for name, run in study.student_runs.items():
        base = run.base.name if run.base else name
        begun: tuple[str, ...] = (pre_decay_item(base),) if base in study.pre_decay_runs else ()
        if name in study.rivals:
            begun = (early_item(name), *(f"early/scores/{rival}" for rival in study.rivals[name]))
        yield item("training", f"training/checkpoint/{name}", (*made_of[name], *begun), lineage.checkpoint, name)
    scores = [f"evaluation/benchmark_scores/{name}" for name in study.student_runs]
    for name, scored in zip(study.student_runs, scores, strict=True):
        yield item("evaluation", scored, (f"training/checkpoint/{name}",), lineage.scores, name)
    yield item("evaluation", LEADERBOARD, tuple(scores), lineage.leaderboard)


TOKENIZER = "tokens/tokenizer"
LEADERBOARD = "evaluation/leaderboard"


def source_item(name: str) -> str:
    return f"sources/corpus/{name}"


def generator_item(name: str) -> str:
    return f"generators/model/{name}"


def dataset_item(dataset: str) -> str:
    """Of a source or a synthetic dataset, as a mixture names it."""
    return f"synthetic/{dataset}" if "/" in dataset else source_item(dataset)


def audit_item(dataset: str) -> str:
    cell, _, prompt = dataset.partition("/")
    return f"audits/{cell}_audit/{prompt}"


def mixture_item(name: str) -> str:
    return f"mixtures/mixture/{name}"


def early_item(run: str) -> str:
    return f"early/student/{run}"


def pre_decay_item(run: str) -> str:
    return f"training/pre_decay_checkpoint/{run}"


def tokens_item(dataset: str) -> str:
    cell, _, prompt = dataset.partition("/")
    return f"tokens/{cell}_tokens/{prompt}" if prompt else f"tokens/corpus_tokens/{dataset}"


def _split(name: str) -> tuple[str, str | None]:
    group, asset, *partition = name.split("/")
    return f"{group}/{asset}", partition[0] if partition else None


def state(item: Item) -> State:
    """Whether the item's artifact is current, and if not, why."""
    try:
        artifact = item.artifact()
    except ArtifactMissing as error:
        return State(status="waiting", reasons=(str(error),))
    except StoppedEarly as error:
        return State(status="stopped", reasons=(str(error),))
    if artifact.complete:
        try:
            artifact.manifest()
        except ArtifactMissing as error:  # there is a file of that name, and it is no manifest of this recipe
            return State(status="missing", reasons=(str(error),))
        return State(status="current")
    earlier = latest_manifest(artifact.folder.parent)
    if earlier is None:
        return State(status="missing")
    return State(status="stale", reasons=tuple(differences(earlier["recipe"], artifact.recipe)) or ("its recipe",))


def ready(graph: Mapping[str, Item]) -> list[Item]:
    """What could be made now: its inputs are there by today's recipes, no audit forbids it, and it is not there."""
    found = []
    for item in graph.values():
        try:
            status = state(item).status
        except StudyError:  # a source's files are not there
            continue
        if status in ("missing", "stale") and not refused(item, graph):
            found.append(item)
    return found


def refused(item: Item, graph: Mapping[str, Item]) -> list[str]:
    """The audits among what an item needs that did not pass; their mixture cannot be made."""
    audits = [graph[need] for need in item.needs if graph[need].stage == "audits"]
    return [audit.name for audit in audits if (current_manifest(audit) or {}).get("passed") is False]


def states(graph: Mapping[str, Item], data: Path) -> dict[str, State]:
    """The state of every item, followed through the graph: what needs something that is not current is not either.

    Args:
        graph: items by name, upstream first.
        data: the folder of all artifacts.

    Returns:
        States without `waiting`: what was never made is missing, all else is stale for its inputs' sake. A source
        whose files are not there is missing, too.
    """
    found: dict[str, State] = {}
    for name, item in graph.items():
        try:
            own = state(item)
        except StudyError as error:  # a source's files are not there
            own = State(status="missing", reasons=(str(error),))
        needed = {need: found[need].status for need in item.needs}
        behind = [f"{need} is {status}" for need, status in needed.items() if status not in ("current", "stopped")]
        if own.status == "waiting":
            made = latest_manifest(data / name) is not None
            own = State(status="stale" if made else "missing", reasons=tuple(behind) or own.reasons)
        found[name] = own
    return found


def current_manifest(item: Item) -> dict[str, Any] | None:
    """The manifest of an item that is there by today's recipe."""
    try:
        return item.artifact().manifest()
    except (ArtifactMissing, StoppedEarly, StudyError):
        return None


def latest_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a partition's folder that was written last, whatever its recipe; None if there is none."""
    manifests = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in manifests:
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(manifest, dict) and isinstance(manifest.get("recipe"), dict):
            return manifest
    return None
