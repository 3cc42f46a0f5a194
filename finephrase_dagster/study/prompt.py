"""A prompt: one Markdown file of front matter and a template.

The name is the partition; the hash of the texts that are sent is its version in the lineage. Only the template and
the name are needed: a prompt of one's own may leave out the other fields. `study/turns.py` describes templates,
`prompts/README.md` how to add a prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.fields import NAME_ADAPTER, NAME_RULE, Name, similar
from finephrase_dagster.study.loader import InvalidYaml, compose_yaml, read_bounded
from finephrase_dagster.study.turns import PLACEHOLDER, Position, TemplateError, Turn, parse_turns, positions

Family = Literal["own", "nemotron_cc", "beyond_web", "rewire", "other"]
Check = Literal["faq", "math", "table", "tutorial", "qa_pairs", "list", "dialogue", "paragraphs", "prose"]
Phrase = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

GRAMMAR = ".ebnf"
REQUIRED = {"quantities": 3, "words": 100}
"""What a prompt can require of a document, and the least number where none is given; see `corpora/eligibility.py`."""
_MARK = "---"
_NO_PROMPT = "readme"  # the only Markdown file of the folder that is not a prompt


def parse_requires(text: str) -> dict[str, int]:
    """Return the least number of each thing that a text such as "3 quantities, 100 words" requires, by name.

    Raises:
        ValueError: it is not of that form.
    """
    required = {}
    for part in text.split(","):
        match = re.fullmatch(rf"(?:([1-9][0-9]{{0,8}}) )?({'|'.join(REQUIRED)})", " ".join(part.split()))
        if match is None or match[2] in required:
            raise ValueError(f"{text!r} is not a rule; write for example '3 quantities', or '3 quantities, 100 words'")
        required[match[2]] = int(match[1] or REQUIRED[match[2]])
    return dict(sorted(required.items()))


def _check_requires(text: str) -> str:
    return ", ".join(f"{least} {name}" for name, least in parse_requires(text).items())


Requires = Annotated[str, AfterValidator(_check_requires)]
"""What a document must have to be rephrased: `quantities`, `5 quantities`, `3 quantities, 100 words`."""


class PromptError(FinephraseError, exit_status=2):
    """A prompt file is wrong; the message names the file, the line and what to do."""


class Prompt(BaseModel):
    """One prompt: its template and what the template asks for; `prompts/README.md` describes the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    family: Family = "own"
    format: Phrase
    origin: Phrase = "own"
    document: Position
    check: Check = "prose"
    version: int = Field(default=1, ge=1)
    description: Phrase = "A prompt of this study."
    system: str | None = Field(default=None, min_length=1)
    grammar: str | None = Field(default=None, min_length=1)
    requires: Requires | None = None
    template: str

    @cached_property
    def digest(self) -> str:
        """The hash of the texts that are sent and of what is required; what only people read does not count."""
        texts = json.dumps([self.system, self.template, *([self.required] if self.requires else [])])
        return hashlib.sha256(texts.encode()).hexdigest()

    @property
    def required(self) -> dict[str, int]:
        """The least number of each thing that a document must have."""
        return parse_requires(self.requires) if self.requires else {}

    @cached_property
    def turns(self) -> tuple[Turn, ...]:
        """The turns of the template; the first and the last are the user's.

        Raises:
            TemplateError: the template is wrong. Templates of files are checked when they are read.
        """
        return parse_turns(self.template)

    def fill(self, document: str) -> tuple[Turn, ...]:
        """Return the turns with a document in place of the placeholder."""
        return tuple(
            Turn(turn.role, turn.text.replace(PLACEHOLDER, document, 1)) if PLACEHOLDER in turn.text else turn
            for turn in self.turns
        )


def prompt_names(folder: Path) -> tuple[str, ...]:
    """Return the names of all prompt files of a folder, sorted: every `*.md` except README.md and hidden files.

    The files are not read, so they may be wrong.

    Raises:
        PromptError: the folder does not exist, or a file has a name that no prompt can have.
    """
    if not folder.is_dir():
        raise PromptError(f"{folder}: no such folder; create it, with one file <name>.md per prompt")
    files = _prompt_files(folder)
    for path in files:
        _check_name(path.stem, f"{path}:1: {path.stem!r}")
    return tuple(path.stem for path in files)


