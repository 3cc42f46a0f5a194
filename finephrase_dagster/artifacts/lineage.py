"""The lineage: every artifact of a study, each with the recipe that determines it.

A recipe holds the versions of its inputs, and a version is known only when the input is complete. Asking for an
artifact whose inputs are incomplete therefore raises `ArtifactMissing`, whose message names the input.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import LABELS, Artifact, file_stamps, labelled_manifest
from finephrase_dagster.artifacts.engine_flags import distribution_flags
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, plain, sha256_file, sha256_folders
from finephrase_dagster.artifacts.gate_model import model_identity
from finephrase_dagster.artifacts.key import (
    CHECKPOINT,
    CORPUS,
    EARLY_SCORES,
    EARLY_STUDENT,
    LEADERBOARD,
    MIXTURE,
    MODEL,
    PRE_DECAY_CHECKPOINT,
    SCORES,
    TOKENIZER,
    ItemKey,
    Kind,
    audit_key,
    dataset_key,
    tokens_key,
)
from finephrase_dagster.artifacts.part import Part, recorded_epochs
from finephrase_dagster.artifacts.recipe import (
    dataset_recipe,
    dropping_gates,
    resolve_day,
    resolve_precision,
    rollout_recipe,
    scorer_recipe,
    student_recipe,
)
from finephrase_dagster.artifacts.recorded import have_same_rows, recorded_dropped, recorded_fields, recorded_macro
from finephrase_dagster.artifacts.sampling import resolve_sampling
from finephrase_dagster.artifacts.snapshot import remembered
from finephrase_dagster.artifacts.versions import CODE
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.component import Cell, Component
from finephrase_dagster.study.fields import EMBEDDED, hub_reference
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.generator import PACKAGED
from finephrase_dagster.study.paths import Paths
from finephrase_dagster.study.prompt import Prompt, read_prompts
from finephrase_dagster.study.spec import Study
from finephrase_dagster.study.student import Evaluation, Mixture

HUB = "hub"


class StoppedEarly(FinephraseError):
    """The study's early stop ended this student run; the message gives its rank."""


