"""What all specs are made of: the frozen base class, names, model references, and problems with fields."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from finephrase_dagster.errors import FinephraseError

EMBEDDED = "embedded"
LARGEST_NUMBER = 2**63 - 1
LARGEST_GRID = 20_000
"""Most cells, mixtures or student runs of a study: Dagster keeps an asset or a partition for each."""

FieldPath = tuple[str | int, ...]
"""Where a field is: names of fields and indices of lists, from the outside in."""

MISSING, UNKNOWN = "missing", "unknown"
"""Messages of problems that `problem_lines` writes out."""

NAME_RULE = "lower-case words joined by single underscores, at most 64 characters"
SECTIONS = ("generators", "sources", "mixtures", "students")
MOST_SHOWN = 20  # names in a message

_REQUIRED_TYPES = {
    "string_type": "a text (in quotes if YAML reads it as something else)",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list ([a, b], or lines that begin with '- ')",
    **dict.fromkeys(
        ("dict_type", "mapping_type", "model_type", "model_attributes_type"),
        "fields ('name: value', one per line, indented below it)",
    ),
}
"""What a value must be, by pydantic's name for the mistake."""


class Problem(NamedTuple):
    """One mistake: the path of the field, and what is wrong and what to do."""

    path: FieldPath
    message: str


class InvalidFields(FinephraseError, ValueError, exit_status=2):
    """Fields are wrong, or each is right and they contradict each other."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(line for _, line in problem_lines(problems)))
        self.problems = list(problems)


class Spec(BaseModel):
    """The base class of all specs: frozen, without implicit conversions, and refusing unknown fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False, validate_default=False
    )

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, fields: Any) -> Any:
        """Turn lists into tuples, which strict validation does not, and refuse numbers beyond 64 bits."""
        if not isinstance(fields, dict):
            return fields
        message = f"has a number above {LARGEST_NUMBER}; write a smaller one"
        if too_large := [Problem((name,), message) for name, value in fields.items() if _is_too_large(value)]:
            raise InvalidFields(too_large)
        return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def _is_too_large(value: Any) -> bool:
    """Whether a value, or one directly in it, is a number beyond 64 bits."""
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(one, int | float) and LARGEST_NUMBER < abs(one) < math.inf for one in values)


def _check_model_reference(value: str) -> str:
    if value == EMBEDDED or value.startswith(("/", "./", "../")):
        return value
    if re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", value):
        return value
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value):
        raise ValueError(f"{value!r} has no revision; write {value}@<commit>, or {value}@main for its newest")
    raise ValueError(f"{value!r} is neither 'embedded', a folder (/..., ./...) nor <owner>/<name>@<revision>")


Name = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$", max_length=64)]
"""The name of an entry: a partition key and a part of file names. Single underscores alone, so that the double
underscore between two names is unambiguous and no name leaves the data folder."""

NAME_ADAPTER: TypeAdapter[str] = TypeAdapter(Name)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed that every random number generator in use accepts."""

ModelReference = Annotated[str, AfterValidator(_check_model_reference)]
"""`embedded`, a folder that begins with `/` or `.`, or `<owner>/<name>@<revision>` on the hub."""


class HubReference(NamedTuple):
    """A repository of the Hugging Face hub at a revision, written `<owner>/<name>@<revision>`."""

    repository: str
    revision: str


def hub_reference(model: str) -> HubReference | None:
    """Return the hub repository that a model reference names; None for `embedded` and for a folder."""
    if model == EMBEDDED or model.startswith(("/", ".")):
        return None
    repository, _, revision = model.partition("@")
    return HubReference(repository, revision)


def check_heads(hidden: int, heads: int) -> None:
    """Raise ValueError unless rotary positions can turn pairs of each head's dimensions."""
    if hidden % heads or (hidden // heads) % 2:
        raise ValueError(f"hidden {hidden} must be an even multiple of heads {heads}")


def validation_problems(error: ValidationError, fields: object) -> list[Problem]:
    """Return what a validation found wrong, each mistake once.

    Args:
        fields: what was validated; paths are given as they are in it.
    """
    types: dict[tuple[FieldPath, str], list[str]] = {}
    others: list[Problem] = []
    for problem in error.errors(include_url=False):
        path, kind = _path_in(problem["loc"], fields, problem["type"]), problem["type"]
        if kind == "too_short" and problem["input"]:  # each of its entries was refused by itself
            continue
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, InvalidFields):
            others += [Problem((*path, *inner), message) for inner, message in cause.problems]
        elif kind in _REQUIRED_TYPES:
            required = types.setdefault((path, describe(problem["input"])), [])
            if _REQUIRED_TYPES[kind] not in required:  # several members of a union may require the same
                required.append(_REQUIRED_TYPES[kind])
        else:
            others.append(Problem(path, _message(kind, problem["msg"], problem["input"])))
    wrong = [Problem(path, f"is {value}; must be {' or '.join(required)}") for (path, value), required in types.items()]
    return list(dict.fromkeys([*wrong, *others]))


