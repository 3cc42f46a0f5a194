"""Hub datasets, by local folders of the same layout: which files, which columns, and at which row to go on."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpora_parts import blank_column, documents, fineweb, make_unreadable, read, reasons, write_fineweb
from finephrase_dagster.corpora.document import CorpusError
from finephrase_dagster.corpora.kinds.hub import HubSource
from finephrase_dagster.corpora.shards import read_corpus, write_corpus
from finephrase_dagster.corpora.source import SourceReader, read_source

CONFIGS = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*/*
- config_name: sample-10BT
  data_files:
  - split: train
    path: sample/10BT/*
---
"""


def hub(dataset: Path | str, **more: object) -> HubSource:
    return HubSource.model_validate({"kind": "hub", "dataset": str(dataset), "revision": "main", **more})


def reader_of(source: HubSource) -> SourceReader:
    return read_source(source, "tried", requirements=Path("none"))


def test_a_hub_dataset_is_streamed_row_by_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "", "three"], "url": ["u1", "u2", "u3"]}), tmp_path / "train.parquet")
    source = hub(tmp_path, id_column="url")
    rows = read(source)
    assert [(row.id, row.text) for row in documents(rows)] == [("u1", "one"), ("u3", "three")]
    assert reasons(rows) == ["text is empty"]
    assert {row.source for row in rows} == {f"{tmp_path}@main"}
    with pytest.raises(CorpusError, match=r"no column 'body'; its columns are text, url"):
        read(source.model_copy(update={"text_column": "body"}))


def test_the_two_files_of_a_repeated_id_are_named(tmp_path: Path) -> None:
    for name, keys in (("a", ["x", "y"]), ("b", ["z", "y"])):
        pq.write_table(pa.table({"text": ["one", "two"], "url": keys}), tmp_path / f"{name}.parquet")
    source = hub(tmp_path, id_column="url", files=["*.parquet"])
    with pytest.raises(CorpusError, match=r"/a.parquet, row 2, and \S+/b.parquet, row 2: the id 'y' appears twice"):
        read(source)


def test_a_dataset_that_cannot_be_opened_is_named_with_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    source = hub("nobody/no-such-dataset")
    with pytest.raises(CorpusError, match=r"source tried: dataset nobody/no-such-dataset@main.*HF_HUB_OFFLINE"):
        read(source)


@pytest.mark.parametrize("wrong", [{"subset": "nothing"}, {"split": "nothing"}, {"files": ["nothing/*.parquet"]}])
def test_a_subset_split_or_file_that_is_not_there_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    write_fineweb(tmp_path, [3])
    (tmp_path / "README.md").write_text(CONFIGS)
    with pytest.raises(CorpusError, match=r"source tried: dataset .*cannot be opened \(.+\); check its name"):
        read(hub(tmp_path, **wrong))


def test_a_subset_whose_name_is_no_text_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_fineweb(tmp_path, [3])
    (tmp_path / "README.md").write_text(CONFIGS.replace("config_name: default", "config_name: off"))
    with pytest.raises(CorpusError, match=r"a name such as no or 010 in its README.md .*: put it in quotes there"):
        read(hub(tmp_path))


def test_fineweb_edu_by_subset_and_by_files(tmp_path: Path) -> None:
    write_fineweb(tmp_path, [30, 30])
    sample = tmp_path / "sample" / "10BT"
    sample.mkdir(parents=True)
    pq.write_table(fineweb(range(60, 72)), sample / "000_00000.parquet")
    (tmp_path / "README.md").write_text(CONFIGS)
    best = {"id_column": "id", "token_column": "token_count", "keep": {"int_score": {"min": 4, "max": 5}}}
    rows = read(hub(tmp_path, **best))
    assert [row.id for row in documents(rows)] == [f"<urn:uuid:{n:08d}>" for n in range(60) if n % 6 >= 4]
    assert set(reasons(rows)) == {"int_score not in 4 to 5"}
    assert documents(rows)[0].tokens == 10 + 4 % 7
    assert len(read(hub(tmp_path, subset="sample-10BT"))) == 12
    assert len(read(hub(tmp_path, files=["data/*/train-00001-*.parquet"]))) == 30
    assert len(read(hub(tmp_path, files=["data/*/train-00001-*", "sample/*/*"], subset="sample-10BT"))) == 42
    assert len(read(hub(tmp_path, files=["sample/10BT/*"], split="validation"))) == 12


def test_cosmopedias_subsets_are_read_together_though_their_columns_differ(tmp_path: Path) -> None:
    for subset, more in (("stories", {}), ("wikihow", {"extra": pa.array([1, 2])})):
        table = pa.table(
            {
                "prompt": ["Write about it."] * 2,
                "text_token_length": [5, 6],
                "text": [f"{subset} one", f"{subset} two"],
                "seed_data": ["web"] * 2,
                "format": ["story"] * 2,
                "audience": ["general"] * 2,
                **more,
            }
        )
        (tmp_path / "data" / subset).mkdir(parents=True)
        pq.write_table(table, tmp_path / "data" / subset / "train-00000-of-00001.parquet")
    source = hub(tmp_path, files=["data/*/train-*.parquet"], token_column="text_token_length")
    rows = documents(read(source))
    assert [(row.text, row.tokens) for row in rows] == [
        ("stories one", 5),
        ("stories two", 6),
        ("wikihow one", 5),
        ("wikihow two", 6),
    ]


