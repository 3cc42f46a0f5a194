"""Which rows of a source count: conditions, samples, limits and tokens, with the reason of every row that does not."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora_parts import documents, files, fineweb, listed, made, read, reasons
from finephrase_dagster.corpora.columns import Columns
from finephrase_dagster.corpora.document import CorpusError, Document, Dropped
from finephrase_dagster.corpora.kinds.files import FilesSource
from finephrase_dagster.corpora.shards import write_corpus
from finephrase_dagster.corpora.source import read_source
from finephrase_dagster.study.source import Sample


def test_a_limit_counts_documents_that_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": i, "text": "" if i % 2 else f"text {i}"}) + "\n" for i in range(10)))
    rows = read(files(path, limit=3))
    assert [row.id for row in documents(rows)] == ["0", "2", "4"]
    assert reasons(rows) == ["text is empty"] * 2


def test_the_best_pages_of_fineweb_edu_are_kept_and_the_others_counted(tmp_path: Path) -> None:
    pq.write_table(fineweb(range(60)), tmp_path / "rows.parquet")
    source = files(tmp_path / "rows.parquet", keep={"int_score": {"min": 4, "max": 5}}, token_column="token_count")
    rows = read(source)
    assert [row.id for row in documents(rows)] == [f"<urn:uuid:{n:08d}>" for n in range(60) if n % 6 >= 4]
    assert Counter(reasons(rows)) == {"int_score not in 4 to 5": 40}
    assert {row.tokens for row in documents(rows)} <= set(range(10, 17))


def kept(keep: dict[str, Any], values: dict[str, Any]) -> str | None:
    """Why a row is dropped; None if it is not."""
    source = FilesSource(kind="files", paths=("x.jsonl",), keep=keep)
    row = Columns(source).row({"text": "t", **values}, "here", 1)
    return row.reason if isinstance(row, Dropped) else None


@pytest.mark.parametrize(
    ("keep", "value", "reason"),
    [
        ({"min": 4, "max": 5}, 4, None),
        ({"min": 4, "max": 5}, 5.0, None),
        ({"min": 4, "max": 5}, 5.01, "score not in 4 to 5"),
        ({"min": 0.65}, 0.65, None),
        ({"min": 0.65}, 0.6, "score not 0.65 or more"),
        ({"max": 1}, 2, "score not 1 or less"),
        ({"max": 1}, None, "score not 1 or less"),
        ({"max": 1}, "0", "score is not a number but a text"),
        ({"max": 1}, False, "score not 1 or less"),
        ({"max": 1}, float("nan"), "score not 1 or less"),
        ({"max": 1}, [0], "score not 1 or less"),
        ({"values": ["en", "de"]}, "de", None),
        ({"values": ["en", "de"]}, "fr", "score not one of en, de"),
        ({"values": ["en"]}, None, "score not one of en"),
        ({"values": ["en"]}, ["en"], "score not one of en"),
        ({"values": [1]}, 1.0, None),
        ({"values": [1]}, True, "score not one of 1"),
        ({"values": [True]}, 1, "score not one of True"),
        ({"values": list("abcdefg")}, "x", "score not one of a, b, c, d, e, ..."),
    ],
)
def test_a_condition_keeps_exactly_the_rows_that_meet_it(
    keep: dict[str, Any], value: object, reason: str | None
) -> None:
    assert kept({"score": keep}, {"score": value}) == reason


@pytest.mark.parametrize(
    ("listed", "value", "shown"),
    [
        (1.1, "1.10", "is the text 1.10, and the study's 'keep' lists 1.1; write 1.10 in quotes there"),
        (42, "042", "is the text 042, and the study's 'keep' lists 42; write 042 in quotes there"),
        (1000, "1e3", "is the text 1e3, and the study's 'keep' lists 1000; write 1e3 in quotes there"),
        ("7", 7, "is the number 7, and the study's 'keep' lists '7'; write 7 without quotes there"),
    ],
)
def test_a_listed_value_of_the_other_type_is_refused_instead_of_keeping_nothing(
    listed: object, value: object, shown: str
) -> None:
    with pytest.raises(CorpusError, match=re.escape(f"1: release {shown}")):
        kept({"release": {"values": [listed]}}, {"release": value})
    both = {"release": {"values": [listed, value]}}
    assert kept(both, {"release": value}) is None


def test_a_row_is_counted_by_the_first_check_that_it_fails() -> None:
    conditions = {"a": {"min": 1}, "b": {"min": 1}}
    assert kept(conditions, {"a": 0, "b": 0}) == "a not 1 or more"
    assert kept(conditions, {"a": 1, "b": 0, "text": ""}) == "b not 1 or more"
    assert kept(conditions, {"a": 1, "b": 1, "text": ""}) == "text is empty"


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_a_column_of_a_condition_that_is_missing_is_refused_with_those_there_are(tmp_path: Path, ending: str) -> None:
    path, table = tmp_path / f"rows{ending}", fineweb(range(3)).select(["text", "id"])
    if ending == ".parquet":
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    for more in ({"keep": {"int_score": {"min": 4}}}, {"token_column": "int_score"}):
        with pytest.raises(CorpusError, match=rf"rows\{ending}: no column 'int_score'; its columns are id, text"):
            read(files(path, **more))


def sampled(rate: float, seed: int, rows: list[Document]) -> list[str]:
    return [row.id for row in documents(listed(rows, sample=Sample(rate=rate, seed=seed)).rows())]


@given(rate=st.floats(0.05, 1), seed=st.integers(0, 2**40))
def test_a_sample_has_its_rate(rate: float, seed: int) -> None:
    drawn, of = len(sampled(rate, seed, made(2000))), 2000
    six_deviations = 6 * (of * rate * (1 - rate)) ** 0.5
    few = 6  # where hardly a row is left out, their number is no normal one
    assert abs(drawn - of * rate) <= six_deviations + (few if rate < 1 else 0)


@given(order=st.permutations(range(60)), rate=st.floats(0.05, 1), seed=st.integers(0, 2**40))
def test_a_sample_is_the_same_whatever_the_order(order: list[int], rate: float, seed: int) -> None:
    rows = made(60)
    assert set(sampled(rate, seed, [rows[place] for place in order])) == set(sampled(rate, seed, rows))


def test_a_larger_sample_of_a_seed_holds_the_smaller_and_other_seeds_draw_others() -> None:
    rows = made(2000)
    small, large, other = sampled(0.1, 0, rows), sampled(0.3, 0, rows), sampled(0.1, 1, rows)
    assert set(small) < set(large)
    assert len(set(small) & set(other)) < len(small) / 2
    assert len(sampled(1.0, 0, rows)) == 2000


def test_a_sample_is_the_same_whatever_the_files(tmp_path: Path) -> None:
    found = []
    for name, sizes in (("a", [90]), ("b", [20, 50, 20])):
        (tmp_path / name).mkdir()
        first = 0
        for index, size in enumerate(sizes):
            # The order of the files is not that of the rows.
            path = tmp_path / name / f"{9 - index}.parquet"
            pq.write_table(fineweb(range(first, first + size)).drop_columns(["id"]), path)
            first += size
        source = files(tmp_path / name, id_column=None, sample={"rate": 0.3, "seed": 5})
        found.append({row.id for row in documents(read(source))})
        assert set(reasons(read(source))) == {"not in the sample of 0.3"}
    assert found[0] == found[1]


def test_conditions_come_before_the_sample_then_repetitions_then_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"Text {row % 40}", "good": row < 80} for row in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = files(path, id_column=None, keep={"good": {"values": [True]}}, sample={"rate": 0.5, "seed": 1})
    found = read(source)
    count = Counter(reasons(found))
    assert count["good not one of True"] == 40
    assert count["repeated text"] == len(documents(found))  # each drawn text stands twice among the good rows
    assert count["not in the sample of 0.5"] == 80 - 2 * len(documents(found))
    limited = read(source.model_copy(update={"limit": 5}))
    assert documents(limited) == documents(found)[:5]


def test_tokens_are_the_sources_or_estimated_and_the_basis_says_which(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "é" * 10, "tokens": count} for count in (3, 4, None, "many", -1)]
    path.write_text("".join(json.dumps({**row, "id": place}) + "\n" for place, row in enumerate(rows)))
    facts = {}
    for name, column in (("with", "tokens"), ("without", None)):
        folder = tmp_path / name
        folder.mkdir()
        reader = read_source(files(path, token_column=column), "tried", requirements=tmp_path)
        facts[name] = write_corpus(reader, folder, shard_documents=2).figures
    assert (facts["without"]["tokens"], facts["without"]["tokens_basis"]) == (25, "estimate: UTF-8 bytes / 4")
    assert facts["with"]["tokens"] == 3 + 4 + 3 * 20 // 4
    assert facts["with"]["tokens_basis"] == "tokens, and for 3 documents without: estimate: UTF-8 bytes / 4"
    pq.write_table(fineweb(range(9)), tmp_path / "rows.parquet")
    counted = read_source(files(tmp_path / "rows.parquet", token_column="token_count"), "t", requirements=tmp_path)
    folder = tmp_path / "counted"
    folder.mkdir()
    figures = write_corpus(counted, folder, shard_documents=2).figures
    assert (figures["tokens"], figures["tokens_basis"]) == (sum(10 + row % 7 for row in range(9)), "token_count")