def problem_lines(
    problems: Iterable[Problem],
    *,
    docs: str | None = None,
    purposes: Mapping[str, str] | None = None,
    known: Callable[[FieldPath], Mapping[str, FieldInfo]] = lambda path: {},
    line_of: Callable[[FieldPath], int | None] = lambda path: None,
) -> list[tuple[int | None, str]]:
    """Return one message per mistake, with its line in the file; a mistake in several entries of a section is one.

    Args:
        docs: the page that describes each section under a heading of its own.
        purposes: what each field of the file is for.
        known: returns the fields that there are at a path, for suggestions where one is unknown, and examples.
        line_of: returns the line of the file where a path is.
    """
    grouped: dict[tuple[FieldPath, str], list[str]] = {}
    first: dict[tuple[FieldPath, str], int | None] = {}
    for path, message in problems:
        in_entry = len(path) > 1 and path[0] in SECTIONS
        key = (path[0], "", *path[2:]) if in_entry else path
        names = grouped.setdefault((key, message), [])
        first.setdefault((key, message), line_of(path))
        if in_entry and str(path[1]) not in names:
            names.append(str(path[1]))
    lines = []
    for (path, message), names in grouped.items():
        line = first[path, message]
        if names:
            entry = names[0] if len(names) == 1 else f"{{{shorten(names, 5)}}}"
            path = (path[0], entry, *path[2:])
        lines.append((line, _line(path, message, docs, purposes or {}, known)))
    return lines


def fields_at(root: type[BaseModel], fields: object, path: FieldPath) -> dict[str, FieldInfo]:
    """Return the fields that a file may have at a path, by name.

    Args:
        root: the spec of the file.
        fields: the fields of the file; where they have a `kind`, only the spec of that kind counts.
        path: where the fields are.
    """
    specs = {root} if not path or path[0] in root.model_fields else set()
    value: Any = fields
    for part in path:
        value = value[part] if has_entry(value, part) else None
        steps = [spec.model_fields[part].annotation for spec in specs if part in spec.model_fields]
        if steps:  # otherwise the part is the name of an entry, or an index
            specs = {spec for annotation in steps for spec in _specs_in(annotation)}
        if has_entry(value, "kind"):
            specs = {one for spec in specs for one in _of_kind(spec, value["kind"])} or specs
    return {name: field for spec in specs for name, field in spec.model_fields.items()}


def _of_kind(spec: type[BaseModel], kind: object) -> Iterator[type[BaseModel]]:
    """Yield the specs below a spec whose field `kind` has this value."""
    for one in spec.__subclasses__():
        if "kind" in one.model_fields and kind in get_args(one.model_fields["kind"].annotation):
            yield one
        yield from _of_kind(one, kind)


def _specs_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _specs_in(argument)