def test_dclm_keeps_its_scores_and_numbers_in_columns(tmp_path: Path) -> None:
    scores = [0.1, 0.02, 0.5]
    table = pa.table(
        {
            "text": ["a", "b", "c"],
            "url": ["u1", "u2", "u3"],
            "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob": scores,
            "metadata": [{"WARC-Record-ID": f"<{n}>", "Content-Length": str(n)} for n in range(3)],
        }
    )
    folder = tmp_path / "filtered" / "OH_eli5" / "processed_data" / "global-shard_03_of_10"
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "0001.parquet")
    keep = {"fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob": {"min": 0.05}}
    source = hub(tmp_path, files=["filtered/**/*.parquet"], id_column="metadata.WARC-Record-ID", keep=keep)
    assert [(row.id, row.text) for row in documents(read(source))] == [("<0>", "a"), ("<2>", "c")]


def test_only_the_columns_that_are_needed_are_read(tmp_path: Path) -> None:
    table = pa.table({"text": ["one " * 50] * 40, "other": ["o" * 100] * 40})
    path = tmp_path / "train.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)
    blank_column(path, group=0, column=1)
    with pytest.raises(CorpusError, match=r"source tried: .*train.parquet: cannot be read"):
        read(hub(tmp_path, token_column="other"))
    assert len(read(hub(tmp_path))) == 40


def test_a_dataset_of_json_lines_is_read_too(tmp_path: Path) -> None:
    for index in range(2):
        rows = fineweb(range(10 * index, 10 * index + 10)).to_pylist()
        (tmp_path / f"train-{index}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = read(hub(tmp_path, id_column="id", keep={"int_score": {"max": 1}}))
    assert [row.id for row in documents(rows)] == [f"<urn:uuid:{n:08d}>" for n in range(20) if n % 6 <= 1]
    with pytest.raises(CorpusError, match=r"no column 'body'; its columns are .*text, token_count, url"):
        read(hub(tmp_path, text_column="body"))


def test_an_empty_file_among_others_is_passed_over(tmp_path: Path) -> None:
    write_fineweb(tmp_path, [0, 5, 0, 3])
    assert [row.id for row in documents(read(hub(tmp_path, id_column="id")))] == [
        f"<urn:uuid:{n:08d}>" for n in range(8)
    ]


@pytest.mark.slow
@settings(max_examples=15)
@given(sizes=st.lists(st.sampled_from([0, 1, 7, 30]), min_size=1, max_size=4), group=st.integers(1, 12), data=st.data())
def test_a_stream_resumes_at_the_next_row(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], group: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("hub")
    total = write_fineweb(folder, [*sizes, 5], row_group=group)
    source = hub(folder, id_column="id", keep={"int_score": {"min": 1}})
    rows = read(source)
    assert len(rows) == total
    for after in data.draw(st.lists(st.integers(1, total), min_size=1, max_size=4)):
        reader = reader_of(source)
        stream = reader.rows()
        assert [next(stream) for _ in range(after)] == rows[:after]
        position = json.loads(json.dumps(reader.position()))
        again = reader_of(source)
        assert again.identity == reader.identity
        assert list(again.rows(position)) == rows[after:]


def test_a_stream_of_several_batches_resumes_without_opening_earlier_files(tmp_path: Path) -> None:
    # The first file is opened for its columns alone; the second only where it was not known to be at its end.
    write_fineweb(tmp_path / "hub", [1500, 900, 2300, 40], row_group=700)
    source = hub(tmp_path / "hub", id_column="id")
    rows = read(source)
    paths = sorted((tmp_path / "hub").rglob("*.parquet"))
    for after in (2400, 2401, 3000, 3001, 4700):
        reader = reader_of(source)
        stream = reader.rows()
        assert [next(stream) for _ in range(after)] == rows[:after]
        whole = paths[1].read_bytes()
        if after > 2400:
            make_unreadable(paths[1])
        assert list(reader_of(source).rows(reader.position())) == rows[after:]
        paths[1].write_bytes(whole)


def test_a_dataset_that_has_changed_meanwhile_is_read_anew(tmp_path: Path) -> None:
    write_fineweb(tmp_path / "hub", [20, 20])
    source, folder = hub(tmp_path / "hub", id_column="id"), tmp_path / "corpus"
    folder.mkdir()
    limited = source.model_copy(update={"limit": 15})
    write_corpus(reader_of(limited), folder, shard_documents=5)
    write_fineweb(tmp_path / "hub", [25, 25])
    said: list[str] = []
    facts = write_corpus(reader_of(source), folder, shard_documents=5, log=said.append)
    assert "renamed to" in said[0]
    assert facts.rows == 50
    assert len(list(read_corpus(folder))) == 50
