"""The lineage: every artifact of a study, each with the recipe that determines it.

A recipe names what is upstream by version, and a version is known only once the upstream artifact is
complete: so an artifact whose inputs are not there yet cannot be named, and asking for it raises
`ArtifactMissing`, which tells what is missing. What is not here: how anything is made.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from finephrase_dagster.study.artifact import MANIFEST, Artifact, ArtifactMissing
from finephrase_dagster.study.fields import EMBEDDED
from finephrase_dagster.study.file import StudyError, read_study
from finephrase_dagster.study.fingerprint import SHORT, differences, fingerprint, sha256_file
from finephrase_dagster.study.places import Places
from finephrase_dagster.study.prompt import Prompt, read_prompts
from finephrase_dagster.study.recipe import dataset_recipe
from finephrase_dagster.study.source import EmbeddedSource, FilesSource
from finephrase_dagster.study.spec import Cell, Study
from finephrase_dagster.study.versions import CODE

STAGES = ("sources", "generators", "synthetic", "audits", "tokens", "mixtures", "training", "evaluation")
"""The stages that make artifacts, in the order in which data flows."""

Status = Literal["current", "stale", "missing", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One partition of one asset of the graph, and how to name its artifact.

    Attributes:
        stage: one of `STAGES`.
        asset: the asset's path, such as `mixtures/mixture`.
        partition: its partition key; None where the asset has none.
        artifact: names the artifact; raises `ArtifactMissing` while an input is missing.
    """

    stage: str
    asset: str
    partition: str | None
    artifact: Callable[[], Artifact]

    @property
    def name(self) -> str:
        return f"{self.asset}/{self.partition}" if self.partition else self.asset


@dataclass(frozen=True, kw_only=True)
class State:
    """Whether an item's artifact is there, and why not.

    `current`: complete, by the recipe of today. `stale`: there, but by another recipe. `missing`: not
    there, though its inputs are. `waiting`: an input is not there.
    """

    status: Status
    reasons: tuple[str, ...] = ()


