"""Expansion: from the few lines of a study file to every entry in full.

Registries provide the entries that the file names without defining them, defaults complete every entry and add the
sections that the file leaves out, and grids become cells and mixtures. An expanded study expands to itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from finephrase_dagster.study.catalogue import Catalogue, Registry
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.fields import (
    EMBEDDED,
    LARGEST_GRID,
    SECTIONS,
    UNKNOWN,
    FieldPath,
    InvalidFields,
    Problem,
    describe,
    dotted,
    has_entry,
    no_such_name,
    shorten,
    validation_problems,
)
from finephrase_dagster.study.grid import ORIGINS, CellGrid, MixtureGrid, derive_mixtures, is_derived
from finephrase_dagster.study.spec import Study

ALL = "all"
PROMPT_ENDING = ".md"
TRAINING: Mapping[str, Any] = {
    "tokenizer": {"model": EMBEDDED},
    "sequence": 256,
    "students": ["nano"],
    "seeds": [{"data": 0, "model": 0}, {"data": 1, "model": 1}],
    "evaluation": {"items": EMBEDDED},
}
"""Sections of a study with mixtures that its file may leave out: training that runs on a laptop."""
VOCABULARY = 4096  # of a tokenizer that a study trains
Fields = dict[str, Any]


def expand_study(fields: Mapping[str, Any], catalogue: Catalogue, folder: Path = Path()) -> Study:
    """Return the study that the fields of a file describe, with registries, defaults, grids and runs written out.

    Args:
        folder: the folder of the file, where paths of the study's own prompts start.

    Raises:
        InvalidFields: everything that is wrong, at the paths where the file has it.
    """
    expansion = Expansion(fields, catalogue, folder)
    problems = expansion.problems
    try:
        study = Study.model_validate(expansion.fields, context=catalogue)
    except ValidationError as error:
        # Contradictions between entries may only follow from what could not be expanded.
        if not problems or any(one["loc"] for one in error.errors(include_input=False)):
            # So may what is wrong with a field, or with an entry whose origin is not known.
            broken = [path[:-1] if path[-1] in ORIGINS else path for path, _ in problems if path]
            if any(path[0] == "defaults" for path in broken):
                broken += [(section,) for section in (*SECTIONS, "mixture_grids")]
            invalid = [expansion.locate(problem) for problem in validation_problems(error, expansion.fields)]
            problems += [one for one in invalid if not any(one.path[: len(path)] == path for path in broken)]
        # Sections that cells and mixtures fill are empty because cells or mixtures are wrong.
        filled = {(section,) for section in catalogue.registries if section not in fields}
        raise InvalidFields([one for one in dict.fromkeys(problems) if one.path not in filled] or problems) from error
    if problems:
        raise InvalidFields(list(dict.fromkeys(problems)))
    return study


def expanded_fields(study: Study) -> Fields:
    """Return the fields of a study file with every entry in full; fields at their defaults are left out."""
    fields = study.with_all_runs().model_dump(mode="json", exclude_unset=True)
    if own := fields.pop("prompt_files", {}):
        fields["prompts"] = [own.get(name, name) for name in study.prompts]
    return fields


class Expansion:
    """The fields of a `Study` that a file describes, and where in the file each is written.

    Values of a wrong type are left for the validation of the study to refuse.

    Attributes:
        fields: the expanded fields, without defaults and grids.
        problems: what could not be expanded, at the paths where the file has it.
    """

    def __init__(self, file_fields: Mapping[str, Any], catalogue: Catalogue, folder: Path = Path()) -> None:
        self._file_fields = file_fields
        self._catalogue = catalogue
        self._folder = folder
        self.problems = [
            Problem((name,), "is empty; write a value, or remove the line")
            for name, value in file_fields.items()
            if value is None
        ]
        self.fields = {name: value for name, value in file_fields.items() if value is not None}
        self._grids = self.fields.pop("mixture_grids", [])
        self._defaults = self._checked_defaults(self.fields.pop("defaults", {}))
        self._entry_of_cell: list[int] = []  # by the index of an expanded cell
        self._grid_of: dict[str, int] = {}  # by the name of an expanded mixture
        self._origin: dict[tuple[str, str], str] = {}  # the name of an entry in its registry
        self._expand_cells()
        self._expand_prompts()
        if isinstance(own := self.fields.get("mixtures"), dict):
            self.fields["mixtures"] = {name: self._over_defaults("mixtures", entry) for name, entry in own.items()}
        self._expand_grids()
        self._add_training()
        for section in catalogue.registries:
            self._complete(section)
        self._complete_tokenizer()

    def locate(self, problem: Problem) -> Problem:
        """Return a problem of the expanded fields with its path in the file."""
        full_path, message = problem
        if full_path[:1] == ("prompts",) and self._file_fields.get("prompts") == ALL:
            return Problem(("prompts",), f"{message}; 'all' stands for the prompt files")
        if full_path[:1] == ("cells",) and len(full_path) > 1:
            return Problem(self._path_of_cell(full_path), message)
        if len(full_path) < 2 or full_path[0] not in SECTIONS:
            return problem
        section, name, *path = full_path
        own = _entries(self._file_fields, section).get(str(name))
        origin = self._origin.get((str(section), str(name)))
        if own is not None and _reaches(own, path):
            return problem
        if path and origin is not None:
            registry = self._catalogue.registries[str(section)]
            if _reaches(registry.entries[origin], path):
                if own is None:
                    return Problem((f"{registry.path}: {origin}", *path), message)
                return Problem(full_path, self._from_registry(full_path, message, origin, registry))
        if path and _reaches(self._defaults[str(section)], path):
            return Problem(("defaults", section, *path), message)
        if own is None and name in self._grid_of:
            path = ["mix_in"] if path[:1] == ["components"] else path
            return Problem(("mixture_grids", self._grid_of[str(name)], *path), message)
        return problem

    @staticmethod
    def _from_registry(path: FieldPath, message: str, origin: str, registry: Registry) -> str:
        """Return a message about a field that an entry inherits from a registry."""
        if message == UNKNOWN:
            message = "is not a field of this entry; remove it, or take another entry"
        return f"{message} (it comes from {origin} in {registry.path})"

    def _path_of_cell(self, path: FieldPath) -> FieldPath:
        index = self._entry_of_cell[int(path[1])] if self._entry_of_cell else path[1]
        entry = self._file_fields["cells"][index]
        names = [f"{part}s" if part in ("generator", "source") and f"{part}s" in entry else part for part in path[2:]]
        return ("cells", index, *names)

    def _checked_defaults(self, defaults: Any) -> dict[str, Fields]:
        remedy = f"write defaults of {', '.join(SECTIONS)}"
        if not isinstance(defaults, dict):
            self.problems.append(Problem(("defaults",), f"is {describe(defaults)}; {remedy}"))
            defaults = {}
        for name, entry in defaults.items():
            if name not in SECTIONS:
                self.problems.append(Problem(("defaults", name), UNKNOWN))
            elif not isinstance(entry, dict):
                message = f"is {describe(entry)}; write the fields that every entry has unless it has its own"
                self.problems.append(Problem(("defaults", name), message))
        if has_entry(defaults.get("mixtures"), "components"):
            message = "cannot have a default, which would be mixed into every mixture; remove it"
            self.problems.append(Problem(("defaults", "mixtures", "components"), message))
        return {name: entry if isinstance(entry := defaults.get(name), dict) else {} for name in SECTIONS}

    def _over_defaults(self, section: str, entry: Any) -> Any:
        return entry if section == "mixtures" and is_derived(entry) else _merged(self._defaults[section], entry)

    def _expand_prompts(self) -> None:
        """Resolve the prompts: names of packaged ones, and paths of the study's own files."""
        files, prompts = self._catalogue.prompts, self.fields.get("prompts")
        if "prompt_files" in self.fields:
            self.problems.append(Problem(("prompt_files",), UNKNOWN))
        if prompts is None and (cells := self.fields.get("cells")) and all("prompts" in cell for cell in cells):
            self.fields["prompts"] = list(dict.fromkeys(name for cell in cells for name in cell["prompts"]))
        elif prompts == ALL:
            self.fields["prompts"] = list(files)
        elif isinstance(prompts, str):
            message = f"is {describe(prompts)}; write a list, [{prompts}], or 'all'"
            self.problems.append(Problem(("prompts",), message))
        for index, name in enumerate(prompts if isinstance(prompts, list) else ()):
            if isinstance(name, str) and name.endswith(PROMPT_ENDING):
                self._add_own_prompt(index, name)
            elif isinstance(name, str) and name not in files:
                message = f"prompt {describe(name)} has no file; known prompts: {', '.join(files)}"
                self.problems.append(Problem(("prompts", index), message))
            elif isinstance(name, (bool, int, float)):
                self.problems.append(Problem(("prompts", index), f"is {describe(name)}; write the name in quotes"))

    def _add_own_prompt(self, index: int, reference: str) -> None:
        """Replace the path of a prompt file by the prompt's name, the name of the file."""
        path = (self._folder / reference).absolute()
        name = path.name.removesuffix(PROMPT_ENDING)
        if not path.is_file():
            message = f"there is no file {path}; paths of prompts start at the folder of the study file"
            self.problems.append(Problem(("prompts", index), message))
        elif name in self._catalogue.prompts:
            message = f"{describe(name)} is the name of a packaged prompt; rename {path}"
            self.problems.append(Problem(("prompts", index), message))
        self.fields["prompts"] = [name if at == index else one for at, one in enumerate(self.fields["prompts"])]
        self.fields["prompt_files"] = {**self.fields.get("prompt_files", {}), name: str(path)}

    def _add_training(self) -> None:
        """Add the sections that a study with mixtures needs and its file leaves out, and write out short forms."""
        fields = self.fields
        runs = [grid for grid in runs if isinstance(grid, dict)] if isinstance(runs := fields.get("runs"), list) else []
        if fields.get("mixtures"):
            missing = {name: value for name, value in TRAINING.items() if name not in self._file_fields}
            if runs:
                missing["students"] = list(
                    dict.fromkeys(name for grid in runs for name in _listed(grid.get("students")))
                )
                if all("seeds" in grid for grid in runs):
                    missing.pop("seeds", None)
            if "students" in self._file_fields:
                missing.pop("students", None)
            fields |= missing
            if isinstance(fields.get("evaluation"), dict):
                fields["evaluation"] = {"items": EMBEDDED, **fields["evaluation"]}
        if isinstance(students := fields.get("students"), list):
            fields["students"] = {name: {"from": name} for name in students if isinstance(name, str)}
            for index, name in enumerate(students):
                if not isinstance(name, str):
                    message = f"is {describe(name)}; write the name of a student, in quotes"
                    self.problems.append(Problem(("students", index), message))

    def _complete_tokenizer(self) -> None:
        """Complete a tokenizer that the study trains: on all its sources."""
        tokenizer = self.fields.get("tokenizer")
        if isinstance(tokenizer, dict) and tokenizer.get("model") == EMBEDDED:
            sources = sorted(map(str, _entries(self.fields, "sources")))
            self.fields["tokenizer"] = {"vocabulary": VOCABULARY, "sources": sources, **tokenizer}

    def _expand_cells(self) -> None:
        entries = self.fields.get("cells")
        if not isinstance(entries, list):
            return
        cells: list[Fields] = []
        for index, fields in enumerate(entries):
            try:
                grid = CellGrid.model_validate(fields)
            except ValidationError as error:
                self._add_problems(error, fields, ("cells", index))
                continue
            if len(cells) + grid.size > LARGEST_GRID:
                self.problems.append(Problem(("cells",), f"are more than the {LARGEST_GRID:,} that a study may have"))
                break
            cells += grid.cells()
            self._entry_of_cell += [index] * grid.size
        self.fields["cells"] = cells

    def _expand_grids(self) -> None:
        """Add the mixtures of all grids."""
        if not isinstance(self._grids, list):
            self.problems.append(Problem(("mixture_grids",), "must be a list; write '- name: ...' for each grid"))
            return
        mixtures = self.fields.get("mixtures", {})
        if not isinstance(mixtures, dict):
            return
        mixtures = dict(mixtures)
        is_uncertain = bool({"cells", "prompts"} & {problem.path[0] for problem in self.problems})
        datasets = {dataset.name: dataset for dataset in self._datasets()}
        for index, fields in enumerate(self._grids):
            path: FieldPath = ("mixture_grids", index)
            try:
                grid = MixtureGrid.model_validate(fields)
                grid_mixtures = {} if is_uncertain else grid.mixtures(datasets)
            except ValidationError as error:
                self._add_problems(error, fields, path)
                continue
            except InvalidFields as error:
                self.problems += [Problem((*path, *inner), message) for inner, message in error.problems]
                continue
            if taken := [name for name in grid_mixtures if name in mixtures]:
                message = f"gives {taken[0]!r}, but another mixture has this name; make the names differ"
                self.problems.append(Problem((*path, "name"), message))
            if len(mixtures) + len(grid_mixtures) > LARGEST_GRID:
                message = f"expand to more than the {LARGEST_GRID:,} mixtures that a study may have"
                self.problems.append(Problem(("mixture_grids",), message))
                return
            for name, entry in grid_mixtures.items():
                if name not in mixtures:
                    self._grid_of[name] = index
                    mixtures[name] = self._over_defaults("mixtures", entry)
        if mixtures or "mixtures" in self.fields:
            self.fields["mixtures"], problems = derive_mixtures(mixtures)
            self.problems += problems

    def _datasets(self) -> Iterator[Component]:
        everything = _listed(self.fields.get("prompts"))
        cells = self.fields.get("cells")
        for cell in cells if isinstance(cells, list) else ():
            for prompt in cell.get("prompts", everything):
                yield Component(generator=cell["generator"], source=cell["source"], prompt=prompt)

    def _complete(self, section: str) -> None:
        """Complete the entries of a section, and add those of the registry that are only named elsewhere."""
        own = self.fields.get(section, {})
        if not isinstance(own, dict):
            return
        registry = self._catalogue.registries[section].entries
        entries = {name: self._entry(section, name, entry) for name, entry in own.items()}
        unknown: dict[str, dict[FieldPath, None]] = {}
        for path, name in self._used(section):
            if name not in entries and name in registry:
                entries[name] = self._entry(section, name, {"from": name})
            elif name not in entries:
                unknown.setdefault(name, {})[self.locate(Problem(path, "")).path] = None
        for name, (first, *others) in unknown.items():
            also = f" (also in {shorten([dotted(path) for path in others], 3)})" if others else ""
            self.problems.append(Problem(first, no_such_name(name, [*own, *registry]) + also))
        if entries or section in self.fields:
            self.fields[section] = entries

    def _used(self, section: str) -> Iterator[tuple[FieldPath, str]]:
        """Yield the entries of a section that the study names elsewhere, each with the path that names it."""
        one = section.removesuffix("s")
        cells = self.fields.get("cells")
        for index, cell in enumerate(cells if isinstance(cells, list) else ()):
            if section != "students":
                yield ("cells", index, one), cell[one]
        runs = self.fields.get("runs") if section == "students" else None
        for index, grid in enumerate(runs if isinstance(runs, list) else ()):
            for student in _listed(_entries({"": grid}, "").get("students")):
                yield ("runs", index, "students"), student
        if section != "sources":
            return
        for name, mixture in _entries(self.fields, "mixtures").items():
            for component in _entries(mixture, "components"):
                if "/" not in component:
                    yield ("mixtures", name, "components", component), component
        for source in _listed(_entries(self.fields, "tokenizer").get("sources")):
            yield ("tokenizer", "sources"), source

    def _entry(self, section: str, name: str, entry: Any) -> Any:
        """Return an entry in full: the defaults, over them the registry's entry, over that its own fields."""
        if not isinstance(entry, dict):
            return entry
        entry = dict(entry)
        if "from" not in entry:
            return self._over_defaults(section, entry)
        origin, registry = entry.pop("from"), self._catalogue.registries[section]
        if not isinstance(origin, str) or origin not in registry.entries:
            message = f"is {describe(origin)}; write the name of an entry"
            message = no_such_name(origin, list(registry.entries)) if isinstance(origin, str) else message
            self.problems.append(Problem((section, name, "from"), f"{message} (the entries are in {registry.path})"))
            return entry
        self._origin[section, name] = origin
        return _merged(self._over_defaults(section, registry.entries[origin]), entry)

    def _add_problems(self, error: ValidationError, fields: Any, where: FieldPath) -> None:
        self.problems += [Problem((*where, *path), message) for path, message in validation_problems(error, fields)]


def _merged(below: Any, above: Any) -> Any:
    """Return one set of fields over another; fields that are mappings in both are merged."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    merged = dict(below)
    for name, value in above.items():
        merged[name] = _merged(below[name], value) if name in below else value
    return merged


def _reaches(value: Any, path: list[str | int]) -> bool:
    """Return whether fields have something at a path."""
    for part in path:
        if not has_entry(value, part):
            return False
        value = value[part]
    return True


def _entries(fields: Any, name: str | int) -> Mapping[str, Any]:
    """Return the fields below a field; none if it has none."""
    value = fields.get(name) if isinstance(fields, Mapping) else None
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[str]:
    """Return the strings of a list; none if the value is not a list."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