class Lineage:
    """The artifacts of a study in one data folder. No recipe contains a name that a study chooses."""

    answers: dict[Any, Any] | None = None
    graph: tuple[Any, ...] | None = None  # its items, once they have been listed

    def __init__(self, *, study: Study, paths: Paths) -> None:
        self.study = study
        self.paths = paths
        files, requires = study.prompt_files, study.requires
        self.prompts: dict[str, Prompt] = read_prompts(paths.prompts, study.prompts, files, requires)

    def snapshot(self) -> Lineage:
        """Return the same lineage for many questions at once: it looks at each artifact once.

        `forget_missing` makes it look again for what did not exist.
        """
        if self.answers is not None:
            return self
        snapshot = copy.copy(self)
        snapshot.answers, snapshot.graph = {}, None
        return snapshot

    @cached_property
    def labels(self) -> Path:
        """The folder with a link from each item's name to its latest artifact."""
        return self.paths.data / LABELS / self.study.name

    def forget_missing(self) -> None:
        """Forget which artifacts of a snapshot did not exist."""
        known = self.answers or {}
        self.answers = {question: answer for question, answer in known.items() if not isinstance(answer, Exception)}

    @property
    def sequence(self) -> int:
        """Tokens per training sequence, of a study that trains."""
        assert self.study.sequence is not None
        return self.study.sequence

    @property
    def vocabulary(self) -> int:
        """Entries of the students' tokenizer; those of Llama 3.2 where the study does not train it."""
        return (self.study.tokenizer.vocabulary if self.study.tokenizer else None) or 128_256

    @property
    def evaluation(self) -> Evaluation:
        """The benchmark suite, of a study that trains."""
        assert self.study.evaluation is not None
        return self.study.evaluation

    def artifact(self, key: ItemKey, recipe: dict[str, Any]) -> Artifact:
        """Return the artifact of an item by a recipe, to which its stage and the version of its code are added."""
        recipe = {"stage": key.kind.code, "code": CODE[key.kind.code], **recipe}
        return Artifact(key=key, recipe=recipe, root=self.paths.data, study=self.study.name)

    def _artifact_of_run(self, kind: Kind, run: str, recipe: dict[str, Any]) -> Artifact:
        return self.artifact(ItemKey(kind=kind, run=run), recipe)

    @remembered
    def source(self, name: str) -> Artifact:
        """Return a corpus. Its recipe says what is read; its version is a hash of the rows alone.

        A limit that an earlier corpus did not reach, and this one would not, makes no other corpus.

        Raises:
            StudyError: the files of the source do not exist.
        """
        source = self.study.sources[name]
        try:
            artifact = self.artifact(
                ItemKey(kind=CORPUS, source=name), source.identity(requirements=self.paths.requirements)
            )
        except StudyError as error:
            raise StudyError(f"{self.paths.study}: sources.{name}: {error}") from error
        earlier = None if artifact.complete else labelled_manifest(self.labels / artifact.name)
        if earlier and have_same_rows(earlier, plain(artifact.recipe)):
            return replace(artifact, recipe=earlier["recipe"])
        return artifact

    @remembered
    def generator(self, name: str) -> Artifact:
        """Return a model that rephrases, ready on disk. Its version is a hash of its files' content."""
        spec = self.study.generators[name]
        recipe: dict[str, Any] = {"model": spec.model}
        if spec.is_packaged:
            recipe |= {"package": PACKAGED.package, "sha256": PACKAGED.sha256}
        elif hub_reference(spec.model) is None:  # wherever the folder is
            recipe = {"files": file_stamps(Path(spec.model))}
        return self.artifact(ItemKey(kind=MODEL, generator=name), recipe)

    @remembered
    def dataset(self, cell: Cell, prompt: str) -> Artifact:
        """Return the synthetic dataset of one prompt of a cell."""
        generator, model = resolve_precision(self.study.generators[cell.generator]), self.generator(cell.generator)
        check = self.prompts[prompt].check
        gates = self.study.gates_for(cell, prompt, check)
        recipe = dataset_recipe(
            rows=self.source(cell.source).version,
            prompt=self.prompts[prompt],
            model=model.version,
            engine=distribution_flags(generator.engine),
            sampling=resolve_sampling(generator.sampling, recorded_fields(model, "sampling")),
            context=generator.context,
            max_tokens=generator.max_tokens,
            guided=self.study.is_guided(cell),
            keep_raw=generator.keep_raw,
            endpoint_model=cell.generator if self.paths.endpoints else None,
            day=resolve_day(model.facts.get("clock"), generator.date, endpoints=bool(self.paths.endpoints)),
            rollouts=rollout_recipe(*self.study.rollouts_of(cell), check=check, gates=gates),
        )
        return self.artifact(dataset_key(cell.component(prompt)), recipe)

    @remembered
    def audit(self, cell: Cell, prompt: str) -> Artifact:
        """Return the audit of one synthetic dataset."""
        gates = self.gate_settings(cell, prompt)
        for name, own in gates.items():  # contents in place of paths
            if "items" in own:
                own["items"] = self._items_digests(own["items"] or EMBEDDED)
            if own.get("model"):
                own["model"] = model_identity(name, own["model"])
        recipe = {"dataset": self.dataset(cell, prompt).version, "check": self.prompts[prompt].check, "gates": gates}
        drops = self.dropping_gates(cell, prompt)
        return self.artifact(audit_key(cell.component(prompt)), recipe | ({"drops": drops} if drops else {}))

    def gate_settings(self, cell: Cell, prompt: str) -> dict[str, dict[str, Any]]:
        """Return the settings of every gate for a dataset; items are those of the study's evaluation by default."""
        gates = self.study.gates_for(cell, prompt, self.prompts[prompt].check)
        if evaluation := self.study.evaluation:
            tasks = ",".join(sorted(evaluation.tasks))
            chosen = {"items": evaluation.items, "tasks": tasks, "samples": evaluation.samples}
            for own in gates.values():
                if "items" in own and own["items"] is None:
                    own |= chosen
        return gates

    def dropping_gates(self, cell: Cell, prompt: str) -> list[str]:
        """Return the gates whose failing rows are dropped from the tokens; they cannot fail the dataset."""
        return dropping_gates(cell, self.study.gates_for(cell, prompt, self.prompts[prompt].check))

    @remembered
    def tokenizer(self) -> Artifact:
        """Return the students' tokenizer. Its version is a hash of its files' content."""
        spec = self.study.tokenizer
        assert spec is not None
        recipe: dict[str, Any] = {"model": spec.model}
        if spec.trained_here:
            recipe["vocabulary"] = spec.vocabulary
            recipe["texts"] = [self._rows_in_order(source) for source in spec.sources]
        elif hub_reference(spec.model) is None:
            files = sorted(Path(spec.model).glob("*token*.json"))
            recipe = {"files": [[file.name, sha256_file(file)] for file in files]}
        return self.artifact(ItemKey(kind=TOKENIZER), recipe)

    def component(self, component: Component) -> Artifact:
        """Return a dataset of a mixture: a corpus or a synthetic dataset."""
        if component.cell is None or component.prompt is None:
            return self.source(component.source)
        return self.dataset(self.study.cell(component.cell), component.prompt)

    def component_audit(self, component: Component) -> Artifact | None:
        """Return the audit of a dataset of a mixture; None for a corpus, which has no audit."""
        if component.cell is None or component.prompt is None:
            return None
        return self.audit(self.study.cell(component.cell), component.prompt)

    @remembered
    def tokens(self, component: Component) -> Artifact:
        """Return the tokens of a dataset of a mixture."""
        is_corpus = component.generator is None
        rows = self._rows_in_order(component.source) if is_corpus else self.component(component).version
        recipe: dict[str, Any] = {"dataset": rows, "tokenizer": self.tokenizer().version}
        recipe |= {"shuffled": True} if component.shuffled else {}
        return self.artifact(tokens_key(component), recipe | recorded_dropped(self.component_audit(component)))

    @remembered
    def parts(self, mixture: str) -> dict[str, Part]:
        """Return the components of a mixture by the version of their tokens, sorted; equal datasets are one."""
        parts: dict[str, Part] = {}
        for name, weight in self.study.mixtures[mixture].weights.items():
            component = self.study.components(mixture)[name]
            tokens, audit = self.tokens(component), self.component_audit(component)
            failed = audit is not None and audit.facts.get("passed") is False
            part = Part(name=name, weight=weight, tokens=tokens, audit=audit.version if audit else None, failed=failed)
            if equal := parts.get(tokens.version):
                part = replace(equal, name=f"{equal.name}, {name}", weight=equal.weight + weight)
            parts[tokens.version] = part
        return dict(sorted(parts.items()))

    @remembered
    def mixture_spec(self, name: str) -> Mixture:
        """Return a mixture with the versions of its components' tokens, and with its epochs as a number."""
        mixture = self.study.mixtures[name]
        update: dict[str, Any] = {"components": {version: part.weight for version, part in self.parts(name).items()}}
        if other := mixture.match_epochs_of:
            epochs = recorded_epochs(self.mixture_spec(other), self.parts(other), self.sequence)
            update |= {"match_epochs_of": None, "epochs": epochs}
        return mixture.model_copy(update=update)

    @remembered
    def mixture(self, name: str) -> Artifact:
        """Return a mixture of datasets."""
        mixture = self.mixture_spec(name)
        despite = bool(mixture.despite_audits)
        recipe = {
            "components": {version: part.recipe(despite) for version, part in self.parts(name).items()},
            "tokens": mixture.tokens,
            "seed": mixture.seed,
            "sequence": self.sequence,
            **({} if mixture.epochs is None else {"epochs": mixture.epochs}),
        }
        return self.artifact(ItemKey(kind=MIXTURE, mixture=name), recipe)

    def mixture_manifest(self, name: str) -> dict[str, Any]:
        """Return the manifest of a mixture, with the names that the study gives its components now."""
        manifest, parts = self.mixture(name).manifest(), self.parts(name)
        for component in manifest["components"]:
            component["name"] = parts[component["version"]].name
        return manifest

    @remembered
    def checkpoint(self, run: str) -> Artifact:
        """Return the trained student of a run.

        Raises:
            StoppedEarly: the study's early stop ended the run.
        """
        self._refuse_if_stopped(run)
        base = self.study.student_runs[run].base
        decay = {"decay_from": self.pre_decay_checkpoint(base.name).version} if base else {}
        return self._artifact_of_run(CHECKPOINT, run, {**self._run(run), **decay})

    @remembered
    def early(self, run: str) -> Artifact:
        """Return a student at the step at which it is compared with others."""
        assert self.study.early_stop is not None
        return self._artifact_of_run(EARLY_STUDENT, run, {**self._run(run), "until": self.study.early_stop.step})

    @remembered
    def early_scores(self, run: str) -> Artifact:
        """Return the scores that decide whether a student is trained further."""
        return self._artifact_of_run(EARLY_SCORES, run, self._suite(self.early(run)))

    @remembered
    def rank(self, run: str) -> tuple[int, int]:
        """Return a run's rank among the runs it is compared with early, from 1, and how many of them continue.

        Raises:
            ArtifactMissing: not all of these runs have been scored.
        """
        assert self.study.early_stop is not None
        rivals = self.study.rivals[run]
        macro = {rival: recorded_macro(self.early_scores(rival), self.evaluation.held_out) for rival in rivals}
        order = sorted(rivals, key=lambda rival: (-macro[rival], rival))
        return order.index(run) + 1, self.study.early_stop.going_on(len(rivals))

    def finishing_runs(self) -> list[str]:
        """Return the runs that are trained to their end.

        Raises:
            ArtifactMissing: the early stop is still undecided.
        """
        return [run for run in self.study.student_runs if run not in self.study.rivals or self._continues(run)]

    def _continues(self, run: str) -> bool:
        rank, survivors = self.rank(run)
        return rank <= survivors

    def _refuse_if_stopped(self, run: str) -> None:
        if run in self.study.rivals and not self._continues(run):
            rank, survivors = self.rank(run)
            assert self.study.early_stop is not None
            raise StoppedEarly(
                f"{run} was stopped at step {self.study.early_stop.step}: its macro score is number {rank} of "
                f"{len(self.study.rivals[run])}, and only the best {survivors} continue"
            )

    @remembered
    def pre_decay_checkpoint(self, run: str) -> Artifact:
        """Return a student before its learning rate decays, for a run that others decay from."""
        return self._artifact_of_run(PRE_DECAY_CHECKPOINT, run, {**self._run(run), "until": "decay"})

    def _run(self, run: str) -> dict[str, Any]:
        student_run = self.study.student_runs[run]
        return {
            "mixture": self.mixture(student_run.mixture).version,
            **student_recipe(self.study.students[student_run.student], self.study.trainer),
            "seeds": student_run.seeds.model_dump(mode="json"),
            "sequence": self.sequence,
            "tokenizer": self.tokenizer().version,
            **({"keep_steps": self.evaluation.every} if self.evaluation.every else {}),
        }

    @remembered
    def scores(self, run: str) -> Artifact:
        """Return a student's benchmark scores."""
        every = {"every": self.evaluation.every} if self.evaluation.every else {}
        return self._artifact_of_run(SCORES, run, {**self._suite(self.checkpoint(run)), **every})

    def _suite(self, checkpoint: Artifact) -> dict[str, Any]:
        """Everything that determines a model's scores."""
        return {
            "checkpoint": checkpoint.version,
            "tasks": sorted(self.evaluation.tasks),
            "shots": self.evaluation.shots,
            "samples": self.evaluation.samples,
            **scorer_recipe(self.evaluation),
            "items": self._items_digests(self.evaluation.items),
        }

    @remembered
    def leaderboard(self) -> Artifact:
        """Return the comparison of all student runs."""
        scores = {run: self.scores(run).version for run in self.finishing_runs()}
        parts = {run: self.study.components(self.study.student_runs[run].mixture) for run in scores}
        corpora = {run: sorted(part for part in some if part in self.study.sources) for run, some in parts.items()}
        checks = {name: one.origin for name, one in self.study.mixtures.items() if one.origin}
        further = {"checks": checks, "held_out": sorted(self.evaluation.held_out)}
        recipe = {"scores": scores, "corpora": corpora, **{name: value for name, value in further.items() if value}}
        return self.artifact(ItemKey(kind=LEADERBOARD), recipe)

    def _rows_in_order(self, source: str) -> str:
        """Return a hash of the corpus's rows in order. Tokens, and models trained on them, depend on row order."""
        corpus = self.source(source)
        return fingerprint([corpus.version, corpus.facts.get("order")])[:SHORT]

    @remembered
    def _items_digests(self, items: str) -> str | dict[str, str]:
        """Return the hash of the items of each benchmark, by folder; `hub` for the original datasets."""
        if items == HUB:  # datasets and revisions are fixed in the code, so its version covers them
            return HUB
        return sha256_folders(self.paths.items if items == EMBEDDED else Path(items))
