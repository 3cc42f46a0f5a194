"""Expansion: from what a study file says in few lines to every entry in full.

Registries give what the file names and does not define; defaults lie beneath every entry; grids become
the cells and mixtures they stand for. An expanded study expands to itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from finephrase_dagster.study.catalogue import Catalogue
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.grid import LARGEST, CellGrid, MixtureGrid
from finephrase_dagster.study.problems import (
    InvalidFields,
    Place,
    Problem,
    dotted,
    found_in,
    has,
    shortened,
    shown,
    unknown,
)
from finephrase_dagster.study.spec import Study

ALL = "all"
WITH_DEFAULTS = ("generators", "sources", "mixtures", "students")
Fields = dict[str, Any]


def full_study(said: Mapping[str, Any], catalogue: Catalogue) -> Study:
    """The study that fields stand for, with registries, defaults, grids and runs written out.

    Raises:
        InvalidFields: all that is wrong, at the places where it is said.
    """
    expansion = Expansion(said, catalogue)
    wrong = expansion.problems
    try:
        study = Study.model_validate(expansion.fields, context=catalogue)
    except ValidationError as error:
        # What does not go together only follows from what could not be expanded.
        if not wrong or any(one["loc"] for one in error.errors(include_input=False)):
            broken = {problem.place[0] for problem in wrong if problem.place}
            broken |= set(WITH_DEFAULTS) if "defaults" in broken else set()
            found = found_in(error, expansion.fields)
            wrong += [expansion.located(problem) for problem in found if not broken & set(problem.place[:1])]
        # Sections that cells and mixtures fill are empty because those are wrong.
        filled = {(section,) for section in catalogue.registries if section not in said}
        raise InvalidFields([one for one in dict.fromkeys(wrong) if one.place not in filled] or wrong) from error
    if wrong:
        raise InvalidFields(list(dict.fromkeys(wrong)))
    return study.in_full()


def written(study: Study) -> Fields:
    """A study as a file would say it in full: what is left at its default is left out."""
    return study.in_full().model_dump(mode="json", exclude_unset=True)


class Expansion:
    """The fields of a `Study` that a file stands for, and where each was said.

    What has another type than it should is left for the study's own validation to refuse.

    Attributes:
        fields: without registries, defaults and grids.
        problems: what could not be expanded, by where it is said.
    """

    def __init__(self, said: Mapping[str, Any], catalogue: Catalogue) -> None:
        self._said = said
        self._catalogue = catalogue
        self.problems = [
            Problem((name,), "is empty; write what belongs there, or remove the line")
            for name, value in said.items()
            if value is None
        ]
        self.fields = {name: value for name, value in said.items() if value is not None}
        self._grids = self.fields.pop("mixture_grids", [])
        self._defaults = self._checked_defaults(self.fields.pop("defaults", {}))
        self._cell_said: list[int] = []  # by the place of an expanded cell
        self._grid_of: dict[str, int] = {}  # by the name of a mixture
        self._origin: dict[tuple[str, str], str] = {}  # what a generator or source is called in its registry
        self._expand_prompts()
        self._expand_cells()
        for section in ("mixtures", "students"):
            if isinstance(own := self.fields.get(section), dict):
                self.fields[section] = {name: self._over_defaults(section, entry) for name, entry in own.items()}
        self._expand_grids()
        for section in ("generators", "sources"):
            self._complete(section)

    def located(self, problem: Problem) -> Problem:
        """A mistake in the expanded fields, told where it was said."""
        place, message = problem
        if place[:1] == ("prompts",) and self._said.get("prompts") == ALL:
            return Problem(("prompts",), f"{message}; the prompt files are meant")
        if place[:1] == ("cells",) and len(place) > 1:
            return Problem(self._place_of_cell(place), message)
        if len(place) < 2 or place[0] not in WITH_DEFAULTS:
            return problem
        section, name, *path = place
        own = _entries(self._said, section).get(str(name))
        origin = self._origin.get((str(section), str(name)))
        if own is not None and _reaches(own, path):
            return problem
        if path and origin is not None:
            registry = self._catalogue.registries[str(section)]
            if _reaches(registry.entries[origin], path):
                if own is None:
                    return Problem((f"{registry.path}: {origin}", *path), message)
                return Problem(place, f"{message} (it comes from {origin} in {registry.path})")
        if path and _reaches(self._defaults[str(section)], path):
            return Problem(("defaults", section, *path), message)
        if own is None and name in self._grid_of:
            path = ["mix_in"] if path[:1] == ["components"] else path
            return Problem(("mixture_grids", self._grid_of[str(name)], *path), message)
        return problem

    def _place_of_cell(self, place: Place) -> Place:
        index = self._cell_said[int(place[1])] if self._cell_said else place[1]
        said = self._said["cells"][index]
        names = [f"{part}s" if part in ("generator", "source") and f"{part}s" in said else part for part in place[2:]]
        return ("cells", index, *names)

    def _checked_defaults(self, said: Any) -> dict[str, Fields]:
        known = f"write {', '.join(WITH_DEFAULTS)}, what you need of them"
        if not isinstance(said, dict):
            self.problems.append(Problem(("defaults",), f"is {shown(said)}; {known}"))
            said = {}
        for name, entry in said.items():
            if name not in WITH_DEFAULTS:
                self.problems.append(Problem(("defaults", name), f"is not a field here; {known}"))
            elif not isinstance(entry, dict):
                message = f"is {shown(entry)}; write fields that each entry has unless it says otherwise"
                self.problems.append(Problem(("defaults", name), message))
        if has(said.get("mixtures"), "components"):
            message = "are each mixture's own; a default would be mixed into all of them: take it out"
            self.problems.append(Problem(("defaults", "mixtures", "components"), message))
        return {name: entry if isinstance(entry := said.get(name), dict) else {} for name in WITH_DEFAULTS}

    def _over_defaults(self, section: str, entry: Any) -> Any:
        return _merged(self._defaults[section], entry)

    def _expand_prompts(self) -> None:
        files, said = self._catalogue.prompts, self.fields.get("prompts")
        if said == ALL:
            self.fields["prompts"] = list(files)
        elif isinstance(said, str):
            self.problems.append(Problem(("prompts",), f"is {shown(said)}; write a list, [{said}], or: {ALL}"))
        for index, name in enumerate(said if isinstance(said, list) else ()):
            if isinstance(name, str) and name not in files:
                message = f"prompt {shown(name)}: there is no file for it; known prompts: {', '.join(files)}"
                self.problems.append(Problem(("prompts", index), message))
            elif isinstance(name, (bool, int, float)):
                self.problems.append(Problem(("prompts", index), f"is {shown(name)}; write the name in quotes"))

    def _expand_cells(self) -> None:
        said = self.fields.get("cells")
        if not isinstance(said, list):
            return
        cells: list[Fields] = []
        for index, fields in enumerate(said):
            try:
                grid = CellGrid.model_validate(fields)
            except ValidationError as error:
                self._add_found(error, fields, ("cells", index))
                continue
            if len(cells) + grid.size > LARGEST:
                self.problems.append(Problem(("cells",), f"are more than {LARGEST:,}; a study may have so many"))
                break
            cells += grid.cells()
            self._cell_said += [index] * grid.size
        self.fields["cells"] = cells

    def _expand_grids(self) -> None:
        """Adds the mixtures of all grids."""
        if not isinstance(self._grids, list):
            self.problems.append(Problem(("mixture_grids",), "must be a list; write '- name: ...' for each grid"))
            return
        mixtures = self.fields.get("mixtures", {})
        if not isinstance(mixtures, dict):
            return
        mixtures = dict(mixtures)
        uncertain = bool({"cells", "prompts"} & {problem.place[0] for problem in self.problems})
        datasets = {dataset.name: dataset for dataset in self._datasets()}
        for index, fields in enumerate(self._grids):
            place: Place = ("mixture_grids", index)
            try:
                grid = MixtureGrid.model_validate(fields)
                found = {} if uncertain else grid.mixtures(datasets)
            except ValidationError as error:
                self._add_found(error, fields, place)
                continue
            except InvalidFields as error:
                self.problems += [Problem((*place, *inner), message) for inner, message in error.problems]
                continue
            if taken := [name for name in found if name in mixtures]:
                message = f"gives {taken[0]!r}, which is a mixture already; make the names differ"
                self.problems.append(Problem((*place, "name"), message))
            if len(mixtures) + len(found) > LARGEST:
                message = f"are more than {LARGEST:,} mixtures; a study may have so many"
                self.problems.append(Problem(("mixture_grids",), message))
                return
            for name, entry in found.items():
                if name not in mixtures:
                    self._grid_of[name] = index
                    mixtures[name] = self._over_defaults("mixtures", entry)
        if mixtures or "mixtures" in self.fields:
            self.fields["mixtures"] = mixtures

    def _datasets(self) -> Iterator[Component]:
        everything = _listed(self.fields.get("prompts"))
        cells = self.fields.get("cells")
        for cell in cells if isinstance(cells, list) else ():
            for prompt in cell.get("prompts", everything):
                yield Component(generator=cell["generator"], source=cell["source"], prompt=prompt)

    def _complete(self, section: str) -> None:
        """The entries of a section with what the registry and the defaults give them, and those that are just named."""
        own = self.fields.get(section, {})
        if not isinstance(own, dict):
            return
        registry = self._catalogue.registries[section].entries
        entries = {name: self._entry(section, name, entry) for name, entry in own.items()}
        missed: dict[str, dict[Place, None]] = {}
        for place, name in self._used(section):
            if name not in entries and name in registry:
                entries[name] = self._entry(section, name, {"from": name})
            elif name not in entries:
                missed.setdefault(name, {})[self.located(Problem(place, "")).place] = None
        for name, (first, *others) in missed.items():
            also = f" (it stands in {shortened([dotted(place) for place in others], 3)}, too)" if others else ""
            self.problems.append(Problem(first, unknown(name, [*own, *registry]) + also))
        if entries or section in self.fields:
            self.fields[section] = entries

    def _used(self, section: str) -> Iterator[tuple[Place, str]]:
        """The generators or the sources that the study names, each with the place that names it."""
        one = section.removesuffix("s")
        cells = self.fields.get("cells")
        for index, cell in enumerate(cells if isinstance(cells, list) else ()):
            yield ("cells", index, one), cell[one]
        if section == "generators":
            return
        for name, mixture in _entries(self.fields, "mixtures").items():
            for component in _entries(mixture, "components"):
                if "/" not in component:
                    yield ("mixtures", name, "components", component), component
        for name, generator in _entries(self.fields, "generators").items():
            for source in _listed(_entries(generator, "embedded").get("sources")):
                yield ("generators", name, "embedded", "sources"), source
        for source in _listed(_entries(self.fields, "tokenizer").get("sources")):
            yield ("tokenizer", "sources"), source

    def _entry(self, section: str, name: str, entry: Any) -> Any:
        """An entry in full: the defaults, then the registry's entry that it names, then its own fields."""
        if not isinstance(entry, dict):
            return entry
        entry = dict(entry)
        if "from" not in entry:
            return self._over_defaults(section, entry)
        origin, registry = entry.pop("from"), self._catalogue.registries[section]
        if not isinstance(origin, str) or origin not in registry.entries:
            message = f"is {shown(origin)}; write the name of an entry"
            message = unknown(origin, list(registry.entries)) if isinstance(origin, str) else message
            self.problems.append(Problem((section, name, "from"), f"{message} (entries are those of {registry.path})"))
            return entry
        self._origin[section, name] = origin
        return _merged(self._over_defaults(section, registry.entries[origin]), entry)

    def _add_found(self, error: ValidationError, fields: Any, where: Place) -> None:
        self.problems += [Problem((*where, *place), message) for place, message in found_in(error, fields)]


def _merged(below: Any, above: Any) -> Any:
    """One set of fields over another; what both have as mappings is merged likewise."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    merged = dict(below)
    for name, value in above.items():
        merged[name] = _merged(below[name], value) if name in below else value
    return merged


def _reaches(value: Any, path: list[str | int]) -> bool:
    """Whether something is said at a path."""
    for part in path:
        if not has(value, part):
            return False
        value = value[part]
    return True


def _entries(fields: Any, name: str | int) -> Mapping[str, Any]:
    """The fields below a field; none where there are none."""
    value = fields.get(name) if isinstance(fields, Mapping) else None
    return value if isinstance(value, dict) else {}


def _listed(value: Any) -> list[str]:
    """The texts of a list; none where it is none."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
