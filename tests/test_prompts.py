"""Prompt files: the project's eighteen, what a template may consist of, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finephrase_dagster.study.paths import REPOSITORY
from finephrase_dagster.study.prompt import Prompt, PromptError, prompt_names, read_prompt, read_prompts
from finephrase_dagster.study.turns import PLACEHOLDER, Turn

PROMPTS = REPOSITORY / "prompts"
FAMILIES = {
    "own": {
        "article", "commentary", "discussion", "explanation", "faq", "math", "narrative", "table", "tutorial",
    },
    "nemotron_cc": {
        "distill", "diverse_qa_pairs", "extract_knowledge", "knowledge_list", "wikipedia_style_rephrasing",
    },
    "beyond_web": {"continue", "summarize"},
    "rewire": {"guided_rewrite_original", "guided_rewrite_improved"},
}  # fmt: skip
HEADER = """---
name: faq
family: other
format: list of questions
origin: a test
document: first
check: faq
version: 1
description: d
---
"""
FIRST = HEADER.count("\n") + 1  # the template's first line
CONVERSATION = "[[USER]]\nA\n\nB\n\n[[ASSISTANT]]\nC\n[[USER]]\nD: [[DOCUMENT]]\n"


def written(folder: Path, text: str, name: str = "faq") -> Path:
    path = folder / f"{name}.md"
    path.write_text(text, encoding="utf-8")
    return path


def changed(**fields: str) -> str:
    """The header with other values of its fields."""
    header = HEADER
    for name, value in fields.items():
        header = re.sub(rf"^{name}: .*$", f"{name}: {value}", header, flags=re.MULTILINE)
    return header


@pytest.fixture(scope="module")
def library() -> dict[str, Prompt]:
    return read_prompts(PROMPTS, prompt_names(PROMPTS))


def test_the_families_have_exactly_their_members(library: dict[str, Prompt]) -> None:
    assert len(library) == 18
    for family, members in FAMILIES.items():
        assert {name for name, prompt in library.items() if prompt.family == family} == members
    assert set(library) == set().union(*FAMILIES.values())


def test_every_prompt_shares_its_documents_prefix_and_asks_for_the_output_alone(library: dict[str, Prompt]) -> None:
    for prompt in library.values():
        assert prompt.document == "first"
        assert re.search(r"Reply with [a-z ,]+ alone\.\Z", prompt.template)
        assert 60 <= len(prompt.template.split()) <= 220


def test_the_readme_lists_every_prompt_as_its_file_says(library: dict[str, Prompt]) -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\(\1\.md\) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", (PROMPTS / "README.md").read_text(), re.M
    )
    assert sorted(rows) == sorted(
        (prompt.name, prompt.family, prompt.format, prompt.check, prompt.origin.split(" (")[0])
        for prompt in library.values()
    )


def test_the_example_of_the_readme_is_a_prompt(tmp_path: Path) -> None:
    example, conversation = re.findall(r"```\n(.*?)```", (PROMPTS / "README.md").read_text(), re.DOTALL)
    assert read_prompt(written(tmp_path, example, "letter")).family == "other"
    assert len(read_prompt(written(tmp_path, changed(document="last") + conversation)).turns) == 3


@given(st.text())
def test_the_filled_prompt_contains_the_unchanged_document(document: str) -> None:
    prompt = read_prompt(PROMPTS / "faq.md")
    before, after = prompt.template.split(PLACEHOLDER)
    assert prompt.fill(document) == (Turn("user", before + document + after),)


@pytest.mark.parametrize("document", [PLACEHOLDER, "[[USER]]\nx\n[[ASSISTANT]]\ny", r"\1 \g<0>"])
def test_a_document_that_looks_like_a_template_is_text(tmp_path: Path, document: str) -> None:
    prompt = read_prompt(written(tmp_path, changed(document="last") + CONVERSATION))
    assert prompt.fill(document)[-1] == Turn("user", f"D: {document}")
    assert len(prompt.fill(document)) == 3


def test_a_conversation_has_its_turns_and_keeps_its_raw_body(tmp_path: Path) -> None:
    prompt = read_prompt(written(tmp_path, changed(document="last") + CONVERSATION))
    assert prompt.template == CONVERSATION.strip()
    assert prompt.turns == (Turn("user", "A\n\nB"), Turn("assistant", "C"), Turn("user", f"D: {PLACEHOLDER}"))
    assert prompt.fill("text") == (*prompt.turns[:2], Turn("user", "D: text"))


@pytest.mark.parametrize(
    ("template", "position"),
    [
        ("[[DOCUMENT]]\n\nWrite.", "first"),
        ("Write: [[DOCUMENT]]", "last"),
        ("Write [[DOCUMENT]] again.", "inside"),
        ("[[USER]]\nA [[DOCUMENT]]\n[[ASSISTANT]]\nB\n[[USER]]\nC", "inside"),
        ("[[USER]]\n[[DOCUMENT]]\n[[ASSISTANT]]\nB\n[[USER]]\nC", "first"),
        (CONVERSATION, "last"),
    ],
)
def test_the_documents_position_must_be_so(tmp_path: Path, template: str, position: str) -> None:
    for said in ("first", "last", "inside"):
        path = written(tmp_path, changed(document=said) + template)
        if said == position:
            assert read_prompt(path).document == position
        else:
            with pytest.raises(PromptError, match=rf"faq.md:6: document: .*write 'document: {position}'"):
                read_prompt(path)


def test_a_document_without_instructions_is_first_and_last(tmp_path: Path) -> None:
    for said in ("first", "last"):
        assert read_prompt(written(tmp_path, changed(document=said) + PLACEHOLDER)).document == said


def test_byte_order_mark_and_foreign_line_ends_change_nothing(tmp_path: Path) -> None:
    text = HEADER + "[[DOCUMENT]]\n\nWrite.\n"
    plain = read_prompt(written(tmp_path, text))
    for ending in (b"\r\n", b"\r"):
        (tmp_path / "faq.md").write_bytes(b"\xef\xbb\xbf" + text.encode().replace(b"\n", ending))
        assert read_prompt(tmp_path / "faq.md").digest == plain.digest


def test_values_are_texts_whatever_yaml_takes_them_for(tmp_path: Path) -> None:
    prompt = read_prompt(written(tmp_path, changed(format="no", origin="2026-13-45") + PLACEHOLDER))
    assert (prompt.format, prompt.origin, prompt.system) == ("no", "2026-13-45", None)


WRONG = {
    "an empty file": ("", "faq.md:1: the front matter is missing"),
    "the front matter is missing": ("Write [[DOCUMENT]]", "faq.md:1: the front matter is missing"),
    "an open front matter": ("---\nname: faq\n[[DOCUMENT]]", "faq.md:1: the front matter does not end"),
    "an empty front matter": ("---\n---\n[[DOCUMENT]]", "faq.md:2: the front matter has no fields"),
    "a list": ("---\n- name\n---\n[[DOCUMENT]]", "faq.md:2: the front matter has no fields"),
    "broken YAML": (
        HEADER.replace("check: faq", "check: ["),
        r"faq.md:\d: the front matter is not valid YAML: .*; write",
    ),
    "a field of fields": (changed(origin="[a, b]") + PLACEHOLDER, "faq.md:5: origin: must be one plain value"),
    "a key of keys": (HEADER.replace("origin: a", "[a, b]: a") + PLACEHOLDER, "faq.md:5: .*plain text"),
    "a field twice": (
        HEADER.replace("check:", "name: faq\ncheck:") + PLACEHOLDER,
        "faq.md:7: .*'name' is defined twice",
    ),
    "no placeholder": (HEADER + "\nWrite.", rf"faq.md:{FIRST + 1}: the template contains .* 0 times; write it once"),
    "nothing below": (HEADER, rf"faq.md:{FIRST}: the template contains .* 0 times"),
    "two placeholders": (
        HEADER + "[[DOCUMENT]]\nand\n[[DOCUMENT]]",
        rf"faq.md:{FIRST + 2}: the template contains .* 2 times",
    ),
    "two in a line": (
        HEADER + "\n\nA\n[[DOCUMENT]] [[DOCUMENT]]",
        rf"faq.md:{FIRST + 3}: the template contains .* 2 times",
    ),
    "an unknown check": (changed(check="poem") + PLACEHOLDER, "faq.md:7: check: .*'faq'"),
    "an unknown family": (changed(family="mine") + PLACEHOLDER, "faq.md:3: family: .*'own'"),
    "an unknown position": (changed(document="top") + PLACEHOLDER, "faq.md:6: document: .*'first'"),
    "a version that is no number": (changed(version="new") + PLACEHOLDER, "faq.md:8: version: .*integer"),
    "a blank format": (changed(format="' '") + PLACEHOLDER, "faq.md:4: format: "),
    "no name": (HEADER.replace("name: faq\n", "") + PLACEHOLDER, "faq.md:2: name: .*add it to the front matter"),
    "a null name": (changed(name="") + PLACEHOLDER, "faq.md:2: name: .*add it to the front matter"),
    "another name": (changed(name="table") + PLACEHOLDER, "faq.md:2: name .*it must be the name of the file"),
    "a name that is none": (changed(name="a__b") + PLACEHOLDER, "faq.md:2: name: .*single underscores"),
    "an unknown field": (HEADER.replace("check:", "size: 2\ncheck:") + PLACEHOLDER, "faq.md:7: size: .*remove it"),
    "a template above": (
        HEADER.replace("check:", "template: x\ncheck:") + PLACEHOLDER,
        "faq.md:7: template: is not a f",
    ),
    "a document for the system": (
        HEADER.replace("check:", "system: Read [[DOCUMENT]]\ncheck:") + PLACEHOLDER,
        "faq.md:7: system: .*turn of the user",
    ),
    "text before the turns": (HEADER + f"x\n{CONVERSATION}", rf"faq.md:{FIRST}: there is text before the first turn"),
    "an empty turn": (HEADER + CONVERSATION.replace("C\n", " \n"), rf"faq.md:{FIRST + 5}: the turn .*is empty"),
    "an empty last turn": (HEADER + f"{CONVERSATION}[[ASSISTANT]]\nE\n[[USER]]", rf"faq.md:{FIRST + 11}: .*is empty"),
    "the assistant first": (HEADER + "[[ASSISTANT]]\nA\n[[USER]]\n[[DOCUMENT]]", rf"faq.md:{FIRST}: .*alternate"),
    "the user twice": (HEADER + f"[[USER]]\nA\n{CONVERSATION}", rf"faq.md:{FIRST + 2}: .*alternate"),
    "the assistant last": (HEADER + f"{CONVERSATION}[[ASSISTANT]]\nE", rf"faq.md:{FIRST + 9}: the last turn is"),
    "a document in an answer": (
        HEADER + "[[USER]]\nA\n[[ASSISTANT]]\nB\n[[DOCUMENT]]\n[[USER]]\nC",
        rf"faq.md:{FIRST + 4}: .*in an assistant's turn",
    ),
    "a system turn": (HEADER + "[[SYSTEM]]\nA\n[[USER]]\n[[DOCUMENT]]", rf"faq.md:{FIRST}: .*field 'system'"),
    "a marker in small letters": (HEADER + "[[user]]\n[[DOCUMENT]]", rf"faq.md:{FIRST}: .*alone on its line"),
    "text behind a marker": (HEADER + "[[USER]] A [[DOCUMENT]]", rf"faq.md:{FIRST}: .*alone on its line"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_broken_prompt_is_refused_with_file_and_line(tmp_path: Path, case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(PromptError, match=message) as refused:
        read_prompt(written(tmp_path, text))
    assert str(refused.value).startswith(f"{tmp_path / 'faq.md'}:")


def test_every_wrong_field_is_named_in_the_order_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(PromptError) as refused:
        read_prompt(written(tmp_path, changed(family="mine", version="0", check="poem") + PLACEHOLDER))
    assert re.findall(r"faq\.md:(\d+): (\w+):", str(refused.value)) == [
        ("3", "family"),
        ("7", "check"),
        ("8", "version"),
    ]


def test_a_prompt_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "faq.md"
    path.write_bytes(HEADER.encode() + b"\xff [[DOCUMENT]]")
    with pytest.raises(PromptError, match=rf"faq.md:{FIRST}: byte \d+ is not UTF-8"):
        read_prompt(path)


def test_a_folder_that_is_named_as_a_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "faq.md").mkdir()
    with pytest.raises(PromptError, match=r"faq.md:1: cannot be read"):
        read_prompt(tmp_path / "faq.md")


def test_a_missing_prompt_lists_those_there_are(tmp_path: Path) -> None:
    written(tmp_path, HEADER + PLACEHOLDER)
    with pytest.raises(PromptError, match=r"prompt 'poem': no such file: .*; known prompts: faq"):
        read_prompts(tmp_path, ("poem",))


def test_all_missing_prompts_are_named_with_those_that_may_be_meant(tmp_path: Path) -> None:
    written(tmp_path, HEADER + PLACEHOLDER)
    with pytest.raises(PromptError) as caught:
        read_prompts(tmp_path, ("fag", "faq", "tabel"))
    assert str(caught.value).splitlines() == [
        f"prompt 'fag': no such file: {tmp_path}/fag.md; did you mean faq?",
        f"prompt 'tabel': no such file: {tmp_path}/tabel.md; known prompts: faq",
    ]


def test_the_names_of_a_folder_are_its_files_sorted_and_unread(tmp_path: Path) -> None:
    for name in ("table", "faq", "README", ".draft"):
        written(tmp_path, "anything", name)
    (tmp_path / "notes.txt").write_text("no prompt")
    (tmp_path / "folder.md").mkdir()
    assert prompt_names(tmp_path) == ("faq", "table")
    with pytest.raises(PromptError, match="no such folder; create it"):
        prompt_names(tmp_path / "none")


def test_prompts_come_in_the_order_asked_for() -> None:
    assert list(read_prompts(PROMPTS, ("table", "faq"))) == ["table", "faq"]


@pytest.mark.parametrize("asked", [("faq",), ("faq_copy",), ("faq", "table"), ()])
def test_two_files_with_one_name_are_refused_whichever_is_read(tmp_path: Path, asked: tuple[str, ...]) -> None:
    written(tmp_path, HEADER + PLACEHOLDER)
    written(tmp_path, "# a comment\n" + HEADER + PLACEHOLDER, "broken")
    copy = written(tmp_path, changed(name="'faq' # as before") + PLACEHOLDER, "faq_copy")
    with pytest.raises(PromptError, match=r"faq\.md:2 has the name 'faq' too; rename one") as refused:
        read_prompts(tmp_path, asked)
    assert str(refused.value).startswith(f"{copy}:2: ")


@pytest.mark.parametrize("text", [changed(name="FAQ") + PLACEHOLDER, "broken"])
def test_names_that_differ_only_in_case_are_one_name(tmp_path: Path, text: str) -> None:
    written(tmp_path, HEADER + PLACEHOLDER)
    written(tmp_path, text, "FAQ")
    with pytest.raises(PromptError, match=r"FAQ\.md:[12] has the name 'faq' too"):
        read_prompts(tmp_path, ("faq",))


def test_another_broken_file_of_the_folder_stops_nobody(tmp_path: Path) -> None:
    written(tmp_path, HEADER + PLACEHOLDER)
    written(tmp_path, "a draft", "draft")
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe")
    assert list(read_prompts(tmp_path, ("faq",))) == ["faq"]


def test_the_digest_changes_with_the_text_that_is_sent_and_with_nothing_else(tmp_path: Path) -> None:
    first = read_prompt(written(tmp_path, HEADER + "[[DOCUMENT]] Write")).digest
    assert read_prompt(written(tmp_path, HEADER + "[[DOCUMENT]] Write,")).digest != first
    assert read_prompt(written(tmp_path, changed(version="1\nsystem: Be brief") + "[[DOCUMENT]] Write")).digest != first
    assert read_prompt(written(tmp_path, changed(version="2") + "[[DOCUMENT]] Write")).digest == first
    assert read_prompt(written(tmp_path, changed(description="other") + "[[DOCUMENT]] Write  \n\n")).digest == first


def refused_or_read(text: str) -> Prompt | None:
    """Reads a prompt file of that text; a refusal must begin with the file and a line of it."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "faq.md"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            prompt = read_prompts(Path(folder), ("faq",))["faq"]
        except PromptError as error:
            line = re.match(rf"{re.escape(str(path))}:(\d+): \S", str(error))
            assert line is not None, str(error)
            assert 1 <= int(line[1]) <= len(text.splitlines()) + 1
            return None
    assert prompt.name == "faq"
    assert sum(turn.text.count(PLACEHOLDER) for turn in prompt.turns) == 1
    return prompt


