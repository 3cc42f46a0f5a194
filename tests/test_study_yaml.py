"""How YAML is read: by the core schema of YAML 1.2, within bounds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.study.file import StudyError, read_fields


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


@given(st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=20)))
def test_a_value_that_json_writes_is_read_as_it_is(file: Path, value: object) -> None:
    text = yaml.safe_dump({"field": value}, allow_unicode=True) if isinstance(value, str) else None
    if text is None:
        written = (
            {None: "null", True: "true", False: "false"}.get(value, repr(value))
            if isinstance(value, bool | None)
            else repr(value)
        )
        text = f"field: {written.replace('inf', '.inf')}\n"
    got = read(file, text)["field"]
    assert got == value
    assert isinstance(got, type(value)) or (isinstance(value, float) and value == int(got))


def _merges(levels: int) -> str:
    lines = ["a0: &a0 {k: 1}", *(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}], k{n}: 1}}" for n in range(1, levels))]
    return "\n".join(lines)


def _aliases(levels: int) -> str:
    return "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_aliases(40), r"has more than 1,000,000 values; use fewer aliases|nested more than"),
        ("a: 1" + "0" * 2_000_000, "looks like a int but is none"),
        ("a: &a {<<: *a}", "nested more than|found undefined alias"),
        ("a: " + "[" * 5000, "nested more than"),
    ],
    ids=["aliases", "digits", "itself", "depth"],
)
def test_a_small_file_that_would_grow_is_refused_at_once(text: str, message: str, file: Path) -> None:
    started = time.monotonic()
    with pytest.raises(StudyError, match=message):
        read(file, text)
    assert time.monotonic() - started < 10


def test_merge_keys_copy_each_field_once_and_the_nearest_wins(file: Path) -> None:
    fields = read(file, _merges(40))
    assert fields["a39"] == {"k": 1, **{f"k{n}": 1 for n in range(1, 40)}}
    got = read(file, "a: &a {x: 1, y: 1}\nb: &b {x: 2}\nc: {<<: [*b, *a], z: 3}\nd: {<<: *a, x: 4}\n")
    assert (got["c"], got["d"]) == ({"x": 2, "y": 1, "z": 3}, {"x": 4, "y": 1})


def test_a_long_base_60_number_is_a_text(file: Path) -> None:
    text = ":".join(["59"] * 500_000)
    assert read(file, f"a: {text}\n") == {"a": text}
