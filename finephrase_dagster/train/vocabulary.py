"""Byte-level BPE: a vocabulary learned from texts, for the students and for the embedded generator.

Every byte is in the alphabet, so any text encodes without an unknown token and decodes to itself.
What a chat model or a student adds (templates, padding, folders) is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from finephrase_dagster.errors import FinephraseError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SMALLEST = 256  # the bytes


class VocabularyError(FinephraseError):
    """A vocabulary cannot be trained; the message says which number or text is wrong."""


def train_bpe(texts: Iterable[str], *, vocabulary: int, special_tokens: Sequence[str]) -> Tokenizer:
    """Trains a byte-level BPE tokenizer.

    No space is put before a text and none is cleaned away: `decode(encode(text)) == text`. A special
    token in the text itself is recognised as such.

    Args:
        texts: what to learn from; the order does not matter.
        vocabulary: entries at most, special tokens and the 256 bytes included; fewer if the texts
            have no more pairs to merge.
        special_tokens: they get the first ids, in this order.

    Raises:
        VocabularyError: the vocabulary does not hold the bytes and the special tokens, or a special
            token stands twice.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < SMALLEST + len(special_tokens):
        raise VocabularyError(
            f"vocabulary {vocabulary} is smaller than the {SMALLEST} bytes and "
            f"{len(special_tokens)} special tokens; raise it"
        )
    if len(set(special_tokens)) != len(special_tokens):
        raise VocabularyError(f"special tokens {', '.join(special_tokens)}: one stands twice; remove it")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
