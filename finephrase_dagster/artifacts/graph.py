"""The lineage graph: every item of a study, the items it needs, and whether its artifact exists.

Only the current recipes count. A manifest holds the recipe that its artifact was made by, so the graph can say which
of a stale artifact's inputs changed.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from finephrase_dagster.artifacts import key as keys
from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing, NotMaterialized, labelled_manifest
from finephrase_dagster.artifacts.fingerprint import differences
from finephrase_dagster.artifacts.key import ItemKey, audit_key, dataset_key, tokens_key
from finephrase_dagster.artifacts.lineage import Lineage, StoppedEarly
from finephrase_dagster.artifacts.release import release_artifact
from finephrase_dagster.study.file import StudyError

Status = Literal["current", "stale", "missing", "waiting", "stopped"]
FIELDS = {"drops": "rows that fail these gates are dropped"}
"""Fields of recipes whose names do not explain themselves, as reasons name them."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One partition of one asset of the graph.

    Attributes:
        needs: the names of the items whose versions are in its recipe.
        artifact: returns its artifact; raises `ArtifactMissing` while an input is incomplete.
        labels: the folder of the study's labels.
        audits: the names of the audits that must have passed before it is made.
    """

    key: ItemKey
    needs: tuple[str, ...]
    artifact: Callable[[], Artifact]
    labels: Path
    audits: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        """The stage that makes it, one of `STAGES`."""
        return self.key.stage

    @property
    def asset(self) -> str:
        """The path of its asset, such as `mixtures/mixture`."""
        return self.key.asset

    @property
    def partition(self) -> str | None:
        """Its partition; None where the asset has no partitions."""
        return self.key.partition

    @property
    def name(self) -> str:
        """The name that people use, such as `mixtures/mixture/faq_and_raw`."""
        return self.key.name


@dataclass(frozen=True, kw_only=True)
class State:
    """Whether an item's artifact exists, and if not, why.

    `current`: complete by the current recipe. `stale`: complete, but by another recipe. `missing`: absent, although
    its inputs exist. `waiting`: an input is absent. `stopped`: the study's early stop ended the run.
    """

    status: Status
    reasons: tuple[str, ...] = ()


def items(lineage: Lineage) -> Iterator[Item]:
    """Yield every item of a study, upstream first."""
    if lineage.graph is None:
        training = (_mixture_items(lineage), _student_items(lineage)) if lineage.study.mixtures else ()
        lineage.graph = tuple(chain(_generation_items(lineage), *training, _release_items(lineage)))
    yield from lineage.graph


def _item(
    lineage: Lineage, key: ItemKey, needs: Iterable[ItemKey], artifact: Callable[..., Artifact], *arguments: Any
) -> Item:
    names = tuple(need.name for need in needs)
    return Item(key=key, needs=names, artifact=partial(artifact, *arguments), labels=lineage.labels)


def _generation_items(lineage: Lineage) -> Iterator[Item]:
    """Yield the corpora, the generators, the synthetic datasets and their audits."""
    study = lineage.study
    for name in study.sources:
        yield _item(lineage, _corpus(name), (), lineage.source, name)
    for name in study.generators:
        yield _item(lineage, _model(name), (), lineage.generator, name)
    datasets = [(cell, prompt) for cell in study.cells for prompt in study.prompts_of(cell)]
    for cell, prompt in datasets:
        inputs = (_corpus(cell.source), _model(cell.generator))
        yield _item(lineage, dataset_key(cell.component(prompt)), inputs, lineage.dataset, cell, prompt)
    for cell, prompt in datasets:
        component = cell.component(prompt)
        yield _item(lineage, audit_key(component), (dataset_key(component),), lineage.audit, cell, prompt)


def _mixture_items(lineage: Lineage) -> Iterator[Item]:
    """Yield the tokenizer, the tokens and the mixtures."""
    study = lineage.study
    assert study.tokenizer is not None
    texts = study.tokenizer.sources if study.tokenizer.trained_here else ()
    yield _item(lineage, TOKENIZER, map(_corpus, texts), lineage.tokenizer)
    overridden = {
        dataset for mixture in study.mixtures.values() if mixture.despite_audits for dataset in mixture.components
    }
    tokenized: dict[str, list[ItemKey]] = {name: [] for name in study.mixtures}
    for component, users in study.tokenized.items():
        for name in users:
            tokenized[name].append(tokens_key(component))
        needs = [dataset_key(component), TOKENIZER]
        if component.cell and study.cell(component.cell).on_failure == "drop_rows":
            needs.append(audit_key(component))
        tokens = _item(lineage, tokens_key(component), needs, lineage.tokens, component)
        is_gated = component.generator is not None and component.name not in overridden
        yield replace(tokens, audits=(audit_key(component).name,) if is_gated else ())
    for name in study.mixtures:
        components = study.components(name).values()
        audits = [audit_key(component) for component in components if component.generator is not None]
        mixture = _item(lineage, _mixture(name), [*tokenized[name], *audits], lineage.mixture, name)
        yield replace(mixture, audits=() if study.mixtures[name].despite_audits else tuple(key.name for key in audits))


def _release_items(lineage: Lineage) -> Iterator[Item]:
    """Yield the configurations of the release."""
    waived = lineage.study.release.despite_audits if lineage.study.release else {}
    for name, components in lineage.study.released.items():
        audits = {component.name: audit_key(component) for component in components}
        needs = [*map(dataset_key, components), *audits.values()]
        item = _item(lineage, ItemKey(kind=keys.RELEASE, configuration=name), needs, release_artifact, lineage, name)
        yield replace(item, audits=tuple(key.name for dataset, key in audits.items() if dataset not in waived))


def _student_items(lineage: Lineage) -> Iterator[Item]:
    """Yield the students, from their first steps to the leaderboard."""
    study = lineage.study

    @cache
    def of_run(kind: keys.Kind, run: str) -> ItemKey:
        return ItemKey(kind=kind, run=run)

    mixture = cache(_mixture)
    inputs = {name: (mixture(run.mixture), TOKENIZER) for name, run in study.student_runs.items()}
    for name in study.rivals:
        yield _item(lineage, of_run(keys.EARLY_STUDENT, name), inputs[name], lineage.early, name)
    for name in study.rivals:
        student = of_run(keys.EARLY_STUDENT, name)
        yield _item(lineage, of_run(keys.EARLY_SCORES, name), (student,), lineage.early_scores, name)
    for name in study.pre_decay_runs:
        yield _item(lineage, of_run(keys.PRE_DECAY_CHECKPOINT, name), inputs[name], lineage.pre_decay_checkpoint, name)
    for name, run in study.student_runs.items():
        base = run.base.name if run.base else name
        begun = [of_run(keys.PRE_DECAY_CHECKPOINT, base)] if base in study.pre_decay_runs else []
        if rivals := study.rivals.get(name):
            begun = [
                of_run(keys.EARLY_STUDENT, name),
                *(of_run(keys.EARLY_SCORES, rival) for rival in rivals),
            ]
        yield _item(lineage, of_run(keys.CHECKPOINT, name), [*inputs[name], *begun], lineage.checkpoint, name)
    for name in study.student_runs:
        yield _item(lineage, of_run(keys.SCORES, name), (of_run(keys.CHECKPOINT, name),), lineage.scores, name)
    scores = [of_run(keys.SCORES, name) for name in study.student_runs]
    yield _item(lineage, ItemKey(kind=keys.LEADERBOARD), scores, lineage.leaderboard)


TOKENIZER = ItemKey(kind=keys.TOKENIZER)


def _corpus(name: str) -> ItemKey:
    return ItemKey(kind=keys.CORPUS, source=name)


def _model(name: str) -> ItemKey:
    return ItemKey(kind=keys.MODEL, generator=name)


def _mixture(name: str) -> ItemKey:
    return ItemKey(kind=keys.MIXTURE, mixture=name)


def state(item: Item) -> State:
    """Return whether the item's artifact is current, and if not, why."""
    try:
        artifact = item.artifact()
    except ArtifactMissing as error:
        return State(status="waiting", reasons=(str(error),))
    except StoppedEarly as error:
        return State(status="stopped", reasons=(str(error),))
    try:
        _ = artifact.facts
        return State(status="current")
    except NotMaterialized:
        earlier = labelled_manifest(item.labels / item.name)
    except ArtifactMissing as error:  # the file exists and is not a manifest of this recipe
        return State(status="missing", reasons=(str(error),))
    if earlier is None:
        return State(status="missing")
    changes = (change.partition(": ") for change in differences(earlier["recipe"], artifact.recipe))
    reasons = tuple(f"{FIELDS.get(field, field)}{colon}{change}" for field, colon, change in changes)
    return State(status="stale", reasons=reasons or ("its recipe",))


