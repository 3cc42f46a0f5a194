"""A prompt: one Markdown file of front matter and a template.

```
---
name: faq
family: own
format: faq
origin: FinePhrase (arXiv 2604.13977)
document: first
check: faq
version: 1
description: Ordered questions with answers that stand on their own.
---
[[DOCUMENT]]

Turn the text above into ...
```

The name is the partition; the file's hash is its version in the lineage. What a template may consist of
stands in `study/turns.py`; `prompts/README.md` tells how to add a prompt.
"""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.fields import Name
from finephrase_dagster.study.turns import PLACEHOLDER, Position, TemplateError, Turn, parse_turns, positions

Family = Literal["own", "nemotron_cc", "beyond_web", "rewire", "other"]
Check = Literal["faq", "math", "table", "tutorial", "qa_pairs", "list", "dialogue", "prose"]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_MARK = "---"
_NO_PROMPT = "readme"  # the one Markdown file of the folder that is none


class PromptError(FinephraseError, exit_status=2):
    """A prompt file is wrong; the message names file, line and remedy."""


class Prompt(BaseModel):
    """One prompt: what it asks for and the text that asks it.

    Attributes:
        name: the partition key; equals the file's name.
        family: whose prompts it is compared with.
        format: what is asked for, a short noun for people, such as `word problem`.
        origin: who asked for this first, for people.
        document: where the document stands in the template.
        check: the form a completion must have, checked by the audit; `prose` has none.
        version: the author's count of the template's changes.
        template: the text, with `[[DOCUMENT]]` where the document goes; see `study/turns.py`.
        system: an optional system message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    family: Family
    format: Phrase
    origin: Phrase
    document: Position
    check: Check
    version: int = Field(ge=1)
    description: Phrase
    system: str | None = Field(default=None, min_length=1)
    template: str

    @cached_property
    def digest(self) -> str:
        """The hash of all that the file says."""
        return hashlib.sha256(self.model_dump_json().encode("utf-8", "surrogatepass")).hexdigest()

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """The template's turns, the user's first and last.

        Raises:
            TemplateError: the template is wrong; that of a file was checked when the file was read.
        """
        return parse_turns(self.template)

    def fill(self, document: str) -> tuple[Turn, ...]:
        """The turns for a document, which stands in them as it is."""
        return tuple(
            Turn(turn.role, turn.text.replace(PLACEHOLDER, document, 1)) if PLACEHOLDER in turn.text else turn
            for turn in self.turns
        )


def prompt_names(folder: Path) -> tuple[str, ...]:
    """The names of all prompt files of a folder, sorted: every `*.md` but README.md and hidden files.

    No file is read: what they say may be wrong.

    Raises:
        PromptError: there is no such folder, or a file whose name cannot be a prompt's.
    """
    if not folder.is_dir():
        raise PromptError(f"{folder}: there is no such folder; prompts are files <name>.md in it")
    files = _prompt_files(folder)
    for path in files:
        _check_name(path.stem, f"{path}:1: {path.stem!r}")
    return tuple(path.stem for path in files)


def _check_name(name: str, shown: str) -> None:
    """Refuses what is no partition key: it might name a file elsewhere."""
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        raise PromptError(
            f"{shown} is no name for a prompt; use lower-case words joined by single underscores, 64 characters at most"
        ) from error


def read_prompts(folder: Path, names: tuple[str, ...]) -> dict[str, Prompt]:
    """Reads the named prompts from a folder, in the order given.

    Raises:
        PromptError: one of them is wrong or missing, or any two files of the folder claim the same name.
    """
    for name in names:
        _check_name(name, f"prompt {name!r}")
    _check_clash(folder)
    return {name: read_prompt(folder / f"{name}.md") for name in names}


def read_prompt(path: Path) -> Prompt:
    """Reads one prompt file: UTF-8, with or without a byte order mark, with any line ends.

    Raises:
        PromptError: no such file, no front matter, wrong or missing fields, or a wrong template.
    """
    header, body, body_line = _split(path, _text(path))
    fields = _fields(path, header)
    template = body.strip()
    body_line += body[: len(body) - len(body.lstrip())].count("\n")
    try:
        turns = parse_turns(template)
    except TemplateError as error:
        raise PromptError(f"{path}:{body_line + error.line - 1}: {error}") from error
    values = {name: field.value for name, field in fields.items() if field.value is not None}
    if "template" in values:
        raise PromptError(
            f"{path}:{fields['template'].line}: template: is no field; write the template below the front matter"
        )
    try:
        prompt = Prompt.model_validate({**values, "template": template})
    except ValidationError as error:
        raise PromptError(_wrong_fields(path, fields, error)) from error
    if prompt.name != path.stem:
        line = fields["name"].line
        raise PromptError(f"{path}:{line}: name is {prompt.name!r}; a prompt is named as its file, {path.stem!r}")
    if PLACEHOLDER in (prompt.system or ""):
        line = fields["system"].line
        raise PromptError(f"{path}:{line}: system: {PLACEHOLDER} stands in it; the document goes into a user's turn")
    if prompt.document not in (there := positions(turns)):
        line = fields["document"].line
        raise PromptError(
            f"{path}:{line}: document: says {prompt.document!r}, but the document stands {' and '.join(there)!r} in "
            f"the template; write 'document: {there[0]}' or move {PLACEHOLDER}"
        )
    return prompt


class _Field(NamedTuple):
    value: str | None  # None where nothing is written, or null
    line: int  # in the file, counted from 1


def _prompt_files(folder: Path) -> list[Path]:
    return sorted(
        (
            path
            for path in folder.glob("*.md")
            if path.is_file() and path.stem.casefold() != _NO_PROMPT and not path.name.startswith(".")
        ),
        key=lambda path: path.stem,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        known = ", ".join(other.stem for other in _prompt_files(path.parent)) or "none"
        raise PromptError(f"prompt {path.stem!r}: there is no file {path}; known prompts: {known}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(f"{path}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise PromptError(f"{path}:1: cannot be read ({error.strerror}); make it a file that you may read") from error


def _split(path: Path, text: str) -> tuple[str, str, int]:
    """Front matter, template, and the line at which the latter begins."""
    match = re.match(rf"{_MARK}[ \t]*\n(.*?)^{_MARK}[ \t]*(?:\n|\Z)", text, re.DOTALL | re.MULTILINE)
    if match is None:
        flaw = "the front matter has no end" if re.match(rf"{_MARK}[ \t]*(\n|\Z)", text) else "no front matter"
        raise PromptError(f"{path}:1: {flaw}; begin the file with '{_MARK}', fields, '{_MARK}', each on its line")
    return match.group(1), text[match.end() :], text.count("\n", 0, match.end()) + 1


def _fields(path: Path, header: str) -> dict[str, _Field]:
    """The fields of the front matter as they are written: `no` and `2026-01-01` are texts, too."""
    try:
        # YAML is composed, not constructed: a value's tag could make of it what no field can hold.
        node = yaml.compose(header, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line if mark else header.count("\n", 0, getattr(error, "position", 0))
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise PromptError(
            f"{path}:{line + 2}: the front matter is not YAML: {problem}; write a field a line, 'name: value', and "
            "a value with a colon or a bracket in quotes"
        ) from error
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise PromptError(f"{path}:2: the front matter has no fields; write 'name: {path.stem}' and so on")
    found: dict[str, _Field] = {}
    for key, value in node.value:
        line = key.start_mark.line + 2
        if not isinstance(key, yaml.ScalarNode):
            raise PromptError(f"{path}:{line}: the front matter's keys must be plain names; write 'name: value'")
        if not isinstance(value, yaml.ScalarNode):
            raise PromptError(f"{path}:{line}: {key.value}: is no plain text; write one value, in quotes if need be")
        if key.value in found:
            raise PromptError(f"{path}:{line}: {key.value}: stands in line {found[key.value].line}, too; remove one")
        found[key.value] = _Field(None if value.tag == "tag:yaml.org,2002:null" else value.value, line)
    return found


def _wrong_fields(path: Path, fields: dict[str, _Field], error: ValidationError) -> str:
    """Every wrong field, a line each, in the order of the file."""
    known = ", ".join(name for name in Prompt.model_fields if name != "template")
    remedies = {
        "missing": "write it into the front matter",
        "extra_forbidden": f"remove it; the fields are {known}",
        "string_pattern_mismatch": "use lower-case words joined by single underscores",
        "string_too_short": "write it, or remove the line where the field is optional",
        "int_parsing": "write a count, such as 1",
    }
    flaws = []
    for one in error.errors():
        field = str(one["loc"][0]) if one["loc"] else ""
        line = fields[field].line if field in fields else 2
        remedy = remedies.get(one["type"])
        flaws.append((line, f"{path}:{line}: {field}: {one['msg']}" + (f"; {remedy}" if remedy else "")))
    return "\n".join(flaw for _, flaw in sorted(flaws))


def _check_clash(folder: Path) -> None:
    """Refuses two files of one name, whatever else they say; names that differ only in case are one."""
    owners: dict[str, tuple[Path, int]] = {}
    for path in _prompt_files(folder):
        try:
            name = _fields(path, _split(path, _text(path))[0]).get("name")
        except PromptError:  # this file is refused when it is asked for
            name = None
        claims = {path.stem.casefold(): 1}
        if name is not None and name.value:
            claims |= {name.value.casefold(): name.line}
        for claim, line in claims.items():
            if claim in owners and owners[claim][0] != path:
                other, other_line = owners[claim]
                raise PromptError(
                    f"{path}:{line}: the name {claim!r} is claimed by {other}:{other_line}, too; rename one of the two "
                    "files and write its name into its front matter"
                )
        owners |= {claim: (path, line) for claim, line in claims.items()}
