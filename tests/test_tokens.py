"""Tokenising: exact counts, EOS after each document, rows without text, and resuming after a kill."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.train.pieces import pieces
from finephrase_dagster.train.tokenizer import (
    END_OF_TEXT,
    TokenizerError,
    load_tokenizer,
    tokenizer_folder,
    train_tokenizer,
)
from finephrase_dagster.train.tokens import TokensError, TokenSet, tokenise

TEXTS = [topics[name] for name in sorted(topics)][:24]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(folder, vocabulary=600, texts=TEXTS)
    return folder


def write(path: Path, texts: list[str | None]) -> Path:
    table = pa.table({"id": [f"{path.stem}/{row}" for row in range(len(texts))], "text": pa.array(texts, pa.string())})
    pq.write_table(table, path)
    return path


def silent(_: str) -> None:
    """Ignore a message."""


def test_a_trained_tokenizer_decodes_every_text_and_has_an_end_token(tokenizer: Path) -> None:
    loaded = load_tokenizer(tokenizer)
    assert loaded.eos_token == END_OF_TEXT
    assert loaded.eos_token_id == 0
    assert loaded.bos_token_id is None
    assert len(loaded) == 600
    text = "Tabs\t and  double spaces, żółć, 漢字 and 🙂\r\n" + TEXTS[0]
    assert loaded.decode(loaded(text)["input_ids"]) == text


def test_a_tokenizer_trained_on_equal_texts_has_equal_files(tokenizer: Path, tmp_path: Path) -> None:
    train_tokenizer(tmp_path, vocabulary=600, texts=iter(TEXTS))
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["tokenizer.json", "tokenizer_config.json"]
    assert all((tmp_path / name).read_bytes() == (tokenizer / name).read_bytes() for name in names)


def test_a_tokenizer_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.sources"):
        train_tokenizer(tmp_path, vocabulary=600, texts=["", ""])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json"):
        tokenizer_folder(str(tmp_path))
    with pytest.raises(TokenizerError, match="hf download nobody/nothing --revision main"):
        tokenizer_folder("nobody/nothing@main")
    with pytest.raises(TokenizerError, match="materialize or download"):
        load_tokenizer(tmp_path)


def test_tokens_are_the_documents_each_followed_by_the_end_token(tokenizer: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / "shard-00000.parquet", TEXTS[:10]), write(tmp_path / "shard-00001.parquet", TEXTS[10:])]
    (tmp_path / "out").mkdir()
    facts = tokenise(files, tmp_path / "out", tokenizer=tokenizer, dataset="topics", log=silent)
    loaded = load_tokenizer(tokenizer)
    encoded = [[*loaded(text)["input_ids"], loaded.eos_token_id] for text in TEXTS]
    tokens = TokenSet(tmp_path / "out")
    assert tokens.window(0, tokens.tokens).tolist() == [token for ids in encoded for token in ids]
    assert np.diff(tokens.document_ends, prepend=0).tolist() == [len(ids) for ids in encoded]
    assert (facts.rows, facts.empty, facts.documents) == (24, 0, 24)
    assert facts.tokens == tokens.tokens == sum(map(len, encoded))
    assert facts.token_bytes == 2
    lengths = [pq.read_table(file) for file in sorted((tmp_path / "out").glob("*.documents.parquet"))]
    assert pa.concat_tables(lengths)["id"].to_pylist() == [
        *(f"shard-00000/{row}" for row in range(10)),
        *(f"shard-00001/{row}" for row in range(14)),
    ]


def test_a_window_reads_across_files_and_never_past_the_end(tokenizer: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{number}.parquet", [text]) for number, text in enumerate(TEXTS[:3])]
    (tmp_path / "out").mkdir()
    facts = tokenise(files, tmp_path / "out", tokenizer=tokenizer, dataset="topics", log=silent)
    tokens = TokenSet(tmp_path / "out")
    whole = tokens.window(0, facts.tokens)
    border = int(tokens.document_ends[0])
    assert tokens.window(border - 5, 10).tolist() == whole[border - 5 : border + 5].tolist()
    with pytest.raises(IndexError, match="is outside"):
        tokens.window(facts.tokens - 5, 6)
    with pytest.raises(IndexError, match="is outside"):
        tokens.window(-1, 2)


def test_rows_without_text_are_counted_and_have_no_tokens(tokenizer: Path, tmp_path: Path) -> None:
    files = [
        write(tmp_path / "part-00000.parquet", ["", None]),
        write(tmp_path / "part-00001.parquet", ["one", "", "two", None]),
    ]
    (tmp_path / "out").mkdir()
    facts = tokenise(files, tmp_path / "out", tokenizer=tokenizer, dataset="thin", log=silent)
    assert (facts.rows, facts.empty, facts.documents) == (6, 4, 2)


def test_a_special_token_in_a_text_is_encoded_as_text(tokenizer: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "part.parquet", [f"before {END_OF_TEXT} after"])
    (tmp_path / "out").mkdir()
    tokenise([file], tmp_path / "out", tokenizer=tokenizer, dataset="odd", log=silent)
    tokens = TokenSet(tmp_path / "out")
    ids = tokens.window(0, tokens.tokens)
    eos = load_tokenizer(tokenizer).eos_token_id
    assert np.flatnonzero(ids == eos).tolist() == [len(ids) - 1]


def test_a_dataset_without_text_is_refused_by_name(tokenizer: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "part.parquet", ["", None])
    for files in ([], [file]):
        output = tmp_path / f"out-{len(files)}"
        output.mkdir()
        with pytest.raises(TokensError, match="tiny__readmes/faq has no text"):
            tokenise(files, output, tokenizer=tokenizer, dataset="tiny__readmes/faq", log=silent)


def test_a_dataset_of_which_all_rows_are_left_out_is_refused_with_the_cause(tokenizer: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "part.parquet", ["one", "two"])
    without = IdSet()
    for key in pq.read_table(file)["id"].to_pylist():
        without.add(id_hash(key))
    (tmp_path / "out").mkdir()
    with pytest.raises(TokensError, match="faq: each of its 2 rows fails a gate and is left out"):
        tokenise([file], tmp_path / "out", tokenizer=tokenizer, dataset="faq", log=silent, without=without)


def test_a_file_that_lacks_columns_or_is_not_parquet_is_named(tokenizer: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "body": ["b"]}), tmp_path / "wrong.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    for name, message in (("wrong", "no column text"), ("torn", "not a readable Parquet file")):
        output = tmp_path / name
        output.mkdir()
        with pytest.raises(TokensError, match=rf"{name}\.parquet.*{message}"):
            tokenise([tmp_path / f"{name}.parquet"], output, tokenizer=tokenizer, dataset="d", log=silent)
        assert list(output.iterdir()) == []


def test_a_killed_run_resumes_with_the_next_file(tokenizer: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"shard-{number}.parquet", TEXTS[number::3]) for number in range(3)]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    tokenise(files, tmp_path / "whole", tokenizer=tokenizer, dataset="topics", log=silent)

    class Killed(BaseException):
        pass

    def killing(message: str) -> None:
        if "2 of 3" in message:
            # What a kill in the middle of the third file leaves behind.
            (tmp_path / "killed" / "work").mkdir(exist_ok=True)
            (tmp_path / "killed" / "work" / "00002_unshuffled.ds").write_bytes(b"\1\2\3")
            (tmp_path / "killed" / "00002.ds").write_bytes(b"\1\2\3")
            raise Killed

    with pytest.raises(Killed):
        tokenise(files, tmp_path / "killed", tokenizer=tokenizer, dataset="topics", log=killing)
    messages: list[str] = []
    facts = tokenise(files, tmp_path / "killed", tokenizer=tokenizer, dataset="topics", log=messages.append)
    assert len(messages) == 1
    assert "3 of 3" in messages[0]
    assert facts.documents == len(TEXTS)
    names = sorted(file.name for file in (tmp_path / "whole").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "killed").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_tokens_that_contradict_their_index_are_refused(tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    tokenise([write(tmp_path / "a.parquet", TEXTS[:2])], tmp_path / "out", tokenizer=tokenizer, dataset="d", log=silent)
    file = tmp_path / "out" / "00000.ds"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(TokensError, match=r"00000\.ds"):
        TokenSet(tmp_path / "out")
    with pytest.raises(TokensError, match="tokenise the dataset first"):
        TokenSet(tmp_path)


@given(text=st.text(alphabet="ab .\n", max_size=200), longest=st.integers(1, 40))
def test_pieces_hold_all_of_a_text_except_the_white_space_between_them(text: str, longest: int) -> None:
    parts = list(pieces(text, longest))
    assert all(0 < len(piece) <= longest for piece in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    if len(text) <= longest and text.strip():
        assert parts == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\n\ntwo\nthree. four five", ["one", "two", "three. four five"]),
        ("one two\nthree. four five six", ["one two", "three.", "four five six"]),
        ("one two. three four five six", ["one two.", "three four five", "six"]),
        ("abcdefghijklmnopqrstuvwxyz", ["abcdefghijklmnop", "qrstuvwxyz"]),
    ],
)
def test_a_piece_ends_after_a_paragraph_or_else_a_line_a_sentence_or_a_word(text: str, expected: list[str]) -> None:
    assert list(pieces(text, 16)) == expected


def test_the_pieces_of_a_long_document_have_its_id(tokenizer: Path, tmp_path: Path) -> None:
    texts = ["word " * 50_000, "short", " ", None]
    pq.write_table(
        pa.table({"id": ["long", "short", "blank", "none"], "text": pa.array(texts, pa.string())}),
        tmp_path / "shard-00000.parquet",
    )
    (tmp_path / "tokens").mkdir()
    facts = tokenise(
        [tmp_path / "shard-00000.parquet"],
        tmp_path / "tokens",
        tokenizer=tokenizer,
        dataset="web",
        log=lambda _: None,
    )
    rows = pq.read_table(tmp_path / "tokens" / "00000.documents.parquet").to_pylist()
    assert [(row["id"], row["piece"]) for row in rows] == [("long", 0), ("long", 1), ("long", 2), ("short", 0)]
    assert (facts.rows, facts.empty, facts.documents) == (4, 2, 4)
    assert facts.tokens == sum(row["tokens"] for row in rows)
