"""Prompt files: the four of the demo, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.study.places import REPOSITORY
from finephrase_dagster.study.prompt import PLACEHOLDER, PromptError, read_prompt, read_prompts

PROMPTS = REPOSITORY / "prompts"
HEADER = "---\nname: faq\nformat: faq\nversion: 1\ndescription: d\n---\n"


def written(folder: Path, text: str, name: str = "faq") -> Path:
    path = folder / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_prompt_of_the_project_can_be_read() -> None:
    names = tuple(sorted(path.stem for path in PROMPTS.glob("*.md") if path.stem != "README"))
    assert {"faq", "math", "table", "tutorial"} <= set(names)
    for name, prompt in read_prompts(PROMPTS, names).items():
        assert prompt.name == name


@given(st.text())
def test_the_document_stands_in_the_filled_prompt_as_it_is(document: str) -> None:
    prompt = read_prompt(PROMPTS / "faq.md")
    before, after = prompt.template.split(PLACEHOLDER)
    assert prompt.fill(document) == before + document + after


WRONG = {
    "no front matter": ("Write [[DOCUMENT]]", "faq.md:1: no front matter"),
    "no placeholder": (HEADER + "Write.", r"faq.md:\d+: .* stands 0 times"),
    "two placeholders": (HEADER + "[[DOCUMENT]]\nand\n[[DOCUMENT]]", "faq.md:9: .* stands 2 times"),
    "an unknown format": (HEADER.replace("format: faq", "format: poem") + "[[DOCUMENT]]", "faq.md:3: format"),
    "another name": (HEADER.replace("name: faq", "name: table") + "[[DOCUMENT]]", "a prompt is named as its file"),
    "an unknown field": (HEADER.replace("version: 1", "version: 1\nsize: 2") + "[[DOCUMENT]]", "faq.md:5: size"),
    "a list": ("---\n- name\n---\n[[DOCUMENT]]", "faq.md:2: the front matter has no fields"),
    "broken YAML": ("---\nname: [\n---\n[[DOCUMENT]]", r"faq.md:\d: the front matter is not YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_prompt_is_refused_with_file_and_line(tmp_path: Path, case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(PromptError, match=message):
        read_prompt(written(tmp_path, text))


def test_a_prompt_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "faq.md"
    path.write_bytes(HEADER.encode() + b"\xff [[DOCUMENT]]")
    with pytest.raises(PromptError, match="is not UTF-8"):
        read_prompt(path)


def test_a_missing_prompt_lists_those_there_are(tmp_path: Path) -> None:
    written(tmp_path, HEADER + PLACEHOLDER)
    with pytest.raises(PromptError, match=r"prompt 'poem': there is no file .*; known prompts: faq"):
        read_prompt(tmp_path / "poem.md")


def test_any_edit_of_the_file_changes_its_digest(tmp_path: Path) -> None:
    first = read_prompt(written(tmp_path, HEADER + "Write [[DOCUMENT]]")).digest
    assert read_prompt(written(tmp_path, HEADER + "Write, [[DOCUMENT]]")).digest != first
    assert (
        read_prompt(written(tmp_path, HEADER.replace("version: 1", "version: 2") + "Write [[DOCUMENT]]")).digest
        != first
    )
