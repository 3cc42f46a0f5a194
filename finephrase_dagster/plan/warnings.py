"""Warnings of a plan: what a person should know before starting a study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from finephrase_dagster.artifacts import recorded
from finephrase_dagster.artifacts.graph import Item, State, current_facts
from finephrase_dagster.artifacts.key import AUDIT, MIXTURE
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.provenance import other_versions
from finephrase_dagster.corpora.kinds.hub import HubSource
from finephrase_dagster.evaluate.categories import partial_words, unscored_tasks
from finephrase_dagster.plan.published import Published
from finephrase_dagster.study.fields import EMBEDDED, hub_reference
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.spec import Study

BRANCHES = ("main", "master")


def failed_gates(item: Item) -> str | None:
    """Return the blocking gates that a complete audit did not pass, with value and threshold; None for other items."""
    if item.key.kind is not AUDIT or (current_facts(item) or {}).get("passed") is not False:
        return None
    return "; ".join(recorded.failed_gates(item.artifact().manifest()).values()) or "its gates"


def failed_audit_warnings(graph: Mapping[str, Item], states: Mapping[str, State]) -> Iterator[str]:
    """Yield a warning for each failed audit, with what cannot be made because of it."""
    for name, item in graph.items():
        if states[name].status != "current" or (failed := failed_gates(item)) is None:
            continue
        downstream = {name}
        for other in graph.values():  # upstream first
            if name in other.audits or (downstream - {name}) & set(other.needs):
                downstream.add(other.name)
        mixtures = sorted(other for other in downstream if graph[other].key.kind is MIXTURE)
        if not mixtures and any(name in other.needs and not other.audits for other in graph.values()):
            continue  # all that use the dataset do so despite its audit
        yield (
            f"{name}: did not pass ({failed}); {', '.join(mixtures) or 'nothing'} and "
            f"{len(downstream) - len(mixtures) - 1} partitions downstream cannot be made. Change the prompt, the "
            "generator, the gate or the cell's 'on_failure', or state a reason in the mixture's 'despite_audits'"
        )


def version_warnings(graph: Mapping[str, Item], states: Mapping[str, State]) -> Iterator[str]:
    """Yield a warning for each set of libraries that has changed since artifacts were made with it."""
    changed: dict[str, list[str]] = {}
    for name, item in graph.items():
        facts = current_facts(item) if states[name].status == "current" else None
        if others := other_versions(item.key.kind.code, (facts or {}).get("made_with", ())):
            changed.setdefault(", ".join(others), []).append(name)
    for libraries, names in changed.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield f"{names[0]}{more}: made with {libraries}; they stay current, delete their folders to make them again"


def study_warnings(lineage: Lineage, published: Published, *, gpus: int) -> Iterator[str]:
    """Yield warnings about the study itself: moving revisions, missing folders, settings without effect."""
    study = lineage.study
    moving = [f"generators.{name}" for name, spec in study.generators.items() if _is_moving(spec)]
    moving += [
        f"sources.{name}"
        for name, spec in study.sources.items()
        if isinstance(spec, HubSource) and spec.revision in BRANCHES
    ]
    if moving:
        yield f"{', '.join(moving)}: a branch may move; name a commit instead before paying for anything"
    yield from _early_stop_warnings(study, published)
    every = study.evaluation.every if study.evaluation else None
    if every and all(study.steps(run) <= every for run in study.student_runs):
        yield f"evaluation.every: no run has more than {every} steps; reduce it, or remove it"
    if study.evaluation and (words := partial_words(unscored_tasks(study.evaluation.tasks))):
        yield f"evaluation.tasks: {words}"
    if study.tokenizer and _is_missing_folder(study.tokenizer.model):
        yield f"tokenizer: the folder {study.tokenizer.model} does not exist; add the tokenizer or correct the path"
    for name, generator in study.generators.items():
        if _is_missing_folder(generator.model):
            yield f"generators.{name}: the folder {generator.model} does not exist; add the model or correct the path"
        if generator.gpus > gpus and not generator.is_packaged:
            yield f"generators.{name}: an engine needs {generator.gpus} GPUs, and the plan has {gpus}"


def _early_stop_warnings(study: Study, published: Published) -> Iterator[str]:
    """Yield what an early stop does, and what it would have cost the published study."""
    stop = study.early_stop
    if stop is None:
        return
    if not study.rivals:
        yield (
            "early_stop: compares no runs: no two runs have the same student, budget and seeds, runs that others "
            "decay from aside"
        )
        return
    survivors = sum(stop.going_on(len(group)) for group in study.compared_early.values())
    figure = published.early(stop.step / min(study.steps(run) for run in study.rivals), stop.keep)
    effect = "no published figure is as early and as strict"
    if figure:
        effect = (
            f"in the published study this would have cost {figure.regret:.4f} macro score on average, at "
            f"{100 * figure.part:g} % of the training (rank correlation {figure.rank_correlation:.2f})"
        )
    yield f"early_stop: {survivors} of {len(study.rivals)} students continue after step {stop.step}; {effect}"


def _is_moving(generator: Generator) -> bool:
    reference = hub_reference(generator.model)
    return reference is not None and reference.revision in BRANCHES


def _is_missing_folder(model: str) -> bool:
    return model != EMBEDDED and hub_reference(model) is None and not Path(model).is_dir()