def _check_name(name: str, shown: str) -> None:
    """Refuse a name that is not a partition key; it might lead to a file in another folder."""
    try:
        NAME_ADAPTER.validate_python(name)
    except ValidationError as error:
        raise PromptError(f"{shown} is not a valid name of a prompt; use {NAME_RULE}") from error


def read_prompts(
    folder: Path,
    names: tuple[str, ...],
    own: Mapping[str, str] | None = None,
    requires: Mapping[str, str] | None = None,
) -> dict[str, Prompt]:
    """Read the named prompts of a folder, in the given order.

    Args:
        folder: the folder of the packaged prompts.
        own: the files of prompts that are not in the folder, by name.
        requires: by name, rules in place of the prompts' own `requires`.

    Raises:
        PromptError: one of them is wrong or missing, or two files of the folder have the same name.
    """
    for name in names:
        _check_name(name, f"prompt {name!r}")
    _check_clash(folder)
    known = [path.stem for path in _prompt_files(folder)]
    files = {name: Path(path) for name, path in (own or {}).items()}
    if unknown := [name for name in names if name not in known and name not in files]:
        flaws = "\n".join(
            f"prompt {name!r}: no such file: {folder / name}.md; {similar(name, known, 'known prompts')}"
            for name in unknown
        )
        raise PromptError(flaws)
    prompts = {name: read_prompt(files.get(name, folder / f"{name}.md")) for name in names}
    rules = {name: {"requires": rule} for name, rule in (requires or {}).items()}
    return {name: prompt.model_copy(update=rules.get(name, {})) for name, prompt in prompts.items()}


def read_referenced(folder: Path, references: Sequence[str]) -> dict[str, Prompt]:
    """Read prompts that a person named: names of packaged ones, and paths of files.

    Raises:
        PromptError: one of them is wrong or missing.
    """
    files = {Path(one).stem: one for one in references if one.endswith(".md")}
    return read_prompts(folder, tuple(Path(one).stem if one.endswith(".md") else one for one in references), files)


def read_prompt(path: Path) -> Prompt:
    """Read one prompt file: UTF-8, with or without a byte order mark, with any line ends.

    Raises:
        PromptError: the file or its front matter is missing, fields are wrong or missing, or the template is wrong.
    """
    header, body, body_line = _split(path, _text(path))
    fields = _fields(path, header)
    template = _without_trailing_spaces(body)
    body_line += body[: len(body) - len(body.lstrip())].count("\n")
    try:
        turns = parse_turns(template)
    except TemplateError as error:
        raise PromptError(f"{path}:{body_line + error.line - 1}: {error}") from error
    values = {name: field.value for name, field in fields.items() if field.value is not None}
    if "system" in values:
        values["system"] = _without_trailing_spaces(values["system"])
    if "template" in values:
        raise PromptError(
            f"{path}:{fields['template'].line}: template: is not a field; write the template below the front matter"
        )
    there = positions(turns)
    known = {"format": values.get("name", path.stem), "document": there[0]}
    try:
        prompt = Prompt.model_validate({**known, **values, "template": template, "grammar": _grammar(path, fields)})
    except ValidationError as error:
        raise PromptError(_wrong_fields(path, fields, error)) from error
    if prompt.name != path.stem:
        line = fields["name"].line
        raise PromptError(f"{path}:{line}: name is {prompt.name!r}; it must be the name of the file, {path.stem!r}")
    if PLACEHOLDER in (prompt.system or ""):
        line = fields["system"].line
        raise PromptError(f"{path}:{line}: system: contains {PLACEHOLDER}; move it into a turn of the user")
    if prompt.document not in there:
        line = fields["document"].line
        raise PromptError(
            f"{path}:{line}: document: is {prompt.document!r}, but in the template the document is "
            f"{' and '.join(there)!r}; write 'document: {there[0]}' or move {PLACEHOLDER}"
        )
    return prompt


def _without_trailing_spaces(text: str) -> str:
    """Return a text without spaces at the end of its lines, which nobody sees and a model would read."""
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip()


