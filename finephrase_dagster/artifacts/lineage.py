"""The lineage: every artifact of a study, each with the recipe that determines it.

A recipe names what is upstream by version, and a version is known only once the upstream artifact is
complete: so an artifact whose inputs are not there yet cannot be named, and asking for it raises
`ArtifactMissing`, which tells what is missing. What is not here: how anything is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, sha256_file
from finephrase_dagster.artifacts.inputs import described, input_files
from finephrase_dagster.artifacts.recipe import dataset_recipe
from finephrase_dagster.artifacts.versions import CODE
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.fields import EMBEDDED
from finephrase_dagster.study.file import StudyError, read_study
from finephrase_dagster.study.paths import Paths
from finephrase_dagster.study.prompt import Prompt, read_prompts
from finephrase_dagster.study.source import EmbeddedSource, FilesSource
from finephrase_dagster.study.spec import Cell, Evaluation, Study, task_folder

HUB = "hub"


class StoppedEarly(FinephraseError):
    """A run that the study's early stop ended; the message says by which score."""


class Lineage:
    """The artifacts of a study in an installation."""

    def __init__(self, *, study: Study, paths: Paths) -> None:
        self.study = study
        self.paths = paths
        self.prompts: dict[str, Prompt] = read_prompts(paths.prompts, study.prompts)
        if study.evaluation is not None and study.evaluation.items != HUB:
            self._check_items(study.evaluation.tasks)

    @classmethod
    def read(cls, paths: Paths) -> Lineage:
        """The lineage of the study file that `paths` names.

        Raises:
            StudyError, PromptError: the study file or one of its prompts is wrong.
        """
        return cls(study=read_study(paths.study, prompts=paths.prompts), paths=paths)

    def _check_items(self, tasks: Iterable[str]) -> None:
        where = f"study {self.paths.study}: evaluation.items:"
        if not self._items.is_dir():
            raise StudyError(
                f"{where} there is no folder {self._items}; correct the path, or write 'embedded' or 'hub'"
            )
        missing = [folder for task in tasks if not (self._items / (folder := task_folder(task))).is_dir()]
        if missing:
            raise StudyError(
                f"{where} {self._items} has no {', '.join(missing)}; put the items of each task there, or take it "
                "out of 'tasks'"
            )

    @property
    def sequence(self) -> int:
        """Tokens a training sequence, of a study that trains."""
        assert self.study.sequence is not None
        return self.study.sequence

    @property
    def evaluation(self) -> Evaluation:
        """The benchmark suite, of a study that trains."""
        assert self.study.evaluation is not None
        return self.study.evaluation

    def _artifact(self, stage: str, asset: str, partition: str | None, recipe: dict[str, Any]) -> Artifact:
        whole = {"stage": stage, "code": CODE[stage], **recipe}
        return Artifact(asset=asset, partition=partition, recipe=whole, root=self.paths.data)

    def source(self, name: str) -> Artifact:
        """A corpus, named by what is read. Downstream recipes name it by its rows alone."""
        source = self.study.sources[name]
        recipe: dict[str, Any] = {"source": name, "read": source.identity}
        if isinstance(source, EmbeddedSource) and source.corpus == "package_readmes":
            recipe["list"] = sha256_file(self.paths.requirements)
        if isinstance(source, FilesSource):
            recipe["files"] = described(input_files(source.paths))
        return self._artifact("sources", "sources/corpus", name, recipe)

    def generator(self, name: str) -> Artifact:
        """The model that rephrases, ready on disk. Downstream recipes name it by its files' content."""
        spec = self.study.generators[name]
        recipe: dict[str, Any] = {"model": spec.model}
        if spec.trained_here and spec.embedded is not None:
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
            sampling={**_said(model, "sampling"), **generator.sampling.model_dump(exclude_none=True)},
            context=generator.context,
            max_tokens=generator.max_tokens,
            keep_raw=generator.keep_raw,
        )
        return self._artifact("synthetic", f"synthetic/{cell.name}", prompt, {**recipe, "source": cell.source})

    def audit(self, cell: Cell, prompt: str) -> Artifact:
        """The gates over one synthetic dataset."""
        recipe = {
            "dataset": self.dataset(cell, prompt).version,
            "check": self.prompts[prompt].check,
            "gates": self.study.gates,
        }
        return self._artifact("audits", f"audits/{cell.name}_audit", prompt, recipe)

    def tokenizer(self) -> Artifact:
        """The students' tokenizer. Downstream recipes name it by its content."""
        spec = self.study.tokenizer
        assert spec is not None
        recipe: dict[str, Any] = {"model": spec.model}
        if spec.trained_here:
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
            "sequence": self.sequence,
        }
        return self._artifact("mixtures", "mixtures/mixture", name, recipe)

    def checkpoint(self, run: str) -> Artifact:
        """A student, trained."""
        self._refuse_if_stopped(run)
        base = self.study.student_runs[run].base
        decay = {"decay_from": self.pre_decay_checkpoint(base.name).version} if base else {}
        return self._artifact("training", "training/checkpoint", run, {**self._run(run), **decay})

    def early(self, run: str) -> Artifact:
        """A student at the step at which it is compared with others."""
        assert self.study.early_stop is not None
        return self._artifact("training", "early/student", run, {**self._run(run), "until": self.study.early_stop.step})

    def early_scores(self, run: str) -> Artifact:
        """The scores by which it is decided whether a student goes on."""
        recipe = {"checkpoint": self.early(run).version, **self._suite()}
        return self._artifact("evaluation", "early/scores", run, recipe)

    def rank(self, run: str) -> tuple[int, int]:
        """A run's place among those that it is compared with early, from 1, and how many of them go on.

        Raises:
            ArtifactMissing: not all of them have been scored.
        """
        assert self.study.early_stop is not None
        rivals = self.study.rivals[run]
        macro = {rival: _macro(self.early_scores(rival)) for rival in rivals}
        order = sorted(rivals, key=lambda rival: (-macro[rival], rival))
        return order.index(run) + 1, self.study.early_stop.going_on(len(rivals))

    def finishing_runs(self) -> list[str]:
        """The runs that are trained to their end.

        Raises:
            ArtifactMissing: it is not decided yet.
        """
        return [run for run in self.study.student_runs if run not in self.study.rivals or self._goes_on(run)]

    def _goes_on(self, run: str) -> bool:
        place, going_on = self.rank(run)
        return place <= going_on

    def _refuse_if_stopped(self, run: str) -> None:
        if run in self.study.rivals and not self._goes_on(run):
            place, going_on = self.rank(run)
            assert self.study.early_stop is not None
            raise StoppedEarly(
                f"{run} was stopped at step {self.study.early_stop.step}: its macro score is number {place} of "
                f"{len(self.study.rivals[run])}, and {going_on} go on"
            )

    def pre_decay_checkpoint(self, run: str) -> Artifact:
        """A student before its learning rate decays, of a run that others decay from."""
        return self._artifact("training", "training/pre_decay_checkpoint", run, {**self._run(run), "until": "decay"})

    def _run(self, run: str) -> dict[str, Any]:
        student_run = self.study.student_runs[run]
        return {
            "mixture": self.mixture(student_run.mixture).version,
            "student": self.study.students[student_run.student],
            "seeds": student_run.seeds,
            "sequence": self.sequence,
            "tokenizer": self.tokenizer().version,
            # Its data come in another order, its numbers from other kernels.
            **({"trainer": self.study.trainer} if self.study.trainer != "transformers" else {}),
            **({"keep_steps": self.evaluation.every} if self.evaluation.every else {}),
        }

    def scores(self, run: str) -> Artifact:
        """A student's benchmark scores."""
        evaluation = self.evaluation
        recipe = {
            "checkpoint": self.checkpoint(run).version,
            **self._suite(),
            **({"every": evaluation.every} if evaluation.every else {}),
        }
        return self._artifact("evaluation", "evaluation/benchmark_scores", run, recipe)

    def _suite(self) -> dict[str, Any]:
        """What determines scores, but for the model."""
        evaluation = self.evaluation
        return {
            "tasks": evaluation.tasks,
            "shots": evaluation.shots,
            "samples": evaluation.samples,
            **({"backend": evaluation.backend} if evaluation.backend != "transformers" else {}),
            "items": self._items_digest,
        }

    def leaderboard(self) -> Artifact:
        """The comparison of all student runs."""
        scores = {run: self.scores(run).version for run in self.finishing_runs()}
        return self._artifact("leaderboard", "evaluation/leaderboard", None, {"scores": scores})

    def audit_named(self, dataset: str) -> Artifact | None:
        """The audit of a dataset as a mixture names it; None for a source, which has none."""
        cell, _, prompt = dataset.partition("/")
        return self.audit(self.study.cell(cell), prompt) if prompt else None

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
        items = self.evaluation.items
        return self.paths.items if items == EMBEDDED else Path(items)

    @cached_property
    def _items_digest(self) -> str:
        if self.evaluation.items == HUB:  # which datasets, at which revision, belongs to the code's version
            return HUB
        folder = self._items
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return fingerprint([[str(path.relative_to(folder)), sha256_file(path)] for path in files])


def _said(artifact: Artifact, name: str) -> dict[str, Any]:
    """The fields that a manifest holds under a name.

    Raises:
        ArtifactMissing: it holds none.
    """
    fields = artifact.manifest().get(name)
    if not isinstance(fields, dict):
        raise ArtifactMissing(f"{artifact.folder}: its manifest has no {name!r}: delete the folder")
    return fields


def _macro(scores: Artifact) -> float:
    """The macro score of a manifest.

    Raises:
        ArtifactMissing: it has none.
    """
    macro = scores.manifest().get("macro")
    if isinstance(macro, bool) or not isinstance(macro, int | float) or not math.isfinite(macro):
        raise ArtifactMissing(f"{scores.folder}: its manifest has no macro score: delete the folder")
    return macro
