"""The specs of a study: what is computed, and nothing about where or how it runs.

Everything here is frozen. A field that determines an output is required or its default is written
down in the study file's documentation.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from finephrase_dagster.study.catalogue import catalogue_of
from finephrase_dagster.study.component import Component, cell_name
from finephrase_dagster.study.fields import ModelReference, Name, Spec
from finephrase_dagster.study.generator import Generator
from finephrase_dagster.study.grid import LARGEST, matching
from finephrase_dagster.study.problems import InvalidFields, Place, Problem, shortened, shown, unknown
from finephrase_dagster.study.source import SourceSpec
from finephrase_dagster.study.student import EarlyStop, Mixture, RunGrid, Seeds, Student, StudentRun, Tokenizer


class Cell(Spec):
    """One generator on one source; its prompts are the partitions."""

    generator: Name
    source: Name
    prompts: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="default: all prompts of the study"
    )

    @property
    def name(self) -> str:
        return cell_name(self.generator, self.source)

    def component(self, prompt: str) -> Component:
        """Return the dataset of one of its prompts."""
        return Component(generator=self.generator, source=self.source, prompt=prompt)


class Evaluation(Spec):
    """The benchmark suite."""

    items: Literal["hub"] | ModelReference = Field(
        description="`embedded`, `hub` (the original datasets), or a folder with one folder a task"
    )
    tasks: tuple[str, ...] = Field(min_length=1, description="names of benchmarks")
    shots: int = Field(ge=0)
    samples: int = Field(ge=1, description="items a task at most")
    every: int | None = Field(
        default=None, ge=1, description="also evaluate students every so many steps; default: at their end alone"
    )
    backend: Literal["transformers", "vllm"] = Field(
        default="transformers", description="transformers computes in float32, vLLM in the checkpoint's precision"
    )

    @field_validator("tasks")
    @classmethod
    def _are_benchmarks(cls, tasks: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.context is not None:
            known = catalogue_of(info).tasks
            if wrong := [
                Problem((index,), unknown(task, known)) for index, task in enumerate(tasks) if task not in known
            ]:
                raise InvalidFields(wrong)
        return tasks


def _of_its_kind(value: Any, info: ValidationInfo) -> Any:
    """Validate a source's fields as the class of its `kind`; what is not a set of fields is left to pydantic."""
    if not isinstance(value, Mapping):
        return value
    kinds = catalogue_of(info).source_kinds
    kind = value.get("kind")
    if "kind" not in value:
        raise InvalidFields([Problem((), f"says no 'kind'; add it: one of {', '.join(map(repr, kinds))}")])
    if not isinstance(kind, str) or kind not in kinds:
        raise InvalidFields([Problem((), f"has no such 'kind'; write one of {', '.join(map(repr, kinds))}")])
    return kinds[kind].model_validate(value, context=info.context)


Source = Annotated[SerializeAsAny[SourceSpec], BeforeValidator(_of_its_kind)]
"""A source of any kind that the catalogue lists."""

GateSettings = Mapping[str, Mapping[str, int | float]]
"""The settings of each gate by its name."""


def _full_gate_settings(section: Mapping[str, Any], defaults: GateSettings) -> dict[str, dict[str, int | float]]:
    """Return the settings of all gates: those of the section `gates`, over the defaults."""
    wrong: list[Problem] = []
    settings: dict[str, dict[str, int | float]] = {
        name: {**values, "threshold": float(values["threshold"])} for name, values in defaults.items()
    }
    for name, entry in section.items():
        if name not in defaults:
            wrong.append(Problem((name,), unknown(name, defaults)))
            continue
        own = entry if isinstance(entry, Mapping) else {"threshold": entry}
        for setting, value in own.items():
            place = (name, setting) if isinstance(entry, Mapping) else (name,)
            if setting not in defaults[name]:
                wrong.append(Problem(place, unknown(setting, defaults[name])))
            elif requirement := _setting_flaw(setting, value, defaults[name][setting]):
                wrong.append(Problem(place, f"is {shown(value)}; must be {requirement}"))
            else:
                settings[name][setting] = float(value) if setting == "threshold" else value
    if wrong:
        raise InvalidFields(wrong)
    return settings


