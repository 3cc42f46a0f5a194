"""YAML as people write it here: the core schema of YAML 1.2, within bounds that keep reading it to about a second."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.fields import describe

LARGEST_FILE = 2**20  # bytes
MOST_VALUES = 25_000
"""Most names and values of a file, and most that its aliases and merge keys may make of them."""
DEEPEST = 20
LONGEST_NUMBER = 400  # characters
LONGEST_PROBLEM = 300  # characters

_TOO_DEEP = f"is nested more than {DEEPEST} levels deep; write it flatter"
_TOO_LARGE = f"has more than {MOST_VALUES:,} names and values, with those that aliases repeat; write fewer"
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class InvalidYaml(FinephraseError, exit_status=2):
    """A text is not YAML, or exceeds a bound; `line` counts from 1 and is None where the whole text is at fault.

    `began` is the earlier line, if any, where the list or text with the fault begins.
    """

    def __init__(self, problem: object, line: int | None = None, began: int | None = None) -> None:
        super().__init__(str(problem))
        self.line, self.began = line, began


def read_bounded(path: Path) -> str:
    """Return the text of a UTF-8 file, with any line ends, with or without a byte-order mark.

    Raises:
        InvalidYaml: the file is too large.
        OSError, ValueError: the file cannot be read, or is not UTF-8.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise InvalidYaml(f"is larger than {LARGEST_FILE // 2**20} MiB; shorten it")
    return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def load_yaml(text: str) -> Any:
    """Return what a text says, with every name as a text.

    Raises:
        InvalidYaml: the text is not YAML, or exceeds a bound.
    """
    value = _run(text, _Loader.get_single_data)
    _refuse_overgrown(value)
    return value


def compose_yaml(text: str) -> yaml.Node | None:
    """Return the nodes of a text, whose values are texts as they are written.

    Raises:
        InvalidYaml: the text is not YAML, or exceeds a bound.
    """
    node: yaml.Node | None = _run(text, _Loader.get_single_node)
    return node


def _run(text: str, step: Any) -> Any:
    if separator := re.search("[\x85\u2028\u2029]", text):
        flaw = f"U+{ord(separator[0]):04X} is a line break in YAML 1.1 and none in YAML 1.2; remove it"
        raise InvalidYaml(flaw, text.count("\n", 0, separator.start()) + 1)
    loader = None
    try:
        loader = _Loader(text)
        return step(loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
        problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
        if problem.startswith(("but ", "second ")):
            problem = f"{error.context} {problem}".partition("; first")[0]  # type: ignore[attr-defined]
        opening = getattr(error, "context_mark", None)
        began = opening.line + 1 if opening and opening.line < line and "anchor" not in problem else None
        raise InvalidYaml(problem[:LONGEST_PROBLEM], line + 1, began) from error
    except (ValueError, OverflowError) as error:
        flaw = "an escape is a number above that of the last character; correct it"
        raise InvalidYaml(flaw, loader.line + 1 if loader else None) from error
    except RecursionError as error:  # a mapping that is merged into itself
        raise InvalidYaml("is nested in itself by an alias; write it flatter") from error


def _refuse_overgrown(value: Any) -> None:
    """Refuse what aliases make of a small text."""
    waiting: list[tuple[Any, int]] = [(value, 0)]
    count = 0
    while waiting:
        one, depth = waiting.pop()
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        count += len(inner)
        if depth > DEEPEST:
            raise InvalidYaml(_TOO_DEEP)
        if count > MOST_VALUES:
            raise InvalidYaml(_TOO_LARGE)
        waiting += [(part, depth + 1) for part in inner]


class _Loader(yaml.SafeLoader):
    """A safe loader for YAML 1.2's core schema that reads every key as a text and refuses a key that is repeated.

    PyYAML itself follows YAML 1.1, where `no` is false, 010 is 8, 10:00 is 600 and 1e9 is a text. Here the first is
    a text, the second is refused, the third is a text and the fourth a number; 10_000 stays a number. Explicit tags
    such as `!!set` are refused.
    """

    nodes = 0
    depth = 0
    merged = 0
    """Fields that merge keys (`<<`) have copied so far."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) not in (None, "!"):
            raise _flaw(f"the tag {event.tag!r} cannot be used here; remove it", event)
        self.nodes += 1
        if self.nodes > MOST_VALUES:
            raise _flaw(_TOO_LARGE, event)
        if self.depth > DEEPEST:
            raise _flaw(_TOO_DEEP, event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, yaml.ScalarNode) and not node.value.isascii():
            try:  # JSON writes a character beyond U+FFFF as two escapes
                node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
            except UnicodeDecodeError as error:
                raise _flaw("an escape is half a surrogate pair, which is no character; remove it", node) from error
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _flaw("a name must be plain text; write 'name:'", key)
            if key.tag == _MERGE:
                continue
            if key.value in seen:
                raise _flaw(f"{describe(key.value)} is defined twice; names must be unique", key)
            seen.add(key.value)
            key.tag = _TEXT
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge the fields of `<<` into a mapping, each name once, so that repeated merges do not multiply."""
        for key, value in node.value:
            if key.tag == _MERGE:
                for part in value.value if isinstance(value, yaml.SequenceNode) else (value,):
                    if isinstance(part, yaml.MappingNode):
                        self.flatten_mapping(part)
                        self.merged += len(part.value)
                if self.merged > MOST_VALUES:
                    raise _flaw(f"merge keys (<<) copy more than {MOST_VALUES:,} fields; use fewer", key)
        super().flatten_mapping(node)
        node.value = list({key.value: (key, value) for key, value in node.value}.values())

    def construct_scalar_value(self, node: yaml.ScalarNode) -> Any:
        """Return a number, a truth value or null as YAML 1.2 reads it; 20e9 tokens are a whole number."""
        text = str(node.value)
        match node.tag.rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case kind:
                if re.match(r"[-+]?0[0-9_]", text):
                    raise _flaw(
                        f"{describe(text)} begins with 0; write the number without it, or a text in quotes", node
                    )
                if (number := _number(kind, text)) is None:
                    raise _flaw(
                        f"{describe(text)} is a number beyond what a computer can hold; write it in quotes if it is a "
                        "text",
                        node,
                    )
                return number


def _number(kind: str, text: str) -> int | float | None:
    """Return the number that a text stands for; None if it is too large, too small or too long for one."""
    if len(text) > LONGEST_NUMBER:
        return None
    if kind == "int":
        return int(text, 0)
    digits = text.lower().replace("_", "")
    if "n" in digits:  # .inf, .nan
        return float(digits.replace(".", ""))
    value = float(digits)
    if math.isinf(value) or (value == 0 and re.match(r"[^e]*[1-9]", digits)):
        return None
    return int(Decimal(digits)) if "e" in digits and value.is_integer() else value


def _flaw(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


_Loader.yaml_implicit_resolvers = {}
for _tag, _form, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+(_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form})$"), _first)
    if _tag != "merge":
        _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_scalar_value)
_Loader.add_constructor(_MERGE, lambda _, node: node.value)  # `<<` as a value is a text
