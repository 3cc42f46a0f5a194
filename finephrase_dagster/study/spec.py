"""The spec of a study: what is computed, and nothing about where or how it runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, model_validator

from finephrase_dagster.study.catalogue import (
    Gates,
    catalogue_of,
    complete_gates,
    settings_for,
)
from finephrase_dagster.study.component import Cell, Component, Release
from finephrase_dagster.study.fields import (
    LARGEST_GRID,
    MISSING,
    InvalidFields,
    Name,
    Problem,
    Spec,
    no_such_name,
    repeated,
    repetitions,
    shorten,
    unknown_names,
)
from finephrase_dagster.study.generator import REGENERATED, Generator, Keep
from finephrase_dagster.study.grid import equal_replicates, matching, wrong_mixtures
from finephrase_dagster.study.prompt import Requires
from finephrase_dagster.study.source import SourceSpec
from finephrase_dagster.study.student import (
    EarlyStop,
    Evaluation,
    Mixture,
    RunGrid,
    Seeds,
    Student,
    StudentRun,
    Tokenizer,
)


def _validate_source(value: Any, info: ValidationInfo) -> Any:
    """Validate a source's fields as the class of its `kind`; pydantic refuses what is not a set of fields."""
    if not isinstance(value, Mapping):
        return value
    kinds = catalogue_of(info).source_kinds
    if "kind" not in value:
        raise InvalidFields([Problem(("kind",), MISSING)])
    if not isinstance(value["kind"], str) or value["kind"] not in kinds:
        raise InvalidFields([Problem(("kind",), no_such_name(value["kind"], kinds))])
    return kinds[value["kind"]].model_validate(value, context=info.context)


Source = Annotated[SerializeAsAny[SourceSpec], BeforeValidator(_validate_source)]
"""A source of any kind in the catalogue."""