def _setting_flaw(setting: str, value: Any, default: float) -> str | None:
    """Return what a gate's setting must be if it is not."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if setting != "threshold" and isinstance(default, int):
        return None if is_number and isinstance(value, int) and value >= 1 else "a whole number, at least 1"
    if setting == "threshold" and default <= 1:
        return None if is_number and 0 <= value <= 1 else "a share, from 0 to 1"
    return None if is_number and 0 <= value < math.inf else "a number, at least 0"


class Study(Spec):
    """A whole study. Without mixtures it ends with the audits: a production run."""

    name: Name
    description: str = Field(min_length=1)
    prompts: tuple[Name, ...] = Field(min_length=1)
    sources: Mapping[Name, Source] = Field(min_length=1)
    generators: Mapping[Name, Generator] = Field(min_length=1)
    cells: tuple[Cell, ...] = Field(min_length=1)
    gates: GateSettings = Field(
        default={},
        validate_default=True,
        description="what a synthetic dataset must pass: a threshold or settings per gate; default: the gates' own",
    )
    tokenizer: Tokenizer | None = None
    sequence: int | None = Field(default=None, ge=16, description="tokens a training sequence, the students' context")
    mixtures: Mapping[Name, Mixture] = Field(default_factory=dict)
    students: Mapping[Name, Student] = Field(default_factory=dict)
    seeds: tuple[Seeds, ...] = ()
    runs: tuple[RunGrid, ...] | None = Field(
        default=None, min_length=1, description="default: every mixture with every student and every pair of seeds"
    )
    evaluation: Evaluation | None = None
    early_stop: EarlyStop | None = Field(default=None, description="default: every run is trained to its end")
    trainer: Literal["transformers", "nanotron"] = Field(
        default="transformers", description="transformers trains on one machine, nanotron on a cluster"
    )

    @field_validator("gates", mode="before")
    @classmethod
    def _has_all_gates(cls, section: Any, info: ValidationInfo) -> Any:
        defaults = catalogue_of(info).gates
        return _full_gate_settings(section, defaults) if isinstance(section, Mapping) else section

    @model_validator(mode="after")
    def _refers_to_what_it_has(self, info: ValidationInfo) -> Study:
        wrong = [*self._repeated(), *self._unknown()]
        if not self.mixtures:
            wrong += self._without_mixtures()
        else:
            missing = self._missing_for_training()
            wrong += missing or [*self._wrong_in_training(), *self._wrong_in_runs(catalogue_of(info).counted_tasks)]
        if wrong:
            raise InvalidFields(list(dict.fromkeys(wrong)))
        return self

    def _repeated(self) -> Iterator[Problem]:
        """What stands twice in a list whose entries become partitions."""
        yield from _repeats(("prompts",), self.prompts)
        for index, cell in enumerate(self.cells):
            yield from _repeats(("cells", index, "prompts"), cell.prompts or ())
        for index, name in _again([cell.name for cell in self.cells]):
            message = f"{name} stands more than once; write all its prompts in one cell"
            yield Problem(("cells", index), message)

    def _unknown(self) -> Iterator[Problem]:
        """What is named and not there."""
        for index, cell in enumerate(self.cells):
            yield from _unknown_of(("cells", index, "generator"), [cell.generator], self.generators)
            yield from _unknown_of(("cells", index, "source"), [cell.source], self.sources)
            yield from _unknown_of(("cells", index, "prompts"), cell.prompts or (), self.prompts)
        for name, generator in self.generators.items():
            if generator.embedded:
                yield from _unknown_of(
                    ("generators", name, "embedded", "sources"), generator.embedded.sources, self.sources
                )
        for name, mixture in self.mixtures.items():
            for component in mixture.components:
                yield from _unknown_of(("mixtures", name, "components", component), [component], self.datasets)
        if self.tokenizer:
            yield from _unknown_of(("tokenizer", "sources"), self.tokenizer.sources, self.sources)

    def _without_mixtures(self) -> Iterator[Problem]:
        """A study without mixtures has nothing to train: what would say how is a mistake."""
        for name in ("tokenizer", "sequence", "students", "seeds", "runs", "evaluation", "early_stop"):
            if getattr(self, name):
                yield Problem((name,), "there are no mixtures to train on; add 'mixtures', or remove it")

    def _missing_for_training(self) -> list[Problem]:
        needed = ["tokenizer", "sequence", "students", "evaluation"]
        if not self.runs or any(grid.seeds is None for grid in self.runs):
            needed.append("seeds")
        message = "is missing; mixtures are trained on, add it"
        return [Problem((name,), message) for name in needed if not getattr(self, name)]

    def _wrong_in_training(self) -> Iterator[Problem]:
        yield from _repeats(("seeds",), [f"data {seeds.data}, model {seeds.model}" for seeds in self.seeds])
        if self.evaluation:
            yield from _repeats(("evaluation", "tasks"), self.evaluation.tasks)
        assert self.sequence is not None
        for name, mixture in self.mixtures.items():
            windows = mixture.windows(self.sequence)
            for component in mixture.components if sum(windows.values()) else ():
                if not windows[component]:
                    message = (
                        f"gets none of the {sum(windows.values())} windows of {self.sequence} tokens; raise its weight "
                        "or the mixture's 'tokens', or take it out"
                    )
                    yield Problem(("mixtures", name, "components", component), message)
        for index, grid in enumerate(self.runs or ()):
            for pattern, names in matching(grid.mixtures, self.mixtures).items():
                if not names:
                    yield Problem(("runs", index, "mixtures"), unknown(pattern, self.mixtures))
            yield from _unknown_of(("runs", index, "students"), grid.students, self.students)
            if grid.decay_from is not None:
                yield from _unknown_of(("runs", index, "decay_from"), [grid.decay_from], self.mixtures)
                if grid.decay_from in grid.mixtures:
                    message = f"{grid.decay_from} would decay from itself; take it out of this grid's mixtures"
                    yield Problem(("runs", index, "decay_from"), message)

    def _wrong_in_runs(self, counted_tasks: Collection[str]) -> list[Problem]:
        """What is wrong with the runs as such; nothing while they name what is not there."""
        if list(self._wrong_in_training()):
            return []
        size = sum(grid.size(len(self._named(grid.mixtures)), len(self.seeds)) for grid in self._grids)
        if size > LARGEST:
            message = f"are {size:,} student runs; a study may have {LARGEST:,}: list fewer mixtures, students or seeds"
            return [Problem(("runs",), message)]
        wrong: list[Problem] = []
        owner: dict[str, int] = {}
        again: dict[tuple[int, int], list[str]] = {}
        for index, run in self._numbered_runs():
            if run.name in owner:
                again.setdefault((index, owner[run.name]), []).append(run.name)
            owner.setdefault(run.name, index)
        for (index, first), names in again.items():
            where = "in this grid" if index == first else f"; runs[{first}] has it, too"
            message = f"{shortened(names, 3)} stands more than once{where}: take it out of one"
            wrong.append(Problem(("runs", index), message))
        return [
            *wrong,
            *self._too_small(),
            *self._wrong_in_decays(set(owner)),
            *self._wrong_in_early_stop(counted_tasks),
        ]

    def _wrong_in_early_stop(self, counted_tasks: Collection[str]) -> Iterator[Problem]:
        """Why runs cannot be compared early."""
        if self.early_stop is None:
            return
        assert self.sequence is not None
        if self.evaluation and (missing := set(counted_tasks) - set(self.evaluation.tasks)):
            message = f"students are compared by their macro score, which also needs {shortened(sorted(missing))}"
            yield Problem(("early_stop",), message)
        steps = [self.steps(run) for group in self.compared_early.values() for run in group]
        if steps and self.early_stop.step >= min(steps):
            message = f"{self.early_stop.step} is not before the end of the shortest run, {min(steps)} steps; lower it"
            yield Problem(("early_stop", "step"), message)

    def _too_small(self) -> Iterator[Problem]:
        """Budgets that end before the first step of a student."""
        assert self.sequence is not None
        needed: dict[str, int] = {}
        for run in self._all_runs:
            step = self.students[run.student].batch_sequences * self.sequence
            if self.mixtures[run.mixture].tokens < step:
                needed[run.mixture] = max(step, needed.get(run.mixture, 0))
        for name, tokens in needed.items():
            said = self.mixtures[name].tokens
            yield Problem(
                ("mixtures", name, "tokens"), f"{said} are less than one step of a student, {tokens}; raise them"
            )

    def _wrong_in_decays(self, names: Collection[str]) -> Iterator[Problem]:
        """Why runs cannot take up others before their decay."""
        flaws: dict[tuple[int, str], list[str]] = {}
        for index, run in self._numbered_runs():
            if run.base is None:
                continue
            if run.base.name not in names:
                flaws.setdefault((index, "is no run, and others decay from it; add it to 'runs'"), []).append(
                    run.base.name
                )
            if (fraction := self.students[run.student].decay_fraction) in (0, 1):
                missing = "no decay to train; give it one" if fraction == 0 else "nothing before its decay; lower it"
                flaws.setdefault((index, f"has decay_fraction {fraction:g} and thus {missing}"), []).append(run.student)
            tokens = self.mixtures[run.base.mixture].tokens
            if self.mixtures[run.mixture].tokens != tokens:
                flaw = f"has other 'tokens' than the {tokens} of {run.base.mixture}; give both the same"
                flaws.setdefault((index, flaw), []).append(run.mixture)
        for (index, flaw), subjects in flaws.items():
            yield Problem(("runs", index, "decay_from"), f"{shortened(list(dict.fromkeys(subjects)), 3)} {flaw}")

    def prompts_of(self, cell: Cell) -> tuple[str, ...]:
        """The partitions of a cell."""
        return self.prompts if cell.prompts is None else cell.prompts

    def cell(self, name: str) -> Cell:
        """The cell of a name `<generator>__<source>`."""
        return self._cells[name]

    @cached_property
    def datasets(self) -> dict[str, Component]:
        """Everything that a mixture may name, by name: corpora first, then synthetic datasets."""
        corpora = [Component(source=source) for source in self.sources]
        synthetic = [cell.component(prompt) for cell in self.cells for prompt in self.prompts_of(cell)]
        return {component.name: component for component in (*corpora, *synthetic)}

    def components(self, mixture: str) -> dict[str, Component]:
        """Return the datasets of a mixture by name, in the order of the study file."""
        return {name: self.datasets[name] for name in self.mixtures[mixture].components}

    @cached_property
    def student_runs(self) -> dict[str, StudentRun]:
        """All training runs by name; a run that others decay from comes before them."""
        return {run.name: run for run in sorted(self._all_runs, key=lambda run: run.decay_from is not None)}

    def in_full(self) -> Study:
        """The same study with every run written out."""
        if not self.mixtures:
            return self
        runs = []
        for run in self.student_runs.values():
            decay = {} if run.decay_from is None else {"decay_from": run.decay_from}
            runs.append(RunGrid(mixtures=(run.mixture,), students=(run.student,), seeds=(run.seeds,), **decay))
        return self.model_copy(update={"runs": tuple(runs)})

    def steps(self, run: str) -> int:
        """Optimizer steps of a run, to its end."""
        assert self.sequence is not None
        of = self.student_runs[run]
        return self.mixtures[of.mixture].tokens // self.sequence // self.students[of.student].batch_sequences

    @cached_property
    def compared_early(self) -> dict[tuple[str, int, int, int], tuple[str, ...]]:
        """The runs of which only the best go on, by student, budget and seeds; groups of one are none."""
        groups: dict[tuple[str, int, int, int], list[str]] = {}
        for name, run in self.student_runs.items() if self.early_stop else ():
            if run.base is None and name not in self.pre_decay_runs:
                key = (run.student, self.mixtures[run.mixture].tokens, run.seeds.data, run.seeds.model)
                groups.setdefault(key, []).append(name)
        return {key: tuple(names) for key, names in groups.items() if len(names) > 1}

    @cached_property
    def rivals(self) -> dict[str, tuple[str, ...]]:
        """Of each run that is compared early: those that it is compared with, itself included."""
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
        """The runs, each with the place of its grid in `runs`."""
        for index, grid in enumerate(self._grids):
            for run in grid.runs(self._named(grid.mixtures), self.seeds):
                yield index, run

    def _named(self, patterns: tuple[str, ...]) -> tuple[str, ...]:
        """The mixtures that names and patterns stand for, each once."""
        found = matching(patterns, self.mixtures)
        return tuple(dict.fromkeys(name for names in found.values() for name in names))


def _unknown_of(place: Place, named: Iterable[str], names: Collection[str]) -> Iterator[Problem]:
    for name in named:
        if name not in names:
            yield Problem(place, unknown(name, names))


def _again(names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The names that stood before, with their places."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            yield index, name
        seen.add(name)


def _repeats(place: Place, names: Iterable[str]) -> Iterator[Problem]:
    repeated = list(dict.fromkeys(name for _, name in _again(names)))
    if repeated:
        yield Problem(place, f"{shortened(repeated)} stands more than once; write it once")