def ready(graph: Mapping[str, Item]) -> list[Item]:
    """Return the items that can be made now: missing or stale, all inputs current, and their audits passed."""
    able = []
    for item in graph.values():
        try:
            status = state(item).status
        except StudyError:  # the files of a source do not exist
            continue
        if status in ("missing", "stale") and all(_passed(graph[audit]) for audit in item.audits):
            able.append(item)
    return able


def failed_audits(item: Item, graph: Mapping[str, Item]) -> list[str]:
    """Return the names of the audits that did not pass and that an item cannot be made without."""
    return [audit for audit in item.audits if _passed(graph[audit]) is False]


def _passed(audit: Item) -> bool | None:
    """Return whether an audit passed; None if it is not current."""
    return (current_facts(audit) or {}).get("passed")


def states(graph: Mapping[str, Item]) -> dict[str, State]:
    """Return the state of every item; an item is not current if any of its inputs is not.

    Args:
        graph: items by name, upstream first; of a snapshot of the lineage, unless there are few.

    Returns:
        States without `waiting`: an item that was never made is `missing`, others are `stale` because of their
        inputs. A source whose files do not exist is `missing`, too.
    """
    collects = gc.isenabled()
    gc.disable()  # what is read stays in use, and looking for garbage in it would take a third of the time
    try:
        return dict(_states(graph))
    finally:
        if collects:
            gc.enable()


def _states(graph: Mapping[str, Item]) -> Iterator[tuple[str, State]]:
    by_name: dict[str, State] = {}
    for name, item in graph.items():
        try:
            own = state(item)
        except StudyError as error:  # the files of a source do not exist
            own = State(status="missing", reasons=(str(error),))
        if own.status == "waiting":
            inputs = {need: by_name[need].status for need in item.needs}
            reasons = [f"{need} is {status}" for need, status in inputs.items() if status not in ("current", "stopped")]
            made = (item.labels / name).exists()
            own = State(status="stale" if made else "missing", reasons=tuple(reasons) or own.reasons)
        by_name[name] = own
        yield name, own


def current_facts(item: Item) -> dict[str, Any] | None:
    """Return the facts of an item that is complete by the current recipe; None if it is not."""
    try:
        return item.artifact().facts
    except (ArtifactMissing, StoppedEarly, StudyError):
        return None
