"""How YAML is read: by the core schema of YAML 1.2, within bounds."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.study.file import StudyError, read_fields
from finephrase_dagster.study.prompt import PromptError, read_prompt


def read(path: Path, text: str) -> Any:
    path.write_text(text, encoding="utf-8")
    return read_fields(path, "study", example="studies/demo.yaml")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml") / "study.yaml"


@pytest.mark.parametrize(
    ("plain", "value"),
    [
        *(
            (text, text)
            for text in ("no", "Yes", "on", "OFF", "y", "10:00", "1:30:15", "2025-01-31", "1__0", "0o9", "<<")
        ),
        *((text, None) for text in ("~", "null", "")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, False) for text in ("false", "False")),
        *(("0", 0), ("-12", -12), ("160_000", 160_000), ("0x1f", 31), ("0o17", 15), ("20e9", 20_000_000_000)),
        *(("1.10", 1.1), ("1e-3", 0.001), (".5", 0.5), ("5.", 5.0), ("-.inf", float("-inf"))),
    ],
)
def test_a_plain_value_means_what_yaml_1_2_says(plain: str, value: object, file: Path) -> None:
    got = read(file, f"field: {plain}\nlist: [1, {plain or '~'}]\n")
    assert got == {"field": value, "list": [1, value]}
    assert type(got["field"]) is type(value)


@pytest.mark.parametrize("plain", ["010", "00", "-07", "0_1"])
def test_a_number_that_begins_with_zero_is_refused_with_its_line(plain: str, file: Path) -> None:
    with pytest.raises(StudyError, match=rf"study.yaml:2: not valid YAML: '{plain}' begins with 0; write the number"):
        read(file, f"name: a\nseed: {plain}\n")
    assert read(file, f"seed: '{plain}'\n") == {"seed": plain}


@pytest.mark.parametrize(
    "tag", ["!!int 010", "!!set {a}", "!!timestamp 2025-01-01", "!mine x", "!!python/name:os.system x"]
)
def test_an_explicit_tag_is_refused(tag: str, file: Path) -> None:
    with pytest.raises(StudyError, match=r"study.yaml:1: not valid YAML: the tag '.*' cannot be used here; remove it"):
        read(file, f"field: {tag}\n")


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none(), st.text()))
def test_a_value_that_json_writes_is_read_as_it_is(file: Path, value: object) -> None:
    got = read(file, f"field: {json.dumps(value)}\n")["field"]
    assert type(got) is type(value) or (isinstance(value, float) and isinstance(got, int))
    assert got == (Decimal(repr(value)) if isinstance(value, float) and isinstance(got, int) else value)


@pytest.mark.parametrize("text", ["a\x85b", "a\u2028b", '"\\ud83d"'], ids=["next line", "separator", "half a pair"])
def test_a_character_that_would_be_lost_is_refused_with_its_line(text: str, file: Path) -> None:
    with pytest.raises(StudyError, match=r"study.yaml:2: not valid YAML: .*remove it"):
        read(file, f"name: a\nfield: {text}\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('name: "\\U00110000"', "study.yaml:1: .*an escape is a number above that of the last character"),
        ("name: &x a\nother: &x b", "study.yaml:2: .*found duplicate anchor 'x'; correct line 2"),
        ("a: 1\nb:\n  c: [1, 2\nd: 3", "study.yaml:4: .*expected ',' or ']', but got ':'; correct lines 3 to 4"),
        (f"name: !{'odd' * 100_000} a", "study.yaml:1: .*the tag '.* correct line 1"),
        (f"name: *{'a' * 100_000}", "study.yaml:1: .*found undefined alias '.* correct line 1"),
    ],
    ids=["escape", "anchor", "open list", "long tag", "long alias"],
)
def test_a_problem_is_named_with_its_line_in_few_words(text: str, problem: str, file: Path) -> None:
    with pytest.raises(StudyError, match=problem) as refused:
        read(file, text)
    assert len(str(refused.value)) < 600


def _merges(levels: int) -> str:
    lines = ["a0: &a0 {k: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}" for n in range(1, levels))]
    return "\n".join(lines)


def _aliases(levels: int) -> str:
    return "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_aliases(18), r"has more than 25,000 names and values"),
        ("a: 1" + "0" * 1_000_000, "is a number beyond what a computer can hold"),
        ("a: 0x" + "f" * 1_000_000, "is a number beyond what a computer can hold"),
        ("a: &a {<<: *a}", "is nested in itself by an alias"),
        ("a: " + "[" * 500_000, "nested more than 20 levels deep"),
        ("a:\n" + "- b\n" * 250_000, "study.yaml:[0-9]+: .*has more than 25,000 names and values"),
        ("a: {" + ",".join(f"k{n}" for n in range(20_000)) + "}", "has more than 25,000 names and values"),
        ("a: 1\n" * 2_000_000, "study.yaml: is larger than 1 MiB; shorten it"),
    ],
    ids=["aliases", "digits", "hexadecimal", "itself", "depth", "list", "names", "size"],
)
def test_a_small_file_that_would_grow_is_refused_at_once(text: str, message: str, file: Path) -> None:
    started = time.process_time()
    with pytest.raises(StudyError, match=message):
        read(file, text)
    assert time.process_time() - started < 5  # about 1 s


@pytest.mark.parametrize("plain", ["1e999999999", "-1e400", "1e-999999999", "00.5", "0" * 5000 + "1"])
def test_a_number_that_a_computer_cannot_hold_is_refused(plain: str, file: Path) -> None:
    with pytest.raises(
        StudyError, match=r"study.yaml:2: .*(is a number beyond what a computer can hold|begins with 0)"
    ):
        read(file, f"name: a\nrate: {plain}\n")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("name: faq\n" + "".join(f"k{n}: v\n" for n in range(15_000)), "has more than 25,000 names and values"),
        ("name: " + "[" * 5000, "nested more than 20 levels deep"),
        ("name: faq\nname: faq\n", r"faq.md:3: .*'name' is defined twice"),
        ("name: !!binary faq\n", "the tag .* cannot be used here"),
        ("description: " + "word " * 300_000, "faq.md: is larger than 1 MiB"),
    ],
    ids=["fields", "depth", "twice", "tag", "size"],
)
@pytest.mark.slow
def test_the_front_matter_of_a_prompt_is_read_within_the_same_bounds(header: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "faq.md").write_text(f"---\n{header}\n---\n[[DOCUMENT]]\n", encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_prompt(tmp_path / "faq.md")


def test_merge_keys_copy_each_field_once_and_the_nearest_wins(file: Path) -> None:
    fields = read(file, _merges(40))
    assert fields["a39"] == {"k": 1, **{f"k{n}": 1 for n in range(1, 40)}}
    got = read(file, "a: &a {x: 1, y: 1}\nb: &b {x: 2}\nc: {<<: [*b, *a], z: 3}\nd: {<<: *a, x: 4}\n")
    assert (got["c"], got["d"]) == ({"x": 2, "y": 1, "z": 3}, {"x": 4, "y": 1})


def test_a_long_base_60_number_is_a_text(file: Path) -> None:
    text = ":".join(["59"] * 300_000)
    assert read(file, f"a: {text}\n") == {"a": text}