class _Field(NamedTuple):
    value: str | None  # None if it is empty or null
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
        return read_bounded(path)
    except InvalidYaml as error:
        raise PromptError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        known = ", ".join(other.stem for other in _prompt_files(path.parent) if other.stem.islower())
        remedy = f"known prompts: {known}" if known else "correct the path"
        raise PromptError(f"prompt {path.stem!r}: no such file: {path}; {remedy}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(f"{path}:{line}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise PromptError(f"{path}:1: cannot be read ({error.strerror}); check its permissions") from error


def _split(path: Path, text: str) -> tuple[str, str, int]:
    """Return the front matter, the template, and the line where the template begins."""
    match = re.match(rf"{_MARK}[ \t]*\n(.*?)^{_MARK}[ \t]*(?:\n|\Z)", text, re.DOTALL | re.MULTILINE)
    if match is None:
        flaw = (
            "the front matter does not end"
            if re.match(rf"{_MARK}[ \t]*(\n|\Z)", text)
            else "the front matter is missing"
        )
        raise PromptError(f"{path}:1: {flaw}; begin the file with a line '{_MARK}', the fields, and a line '{_MARK}'")
    return match.group(1), text[match.end() :], text.count("\n", 0, match.end()) + 1


def _grammar(path: Path, fields: dict[str, _Field]) -> str | None:
    """Return the grammar that the front matter holds, or that of the file beside the prompt that it names."""
    field = fields.get("grammar", _Field(None, 0))
    if field.value is None or "::=" in field.value:
        return field.value
    file = path.parent / field.value
    if file.suffix != GRAMMAR or file.name != field.value:
        raise PromptError(
            f"{path}:{field.line}: grammar: is {field.value!r}; write a grammar (root ::= ...), or the name of a file "
            f"*{GRAMMAR} in the folder of the prompt"
        )
    grammar = _text(file) if file.exists() else ""
    if "::=" not in grammar:
        raise PromptError(f"{path}:{field.line}: grammar: {file} has no rule; write root ::= ... there")
    return grammar


def _fields(path: Path, header: str) -> dict[str, _Field]:
    """Return the fields of the front matter as they are written: `no` and `2026-01-01` are texts."""
    try:
        node = compose_yaml(header)
    except InvalidYaml as error:
        raise PromptError(
            f"{path}:{(error.line or 1) + 1}: the front matter is not valid YAML: {error}; write one "
            "'name: value' per line, and values with colons or brackets in quotes"
        ) from error
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise PromptError(f"{path}:2: the front matter has no fields; begin with 'name: {path.stem}'")
    fields: dict[str, _Field] = {}
    for key, value in node.value:
        line = key.start_mark.line + 2
        if not isinstance(value, yaml.ScalarNode):
            raise PromptError(f"{path}:{line}: {key.value}: must be one plain value; put it in quotes")
        fields[key.value] = _Field(None if value.tag == "tag:yaml.org,2002:null" else value.value, line)
    return fields


def _wrong_fields(path: Path, fields: dict[str, _Field], error: ValidationError) -> str:
    """Return one line per wrong field, in the order of the file."""
    known = ", ".join(name for name in Prompt.model_fields if name != "template")
    remedies = {
        "missing": "add it to the front matter",
        "extra_forbidden": f"remove it; the fields are {known}",
        "string_pattern_mismatch": f"use {NAME_RULE}",
        "string_too_short": "write a value, or remove the line if the field is optional",
        "int_parsing": "write a whole number, such as 1",
    }
    flaws = []
    for one in error.errors():
        field = str(one["loc"][0]) if one["loc"] else ""
        line = fields[field].line if field in fields else 2
        remedy = remedies.get(one["type"])
        flaws.append((line, f"{path}:{line}: {field}: {one['msg']}" + (f"; {remedy}" if remedy else "")))
    return "\n".join(flaw for _, flaw in sorted(flaws))


def _check_clash(folder: Path) -> None:
    """Refuse two files with the same name in file name or front matter; case does not matter."""
    owners: dict[str, tuple[Path, int]] = {}
    for path in _prompt_files(folder):
        try:
            name = _fields(path, _split(path, _text(path))[0]).get("name")
        except PromptError:  # the file is refused when it is used
            name = None
        claims = {path.stem.casefold(): 1}
        if name is not None and name.value:
            claims |= {name.value.casefold(): name.line}
        for claim, line in claims.items():
            if claim in owners and owners[claim][0] != path:
                other, other_line = owners[claim]
                raise PromptError(
                    f"{path}:{line}: {other}:{other_line} has the name {claim!r} too; rename one of the two files and "
                    "change its front matter"
                )
        owners |= {claim: (path, line) for claim, line in claims.items()}