def _line(
    path: FieldPath,
    message: str,
    docs: str | None,
    purposes: Mapping[str, str],
    known: Callable[[FieldPath], Mapping[str, FieldInfo]],
) -> str:
    see = f"; see {docs}#{path[0]}" if path and docs and path[0] in purposes else ""
    if message not in (MISSING, UNKNOWN):
        of_list = path[:-1] if len(path) > 1 and isinstance(path[-1], int) else path  # an entry has no example alone
        field = known(of_list[:-1]).get(str(of_list[-1])) if path and message.startswith("is ") else None
        example = f", for example {_written(str(of_list[-1]), field)}" if field and _value(field) is not None else ""
        text = f"{message}{example}"
        return f"{dotted(path)}: {text}{see.replace('; see', ' See') if text.endswith('?') else see}" if path else text
    *outer, last = path
    if message == MISSING:
        purpose = f" ({purposes[str(last)]})" if not outer and last in purposes else ""
        field = known(tuple(outer)).get(str(last))
        remedy = "it" if outer else repr(f"{last}:")
        if field and field.examples:
            remedy = f"it, for example {_written(str(last), field)}"
        line = f"missing field {describe(last)}{purpose}. Add {remedy}{see}"
    else:
        near = difflib.get_close_matches(str(last), known(tuple(outer)) if outer else purposes, n=1)
        remedy = (
            f"Did you mean {near[0]!r}?{see.replace('; see', ' See')}"
            if near
            else f"Correct its name or remove it{see}"
        )
        line = f"unknown field {describe(last)}. {remedy}"
    return f"{dotted(tuple(outer))}: {line}" if outer else line


def _value(field: FieldInfo) -> Any:
    """Return an example of a field's value: a documented one, or its default; None without any."""
    if field.examples:
        return field.examples[0]
    return field.default if isinstance(field.default, bool | int | float | str) else None


def _written(name: str, field: FieldInfo) -> str:
    """Return a field with an example of its value, as YAML writes it in one line."""
    text = yaml.safe_dump({name: _value(field)}, default_flow_style=True, width=1000, sort_keys=False)
    return f"`{text.strip()[1:-1]}`"


def dotted(path: FieldPath) -> str:
    """Return a path as people write it: `cells[0].prompts`."""
    parts = [part if isinstance(part, int) or (part and part.isprintable()) else describe(part) for part in path]
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def no_such_name(name: object, names: Iterable[str]) -> str:
    """Return the message for a name that does not exist, with the names that may have been meant."""
    return f"there is no {describe(name)}; {similar(name, names)}"


def similar(name: object, names: Iterable[str], kind: str = "known") -> str:
    """Return the names that may have been meant, or else those that exist, for a message."""
    known = list(names)
    near = difflib.get_close_matches(name, known[:1000], n=3) if isinstance(name, str) else []
    return f"did you mean {' or '.join(near)}?" if near else f"{kind}: {shorten(known) or 'none'}"


def shorten(names: Sequence[str], most: int = MOST_SHOWN) -> str:
    """Return the first names with commas between them, and how many more there are."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"


def describe(value: object) -> str:
    """Return a value in a few words, as YAML would write it."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a set of fields"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def has_entry(value: object, part: str | int) -> bool:
    """Return whether fields or a list have an entry of that name or index."""
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value)


def repeated(names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the names that appeared before, with their indices."""
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            yield index, name
        seen.add(name)


def unknown_names(path: FieldPath, names: Iterable[str], known: Collection[str]) -> Iterator[Problem]:
    """Yield the names that do not exist."""
    for name in names:
        if name not in known:
            yield Problem(path, no_such_name(name, known))


def repetitions(path: FieldPath, names: Iterable[str]) -> Iterator[Problem]:
    """Yield one problem for all names that are listed more than once."""
    if twice := list(dict.fromkeys(name for _, name in repeated(names))):
        yield Problem(path, f"{shorten(twice)} is listed more than once; list it once")


def _path_in(location: FieldPath, fields: object, kind: str) -> FieldPath:
    """Return pydantic's location without what is not in the fields: names of a union's members, `[key]`."""
    path: list[str | int] = []
    value: Any = fields
    for index, part in enumerate(location):
        if has_entry(value, part):
            value = value[part]
        elif not (kind == "missing" and index == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def _message(kind: str, text: str, value: Any) -> str:
    if kind == "missing":
        return MISSING
    if kind == "extra_forbidden":
        return UNKNOWN
    if kind == "too_short":
        return "is empty; write at least one entry"
    if kind == "string_too_short":
        return "is empty; write a text"
    if kind in ("string_pattern_mismatch", "string_too_long"):
        return f"{describe(value)} is not a valid name; use {NAME_RULE}"
    if text.startswith("Input should be "):
        return f"is {describe(value)}; must be {text.removeprefix('Input should be ')}"
    return text.removeprefix("Value error, ")