class Lineage:
    """The artifacts of a study in an installation."""

    def __init__(self, *, study: Study, places: Places) -> None:
        self.study = study
        self.places = places
        self.prompts: dict[str, Prompt] = read_prompts(places.prompts, study.prompts)
        if not self._items.is_dir():
            raise StudyError(
                f"study {places.study}: evaluation.items: there is no folder {self._items}; correct the path, or write "
                "'embedded'"
            )

    @classmethod
    def read(cls, places: Places) -> Lineage:
        """The lineage of the study file that `places` names.

        Raises:
            StudyError, PromptError: the study file or one of its prompts is wrong.
        """
        return cls(study=read_study(places.study), places=places)

    def _artifact(self, stage: str, asset: str, partition: str | None, recipe: dict[str, Any]) -> Artifact:
        whole = {"stage": stage, "code": CODE[stage], **recipe}
        return Artifact(asset=asset, partition=partition, recipe=whole, root=self.places.data)

    def source(self, name: str) -> Artifact:
        """A corpus, named by what is read. Downstream recipes name it by its rows alone."""
        source = self.study.sources[name]
        recipe: dict[str, Any] = {"source": name, "read": source.identity}
        if isinstance(source, EmbeddedSource) and source.corpus == "package_readmes":
            recipe["list"] = sha256_file(self.places.requirements)
        if isinstance(source, FilesSource):
            recipe["files"] = [
                [path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in input_files(source)
            ]
        return self._artifact("sources", "sources/corpus", name, recipe)

    def generator(self, name: str) -> Artifact:
        """The model that rephrases, ready on disk. Downstream recipes name it by its files' content."""
        spec = self.study.generators[name]
        recipe: dict[str, Any] = {"model": spec.model}
        if spec.model == EMBEDDED and spec.embedded is not None:
            recipe |= {
                "training": spec.embedded,
                "context": spec.context,
                "texts": {source: self._rows_in_order(source) for source in spec.embedded.sources},
            }
        elif not self._on_hub(spec.model):
            folder = Path(spec.model)
            recipe["files"] = [
                [path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(folder.glob("*"))
            ]
        return self._artifact("generators", "generators/model", name, recipe)

    def dataset(self, cell: Cell, prompt: str) -> Artifact:
        """A synthetic dataset: one prompt of one cell."""
        generator = self.study.generators[cell.generator]
        model = self.generator(cell.generator)
        recipe = dataset_recipe(
            rows=self.source(cell.source).version,
            prompt=self.prompts[prompt],
            model=model.version,
            engine=generator.distribution_flags,
            sampling={**model.manifest()["sampling"], **generator.sampling.model_dump(exclude_none=True)},
            context=generator.context,
            max_tokens=generator.max_tokens,
            keep_raw=generator.keep_raw,
        )
        return self._artifact("synthetic", f"synthetic/{cell.name}", prompt, {**recipe, "source": cell.source})

    def audit(self, cell: Cell, prompt: str) -> Artifact:
        """The gates over one synthetic dataset."""
        recipe = {
            "dataset": self.dataset(cell, prompt).version,
            "format": self.prompts[prompt].format,
            "gates": self.study.gates,
        }
        return self._artifact("audits", f"audits/{cell.name}_audit", prompt, recipe)

    def tokenizer(self) -> Artifact:
        """The students' tokenizer. Downstream recipes name it by its content."""
        spec = self.study.tokenizer
        recipe: dict[str, Any] = {"model": spec.model}
        if spec.model == EMBEDDED:
            recipe["vocabulary"] = spec.vocabulary
            recipe["texts"] = {source: self._rows_in_order(source) for source in spec.sources}
        elif not self._on_hub(spec.model):
            files = sorted(Path(spec.model).glob("*token*.json"))
            recipe["files"] = [[file.name, sha256_file(file)] for file in files]
        return self._artifact("tokens", "tokens/tokenizer", None, recipe)

    def tokens(self, dataset: str) -> Artifact:
        """A dataset's tokens; `dataset` as a mixture names it."""
        upstream = self._dataset_named(dataset)
        asset, _, partition = upstream.name.rpartition("/")
        name = "corpus" if asset == "sources/corpus" else asset.removeprefix("synthetic/")
        rows = self._rows_in_order(dataset) if asset == "sources/corpus" else upstream.version
        recipe = {"dataset": rows, "tokenizer": self.tokenizer().version}
        return self._artifact("tokens", f"tokens/{name}_tokens", partition, recipe)

    def mixture(self, name: str) -> Artifact:
        """A mixture of datasets whose audits have passed."""
        mixture = self.study.mixtures[name]
        recipe = {
            "components": {
                component: {
                    "weight": weight,
                    "tokens": self.tokens(component).version,
                    "audit": audit.version if (audit := self.audit_named(component)) else None,
                }
                for component, weight in mixture.weights.items()
            },
            "tokens": mixture.tokens,
            "seed": mixture.seed,
            "sequence": self.study.sequence,
        }
        return self._artifact("mixtures", "mixtures/mixture", name, recipe)

    def checkpoint(self, run: str) -> Artifact:
        """A student, trained."""
        student_run = self.study.student_runs[run]
        recipe = {
            "mixture": self.mixture(student_run.mixture).version,
            "student": self.study.students[student_run.student],
            "seeds": student_run.seeds,
            "sequence": self.study.sequence,
            "tokenizer": self.tokenizer().version,
        }
        return self._artifact("training", "training/checkpoint", run, recipe)

    def scores(self, run: str) -> Artifact:
        """A student's benchmark scores."""
        recipe = {
            "checkpoint": self.checkpoint(run).version,
            "tasks": self.study.evaluation.tasks,
            "shots": self.study.evaluation.shots,
            "samples": self.study.evaluation.samples,
            "items": self._items_digest,
        }
        return self._artifact("evaluation", "evaluation/benchmark_scores", run, recipe)

    def leaderboard(self) -> Artifact:
        """The comparison of all student runs."""
        scores = {run: self.scores(run).version for run in self.study.student_runs}
        return self._artifact("leaderboard", "evaluation/leaderboard", None, {"scores": scores})

    def audit_named(self, dataset: str) -> Artifact | None:
        """The audit of a dataset as a mixture names it; None for a source, which has none."""
        cell, _, prompt = dataset.partition("/")
        return self.audit(self.study.cell(cell), prompt) if prompt else None

    def items(self) -> Iterator[Item]:
        """Every partition of every asset, upstream first."""
        study = self.study
        for name in study.sources:
            yield self._item("sources", "sources/corpus", name, self.source, name)
        for name in study.generators:
            yield self._item("generators", "generators/model", name, self.generator, name)
        for cell in study.cells:
            for prompt in study.prompts_of(cell):
                yield self._item("synthetic", f"synthetic/{cell.name}", prompt, self.dataset, cell, prompt)
        for cell in study.cells:
            for prompt in study.prompts_of(cell):
                yield self._item("audits", f"audits/{cell.name}_audit", prompt, self.audit, cell, prompt)
        yield self._item("tokens", "tokens/tokenizer", None, self.tokenizer)
        for dataset in study.datasets:
            cell_name, _, prompt = dataset.partition("/")
            asset = f"tokens/{cell_name if prompt else 'corpus'}_tokens"
            yield self._item("tokens", asset, prompt or dataset, self.tokens, dataset)
        for name in study.mixtures:
            yield self._item("mixtures", "mixtures/mixture", name, self.mixture, name)
        for run in study.student_runs:
            yield self._item("training", "training/checkpoint", run, self.checkpoint, run)
        for run in study.student_runs:
            yield self._item("evaluation", "evaluation/benchmark_scores", run, self.scores, run)
        yield self._item("evaluation", "evaluation/leaderboard", None, self.leaderboard)

    def state(self, item: Item) -> State:
        """Whether the item's artifact is current, and if not, why."""
        try:
            artifact = item.artifact()
        except ArtifactMissing as error:
            return State(status="waiting", reasons=(str(error),))
        if artifact.complete:
            return State(status="current")
        earlier = _latest_recipe(artifact.folder.parent)
        if earlier is None:
            return State(status="missing")
        return State(status="stale", reasons=tuple(differences(earlier, artifact.recipe)))

    @staticmethod
    def _item(stage: str, asset: str, partition: str | None, name: Callable[..., Artifact], *key: Any) -> Item:
        return Item(stage=stage, asset=asset, partition=partition, artifact=lambda: name(*key))

    def _dataset_named(self, dataset: str) -> Artifact:
        cell, _, prompt = dataset.partition("/")
        return self.dataset(self.study.cell(cell), prompt) if prompt else self.source(dataset)

    def _rows_in_order(self, source: str) -> str:
        """A corpus by its rows and their order, on which tokens and what is trained on them depend."""
        corpus = self.source(source)
        return fingerprint([corpus.version, corpus.manifest().get("order")])[:SHORT]

    @staticmethod
    def _on_hub(model: str) -> bool:
        return "@" in model and not model.startswith(("/", "."))

    @property
    def _items(self) -> Path:
        items = self.study.evaluation.items
        return self.places.items if items == EMBEDDED else Path(items)

    @cached_property
    def _items_digest(self) -> str:
        folder = self._items
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return fingerprint([[str(path.relative_to(folder)), sha256_file(path)] for path in files])


def input_files(source: FilesSource) -> list[Path]:
    """The files that a source's patterns name, sorted.

    Raises:
        StudyError: a pattern matches nothing.
    """
    found: list[Path] = []
    for pattern in source.paths:
        matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns
        if not matches:
            raise StudyError(f"source path {pattern}: no file matches; correct `paths` in the study file")
        found += matches
    return sorted(set(found))


def _latest_recipe(folder: Path) -> dict[str, Any] | None:
    manifests = sorted(folder.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime)
    if not manifests:
        return None
    try:
        return json.loads(manifests[-1].read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError):
        return None
