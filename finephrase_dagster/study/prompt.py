"""A prompt: one Markdown file of front matter and a template.

```
---
name: faq
format: faq
version: 1
description: Ordered questions with answers that stand on their own.
---
Write ... [[DOCUMENT]]
```

The placeholder `[[DOCUMENT]]` stands exactly once. The name is the partition; the file's hash is its
version in the lineage.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finephrase_dagster.study.fingerprint import sha256_text

PLACEHOLDER = "[[DOCUMENT]]"
Format = Literal["faq", "math", "table", "tutorial", "prose"]


class PromptError(ValueError):
    """A prompt file is wrong; the message names file, line and remedy."""


class Prompt(BaseModel):
    """One prompt: what it asks for and the text that asks it.

    Attributes:
        name: the partition key; equals the file's name.
        format: the form a completion must have, checked by the audit; `prose` has none.
        version: the author's count of the template's changes.
        template: the text, with `[[DOCUMENT]]` where the document goes.
        system: an optional system message.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$", max_length=64)
    format: Format
    version: int = Field(ge=1)
    description: str = Field(min_length=1)
    system: str | None = None
    template: str

    @cached_property
    def digest(self) -> str:
        """The hash of all that the file says."""
        return sha256_text(self.model_dump_json())

    def fill(self, document: str) -> str:
        """The user message for a document."""
        before, after = self.template.split(PLACEHOLDER)
        return f"{before}{document}{after}"


def read_prompt(path: Path) -> Prompt:
    """Reads one prompt file.

    Raises:
        PromptError: no such file, no front matter, a wrong field, or not exactly one placeholder.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        known = sorted(other.stem for other in path.parent.glob("*.md") if other.stem != "README")
        raise PromptError(
            f"prompt {path.stem!r}: there is no file {path}; known prompts: {', '.join(known) or 'none'}"
        ) from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    match = re.match(r"---\n(.*?\n)---\n(.*)\Z", text, re.DOTALL)
    if match is None:
        raise PromptError(f"{path}:1: no front matter; begin the file with '---', fields, '---'")
    header, template = match.group(1), match.group(2).strip()
    try:
        fields = yaml.safe_load(header)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 2 if mark else 1
        raise PromptError(f"{path}:{line}: the front matter is not YAML: {error}") from error
    if not isinstance(fields, dict):
        raise PromptError(f"{path}:2: the front matter has no fields; write 'name: {path.stem}' and so on")
    count = template.count(PLACEHOLDER)
    if count != 1:
        body = text[: match.start(2)].count("\n")
        places = [body + i for i, line in enumerate(text[match.start(2) :].split("\n"), 1) if PLACEHOLDER in line]
        line = places[1] if len(places) > 1 else body + 1
        raise PromptError(f"{path}:{line}: {PLACEHOLDER} stands {count} times in the template; write it once")
    try:
        prompt = Prompt(**{**fields, "template": template})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        line = next((i for i, text in enumerate(header.split("\n"), 2) if text.startswith(f"{field}:")), 2)
        raise PromptError(f"{path}:{line}: {field}: {first['msg']}") from error
    except TypeError as error:
        raise PromptError(f"{path}:2: the front matter's keys must be plain names: {error}") from error
    if prompt.name != path.stem:
        raise PromptError(f"{path}:2: name is {prompt.name!r}; a prompt is named as its file, {path.stem!r}")
    return prompt


def read_prompts(folder: Path, names: tuple[str, ...]) -> dict[str, Prompt]:
    """Reads the named prompts from a folder, in the order given."""
    return {name: read_prompt(folder / f"{name}.md") for name in names}
