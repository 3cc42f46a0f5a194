"""Train a byte-level BPE vocabulary from texts, for the students.

Every byte is in the alphabet, so any text encodes without unknown tokens and decodes to itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from finephrase_dagster.errors import FinephraseError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BYTES = 256


class VocabularyError(FinephraseError):
    """A vocabulary cannot be trained; the message says what to change."""


def train_bpe(texts: Iterable[str], *, vocabulary: int, special_tokens: Sequence[str]) -> Tokenizer:
    """Train a byte-level BPE tokenizer.

    It neither adds a space before a text nor removes any: `decode(encode(text)) == text`. A special token that occurs
    in a text is recognised as such.

    Args:
        texts: the training texts, in any order.
        vocabulary: maximum number of entries, including special tokens and the 256 bytes; the result has fewer if the
            texts have no more pairs to merge.
        special_tokens: the tokens with the first ids, in this order.

    Raises:
        VocabularyError: the vocabulary is too small for bytes and special tokens, or a special token is repeated.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < BYTES + len(special_tokens):
        raise VocabularyError(
            f"vocabulary {vocabulary} is smaller than the {BYTES} bytes and "
            f"{len(special_tokens)} special tokens; raise it"
        )
    if len(set(special_tokens)) != len(special_tokens):
        raise VocabularyError(f"special tokens {', '.join(special_tokens)}: one of them is repeated; remove it")
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