class Study(Spec):
    """A complete study. Without mixtures it ends with the audits: a production run."""

    name: Name = Field(description="the name of the study", examples=["my_study"])
    description: str = Field(
        min_length=1, description="the question that the study answers", examples=["Do tables beat the raw text?"]
    )
    prompts: tuple[Name, ...] = Field(
        default=(), description="the prompts to rephrase with", examples=[["faq", "table"]]
    )
    requires: Mapping[Name, Requires] = Field(
        default_factory=dict,
        description="what documents must have for a prompt; others are skipped",
        examples=[{"math": "3 quantities"}],
    )
    prompt_files: Mapping[Name, str] = Field(default_factory=dict, description="the paths of the study's own prompts")
    sources: Mapping[Name, Source] = Field(
        min_length=1, description="the raw text", examples=[{"my_files": {"kind": "files", "paths": ["texts/*.jsonl"]}}]
    )
    generators: Mapping[Name, Generator] = Field(default_factory=dict, description="the models that rephrase")
    cells: tuple[Cell, ...] = Field(
        default=(),
        description="which generator rephrases which source",
        examples=[[{"generator": "embedded", "source": "my_files"}]],
    )
    gates: Gates = Field(default={}, validate_default=True, description="quality thresholds")
    tokenizer: Tokenizer | None = Field(default=None, description="the students' tokenizer")
    sequence: int | None = Field(default=None, ge=16, description="tokens per training sequence")
    mixtures: Mapping[Name, Mixture] = Field(default_factory=dict, description="what students are trained on")
    students: Mapping[Name, Student] = Field(default_factory=dict, description="the models to train")
    seeds: tuple[Seeds, ...] = Field(
        default=(),
        description="pairs of a data seed and a model seed",
        examples=[[{"data": 0, "model": 0}, {"data": 1, "model": 1}]],
    )
    runs: tuple[RunGrid, ...] | None = Field(
        default=None, min_length=1, description="the training runs; default: all mixtures, students and seeds"
    )
    evaluation: Evaluation | None = Field(default=None, description="the benchmarks")
    early_stop: EarlyStop | None = Field(default=None, description="when to stop weak students; default: never")
    release: Release | None = Field(
        default=None, description="what is published as one dataset", examples=[{"license": "odc-by"}]
    )
    trainer: Literal["transformers", "nanotron"] = Field(
        default="transformers", description="transformers trains on one machine, nanotron on a cluster"
    )

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Study:
        problems = [*self._repeated_names(), *self._unknown_names()]
        if not self.cells and not self.mixtures:
            problems.append(Problem(("cells",), MISSING))
        elif self.cells and not self.prompts:
            problems.append(Problem(("prompts",), MISSING))
        if not self.mixtures:
            problems += self._fields_without_mixtures()
        elif missing := self._missing_for_training():
            problems += missing
        else:
            problems += self._wrong_training() or self._wrong_runs(catalogue_of(info).counted_tasks)
        if problems:
            raise InvalidFields(list(dict.fromkeys(problems)))
        return self

    def _repeated_names(self) -> Iterator[Problem]:
        """Yield names that a list of partitions contains more than once, and cells that contradict themselves."""
        yield from repetitions(("prompts",), self.prompts)
        for index, cell in enumerate(self.cells):
            yield from repetitions(("cells", index, "prompts"), cell.prompts or ())
            if cell.on_failure == "regenerate" and cell.rollouts == 1:
                message = "is 1, but 'on_failure: regenerate' draws failing rows again; raise it or remove it"
                yield Problem(("cells", index, "rollouts"), message)
        for index, name in repeated(cell.name for cell in self.cells):
            yield Problem(("cells", index), f"{name} is listed more than once; list all its prompts in one cell")

    def _unknown_names(self) -> Iterator[Problem]:
        """Yield names of entries that the study does not have."""
        yield from unknown_names(("requires",), self.requires, self.prompts)
        for index, cell in enumerate(self.cells):
            yield from unknown_names(("cells", index, "generator"), [cell.generator], self.generators)
            yield from unknown_names(("cells", index, "source"), [cell.source], self.sources)
            yield from unknown_names(("cells", index, "prompts"), cell.prompts or (), self.prompts)
            prompts = [name for name in cell.gates if name not in self.gates]
            yield from unknown_names(("cells", index, "gates"), prompts, self.prompts_of(cell))
        for name, mixture in self.mixtures.items():
            for component in mixture.components:
                yield from unknown_names(("mixtures", name, "components", component), [component], self.datasets)
        if self.release:
            known = [name for name, component in self.datasets.items() if component.generator]
            yield from unknown_names(("release", "despite_audits"), self.release.despite_audits, known)
            for name, patterns in self.release.configurations.items():
                path = ("release", "configurations", name)
                missing = [one for one, found in matching(patterns, dict.fromkeys(known)).items() if not found]
                yield from unknown_names(path, missing, known)
        if self.tokenizer:
            yield from unknown_names(("tokenizer", "sources"), self.tokenizer.sources, self.sources)

    def _fields_without_mixtures(self) -> Iterator[Problem]:
        """Yield the fields that say how to train, of a study that trains nothing."""
        for name in ("tokenizer", "sequence", "students", "seeds", "runs", "evaluation", "early_stop"):
            if getattr(self, name):
                yield Problem((name,), "there are no mixtures to train on; add 'mixtures', or remove this field")

    def _missing_for_training(self) -> list[Problem]:
        needed = ["tokenizer", "sequence", "students", "evaluation"]
        if not self.runs or any(grid.seeds is None for grid in self.runs):
            needed.append("seeds")
        return [Problem((name,), MISSING) for name in needed if not getattr(self, name)]

    def _wrong_training(self) -> list[Problem]:
        """Return what is wrong with mixtures and with the names in the grids of runs."""
        problems = list(repetitions(("seeds",), [f"data {seeds.data}, model {seeds.model}" for seeds in self.seeds]))
        if self.evaluation:
            problems += repetitions(("evaluation", "tasks"), self.evaluation.tasks)
        for name, student in self.students.items():
            if field := student.unsupported_by(self.trainer):
                message = f"has no effect with 'trainer: {self.trainer}'; remove it, or use the other trainer"
                problems.append(Problem(("students", name, field), message))
        assert self.sequence is not None
        problems += wrong_mixtures(self.mixtures, self.trainer, self.sequence)
        for index, grid in enumerate(self.runs or ()):
            for pattern, names in matching(grid.mixtures, self.mixtures).items():
                if not names:
                    problems.append(Problem(("runs", index, "mixtures"), no_such_name(pattern, self.mixtures)))
            problems += unknown_names(("runs", index, "students"), grid.students, self.students)
            if grid.decay_from is not None:
                path = ("runs", index, "decay_from")
                problems += unknown_names(path, [grid.decay_from], self.mixtures)
                if grid.decay_from in grid.mixtures:
                    message = f"{grid.decay_from} would decay from itself; remove it from the mixtures of this entry"
                    problems.append(Problem(path, message))
        return problems

    def _wrong_runs(self, counted_tasks: Collection[str]) -> list[Problem]:
        """Return what is wrong with the runs, given that all names in them exist."""
        size = sum(grid.size(len(self._named(grid.mixtures)), len(self.seeds)) for grid in self._grids)
        if size > LARGEST_GRID:
            message = f"are {size:,} student runs; a study may have {LARGEST_GRID:,}: list fewer"
            return [Problem(("runs",), message)]
        problems: list[Problem] = []
        first_entry: dict[str, int] = {}
        repetitions: dict[tuple[int, int], list[str]] = {}
        for index, run in self._numbered_runs():
            if run.name in first_entry:
                repetitions.setdefault((index, first_entry[run.name]), []).append(run.name)
            first_entry.setdefault(run.name, index)
        for (index, first), names in repetitions.items():
            where = "twice in this entry" if index == first else f"in runs[{first}] too"
            problems.append(Problem(("runs", index), f"{shorten(names, 3)}: listed {where}; remove one of them"))
        problems += [*self._too_small_budgets(), *self._wrong_decays(first_entry)]
        problems += equal_replicates(self.mixtures, {run.name: run for run in self._all_runs})
        return [*problems, *self._wrong_early_stop(counted_tasks)]

    def _wrong_early_stop(self, counted_tasks: Collection[str]) -> Iterator[Problem]:
        """Yield why runs cannot be compared early."""
        if self.early_stop is None:
            return
        assert self.sequence is not None
        if self.evaluation and (missing := set(counted_tasks) - set(self.evaluation.tasks)):
            message = f"compares students by their macro score; add {shorten(sorted(missing))} to 'evaluation.tasks'"
            yield Problem(("early_stop",), message)
        steps = [self.steps(run) for group in self.compared_early.values() for run in group]
        if steps and self.early_stop.step >= min(steps):
            message = f"{self.early_stop.step} is not before the end of the shortest run, {min(steps)} steps; lower it"
            yield Problem(("early_stop", "step"), message)

    def _too_small_budgets(self) -> Iterator[Problem]:
        """Yield mixtures whose tokens do not suffice for one step of a student."""
        assert self.sequence is not None
        needed: dict[str, int] = {}
        for run in self._all_runs:
            step = self.students[run.student].batch_sequences * self.sequence
            if self.mixtures[run.mixture].tokens < step:
                needed[run.mixture] = max(step, needed.get(run.mixture, 0))
        for name, tokens in needed.items():
            message = f"{self.mixtures[name].tokens} is less than one step of a student, {tokens} tokens; raise it"
            yield Problem(("mixtures", name, "tokens"), message)

    def _wrong_decays(self, names: Collection[str]) -> Iterator[Problem]:
        """Yield why runs cannot continue others before their decay."""
        flaws: dict[tuple[int, str], list[str]] = {}
        for index, run in self._numbered_runs():
            if run.base is None:
                continue
            if run.base.name not in names:
                flaw = "is not a run, but others decay from it; add it to 'runs'"
                flaws.setdefault((index, flaw), []).append(run.base.name)
            if (fraction := self.students[run.student].decay_fraction) in (0, 1):
                remedy = "no decay to train; raise it" if fraction == 0 else "nothing before its decay; lower it"
                flaws.setdefault((index, f"has decay_fraction {fraction:g} and thus {remedy}"), []).append(run.student)
            tokens = self.mixtures[run.base.mixture].tokens
            if self.mixtures[run.mixture].tokens != tokens:
                flaw = f"must have the same 'tokens' as {run.base.mixture}, {tokens}"
                flaws.setdefault((index, flaw), []).append(run.mixture)
        for (index, flaw), subjects in flaws.items():
            yield Problem(("runs", index, "decay_from"), f"{shorten(list(dict.fromkeys(subjects)), 3)} {flaw}")

    def prompts_of(self, cell: Cell) -> tuple[str, ...]:
        """Return the prompts of a cell."""
        return self.prompts if cell.prompts is None else cell.prompts

    def gates_for(self, cell: Cell, prompt: str, check: str | None) -> dict[str, dict[str, Any]]:
        """Return the settings of every gate for the dataset of one prompt of a cell, given the prompt's form."""
        gates = complete_gates(cell.gates, self.gates, self.prompts) if cell.gates else self.gates
        return settings_for(gates, check, prompt)

    def is_guided(self, cell: Cell) -> bool:
        """Return whether the prompts' grammars decide the form of a cell's completions."""
        return self.generators[cell.generator].guided if cell.guided is None else cell.guided

    def rollouts_of(self, cell: Cell) -> tuple[int, Keep]:
        """Return how often a row of a cell is drawn at most, and which rollout is kept."""
        generator = self.generators[cell.generator]
        least = REGENERATED if cell.on_failure == "regenerate" and cell.rollouts is None else 1
        return max(cell.rollouts or generator.rollouts, least), cell.keep or generator.keep

    def cell(self, name: str) -> Cell:
        """Return the cell with the name `<generator>__<source>`."""
        return self._cells[name]

    @cached_property
    def datasets(self) -> dict[str, Component]:
        """Everything that a mixture may name, by name: corpora first, then synthetic datasets."""
        corpora = [Component(source=source) for source in self.sources]
        synthetic = [cell.component(prompt) for cell in self.cells for prompt in self.prompts_of(cell)]
        return {component.name: component for component in (*corpora, *synthetic)}

    @cached_property
    def released(self) -> dict[str, tuple[Component, ...]]:
        """The datasets of each configuration of the release; without one of its own, each prompt is a configuration."""
        if self.release is None:
            return {}
        synthetic = {name: component for name, component in self.datasets.items() if component.generator}
        if not self.release.configurations:
            by_prompt = {prompt: [one for one in synthetic.values() if one.prompt == prompt] for prompt in self.prompts}
            return {prompt: tuple(some) for prompt, some in by_prompt.items() if some}
        matched = {name: matching(patterns, synthetic) for name, patterns in self.release.configurations.items()}
        return {
            name: tuple(synthetic[one] for one in dict.fromkeys(chain.from_iterable(found.values())))
            for name, found in matched.items()
        }

    def components(self, mixture: str) -> dict[str, Component]:
        """Return the datasets of a mixture by name, in the order of the study file."""
        spec = self.mixtures[mixture]
        return {name: replace(self.datasets[name], shuffled=bool(spec.control_of)) for name in spec.components}

    @cached_property
    def tokenized(self) -> dict[Component, list[str]]:
        """Everything that is tokenized, with the mixtures that depend on its tokens; shuffled datasets come last."""
        plain = self.datasets.values()
        users: dict[Component, list[str]] = {one: [] for one in (*plain, *(replace(c, shuffled=True) for c in plain))}
        for name, mixture in self.mixtures.items():
            matched = [mixture.match_epochs_of] if mixture.match_epochs_of else []
            for component in {one for used in (name, *matched) for one in self.components(used).values()}:
                users[component].append(name)
        return {component: names for component, names in users.items() if names or not component.shuffled}

    @cached_property
    def student_runs(self) -> dict[str, StudentRun]:
        """All training runs by name; a run that others decay from precedes them."""
        return {run.name: run for run in sorted(self._all_runs, key=lambda run: run.decay_from is not None)}

    def with_all_runs(self) -> Study:
        """Return the same study with every run listed by itself."""
        if not self.mixtures:
            return self
        runs = []
        for run in self.student_runs.values():
            decay = {} if run.decay_from is None else {"decay_from": run.decay_from}
            runs.append(RunGrid(mixtures=(run.mixture,), students=(run.student,), seeds=(run.seeds,), **decay))
        return self.model_copy(update={"runs": tuple(runs)})

    def steps(self, run: str) -> int:
        """Return the number of optimizer steps of a run."""
        assert self.sequence is not None
        student_run = self.student_runs[run]
        windows = self.mixtures[student_run.mixture].tokens // self.sequence
        return windows // self.students[student_run.student].batch_sequences

    @cached_property
    def compared_early(self) -> dict[tuple[str, int, int, int], tuple[str, ...]]:
        """The runs that are compared with each other early, by student, budget and seeds; a group has at least two."""
        groups: dict[tuple[str, int, int, int], list[str]] = {}
        for name, run in self.student_runs.items() if self.early_stop else ():
            if run.base is None and name not in self.pre_decay_runs:
                key = (run.student, self.mixtures[run.mixture].tokens, run.seeds.data, run.seeds.model)
                groups.setdefault(key, []).append(name)
        return {key: tuple(names) for key, names in groups.items() if len(names) > 1}

    @cached_property
    def rivals(self) -> dict[str, tuple[str, ...]]:
        """For each run that is compared early, the runs that it is compared with, including itself."""
        return {run: group for group in self.compared_early.values() for run in group}

    @cached_property
    def pre_decay_runs(self) -> tuple[str, ...]:
        """The runs that others decay from, by name."""
        return tuple(dict.fromkeys(run.base.name for run in self.student_runs.values() if run.base))

    @cached_property
    def _cells(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.cells}

    @cached_property
    def _all_runs(self) -> tuple[StudentRun, ...]:
        return tuple(run for _, run in self._numbered_runs())

    @property
    def _grids(self) -> tuple[RunGrid, ...]:
        if not self.mixtures:
            return ()
        return self.runs or (RunGrid(mixtures=("*",), students=tuple(self.students)),)

    def _numbered_runs(self) -> Iterator[tuple[int, StudentRun]]:
        """Yield the runs, each with the index of its entry in `runs`."""
        for index, grid in enumerate(self._grids):
            named = {name: self.mixtures[name] for name in self._named(grid.mixtures)}
            for run in grid.runs(named, self.seeds):
                yield index, run

    def _named(self, patterns: tuple[str, ...]) -> tuple[str, ...]:
        """Return the mixtures that names and patterns match, each once."""
        return tuple(dict.fromkeys(name for names in matching(patterns, self.mixtures).values() for name in names))