def without_lines(lines: list[str], data: st.DataObject) -> list[str]:
    index = data.draw(st.integers(0, len(lines) - 1))
    return lines[:index] + lines[index + 1 :]


def with_a_line_again(lines: list[str], data: st.DataObject) -> list[str]:
    index = data.draw(st.integers(0, len(lines) - 1))
    return [*lines[:index], lines[index], *lines[index:]]


def with_another_line(lines: list[str], data: st.DataObject) -> list[str]:
    odd = [PLACEHOLDER, "[[USER]]", "[[ASSISTANT]]", "[[system]]", "---", "\u2028", "\ufeff", "a: &a [*a]", "<<: x"]
    index = data.draw(st.integers(0, len(lines) - 1))
    line = data.draw(st.one_of(st.sampled_from(odd), st.text(max_size=20)))
    return [*lines[:index], line, *lines[index:]]


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from([*(path.stem for path in PROMPTS.glob("[a-z]*.md")), "conversation"]))
def test_a_damaged_file_is_read_or_refused_with_file_and_line(data: st.DataObject, name: str) -> None:
    text = (
        changed(document="last") + CONVERSATION
        if name == "conversation"
        else (PROMPTS / f"{name}.md").read_text().replace(f"name: {name}", "name: faq")
    )
    lines = text.split("\n")
    for _ in range(data.draw(st.integers(1, 4))):
        damage = data.draw(st.sampled_from([without_lines, with_a_line_again, with_another_line]))
        lines = damage(lines, data) if lines else lines
    refused_or_read("\n".join(lines))


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 5), st.data())
def test_a_repeated_placeholder_is_always_refused(count: int, data: st.DataObject) -> None:
    words = ["Write", "the", "text", "again.", "\n"]
    for _ in range(count):
        words.insert(data.draw(st.integers(0, len(words))), PLACEHOLDER)
    assert refused_or_read(HEADER + " ".join(words)) is None


YAML_TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "yes", "~", "[a", "{a: b}", "!!timestamp x", "!!int ''", "!!python/object:os.system x", "2026-13-45", "*a",
            "&a", '"\\ud800"', '"\\U00110000"', "|", "|9\n  x", "'", "- -", "%YAML 9.9", "--- x", "1:2:3", "\x00", "=",
            "[" * 3000, "1" * 5000,
        ]
    ),
)  # fmt: skip
KEY = st.one_of(st.sampled_from(list(Prompt.model_fields)), YAML_TEXT)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(KEY, YAML_TEXT), max_size=6), st.booleans())
def test_any_front_matter_is_read_or_refused_with_file_and_line(fields: list[tuple[str, str]], whole: bool) -> None:
    lines = "".join(f"{key}: {value}\n" for key, value in fields)
    rest = HEADER.split("\n", 1)[1] if whole else "---\n"
    refused_or_read(f"---\n{lines}{rest}{PLACEHOLDER}")
