"""The byte-level vocabulary of students and generators."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from finephrase_dagster.train.vocabulary import VocabularyError, train_bpe

SPECIAL = ("<|end|>", "<|pad|>")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = ["the water boils and the kettle switches itself off"] * 3
    return train_bpe(texts, vocabulary=290, special_tokens=SPECIAL)


@given(text=st.text())
def test_any_text_decodes_to_itself(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(text=st.text(min_size=1))
def test_a_text_has_at_most_as_many_tokens_as_bytes(tokenizer: Tokenizer, text: str) -> None:
    assert 1 <= len(tokenizer.encode(text).ids) <= len(text.encode())


def test_special_tokens_come_first_and_are_recognised(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1]
    assert tokenizer.encode("the<|end|>").ids[-1] == 0
    assert tokenizer.get_vocab_size() == 290


def test_words_that_occur_often_become_short(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode(" kettle").ids) < len(" kettle")


def test_the_same_texts_give_the_same_vocabulary() -> None:
    texts = [f"word{index} and word{index % 7}" for index in range(200)]
    first, second = (train_bpe(texts, vocabulary=400, special_tokens=SPECIAL).to_str() for _ in range(2))
    assert first == second


def test_a_vocabulary_too_small_for_the_bytes_is_refused() -> None:
    with pytest.raises(VocabularyError, match="vocabulary 257 is smaller than the 256 bytes and 2 special tokens"):
        train_bpe(["a"], vocabulary=257, special_tokens=SPECIAL)
    with pytest.raises(VocabularyError, match="one of them is repeated"):
        train_bpe(["a"], vocabulary=300, special_tokens=("<|a|>", "<|a|>"))
