"""The students' tokenizer: a folder in Hugging Face format, trained here or used as it is.

A study has one tokenizer, since losses per token compare only between equal tokens. It has an end-of-text token, which
follows every document, and no token at the beginning of a document.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint, sha256_file
from finephrase_dagster.corpora.tokenizer import read_tokenizer
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.student import Tokenizer
from finephrase_dagster.train.vocabulary import train_bpe

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|end_of_text|>"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_FILES = "*token*.json"


class TokenizerError(FinephraseError):
    """A tokenizer cannot be trained or read; the message names it and says what to do."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """The size of a trained tokenizer and of its training texts.

    Attributes:
        vocabulary: number of entries, including the end-of-text token.
        eos: the id of that token.
        documents: number of training texts.
        characters: their total length.
    """

    vocabulary: int
    eos: int
    documents: int
    characters: int


def train_tokenizer(output: Path, *, vocabulary: int, texts: Iterable[str]) -> TokenizerFacts:
    """Train a byte-level BPE tokenizer and write it into `output` as a Hugging Face tokenizer.

    Args:
        output: an existing folder; `tokenizer.json` and `tokenizer_config.json` appear in it when they are complete.
        vocabulary: maximum number of entries, including the end-of-text token; little text gives fewer.
        texts: the training documents; they are read once, in order.

    Raises:
        TokenizerError: there is no text.
        VocabularyError: the vocabulary is too small for the bytes.
    """
    from transformers import PreTrainedTokenizerFast

    seen = _Counted(texts)
    trained = train_bpe(seen, vocabulary=vocabulary, special_tokens=[END_OF_TEXT])
    if not seen.characters:
        raise TokenizerError("the tokenizer's sources have no text: name other sources in 'tokenizer.sources'")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, eos_token=END_OF_TEXT)
    work = output / "work"
    shutil.rmtree(work, ignore_errors=True)
    tokenizer.save_pretrained(work)
    for file in sorted(work.iterdir()):
        file.rename(output / file.name)
    work.rmdir()
    return TokenizerFacts(
        vocabulary=len(tokenizer),
        eos=tokenizer.eos_token_id,
        documents=seen.documents,
        characters=seen.characters,
    )


def make_tokenizer(folder: Path, spec: Tokenizer, texts: Iterable[str]) -> Contents:
    """Fill the folder of the tokenizer's artifact: train it on the texts, or copy an existing tokenizer.

    The artifact's version is a hash of the tokenizer's files.
    """
    if spec.trained_here:
        assert spec.vocabulary is not None
        train_tokenizer(folder, vocabulary=spec.vocabulary, texts=texts)
    else:
        for file in tokenizer_folder(spec.model).glob(TOKENIZER_FILES):
            shutil.copyfile(file, folder / file.name)
    from tokenizers import Tokenizer as FastTokenizer

    files = sorted(folder.glob(TOKENIZER_FILES))
    vocabulary = FastTokenizer.from_file(str(folder / TOKENIZER_FILE)).get_vocab_size()
    version = fingerprint([[file.name, sha256_file(file)] for file in files])[:SHORT]
    return Contents(files=files, facts={"vocabulary": vocabulary}, version=version)


def tokenizer_folder(reference: str) -> Path:
    """Return the folder of a tokenizer on this machine.

    Args:
        reference: a path, or `<owner>/<name>@<revision>`, which is looked up in the local hub cache; nothing is
            downloaded.

    Raises:
        TokenizerError: there is no such folder, or it has no `tokenizer.json`.
    """
    if reference.startswith(("/", "./", "../")):
        folder = Path(reference)
    else:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        name, _, revision = reference.partition("@")
        try:
            folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
        except LocalEntryNotFoundError as error:
            raise TokenizerError(
                f"tokenizer {reference} is not in the local hub cache: download it with "
                f"`hf download {name} --revision {revision or 'main'}`"
            ) from error
    if not (folder / TOKENIZER_FILE).is_file():
        raise TokenizerError(
            f"tokenizer {reference}: {folder} has no {TOKENIZER_FILE}; name a folder with a fast tokenizer in Hugging "
            "Face format"
        )
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in a folder, without using the network.

    Raises:
        TokenizerError: there is none, it cannot be read, or it has no end-of-text token.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        raise TokenizerError(f"tokenizer {folder}: no {TOKENIZER_FILE}; materialize or download the tokenizer first")
    try:
        tokenizer = read_tokenizer(folder)
    except (OSError, ValueError) as error:
        raise TokenizerError(f"tokenizer {folder} cannot be read: {error}") from error
    if tokenizer.eos_token_id is None:
        raise TokenizerError(f"tokenizer {folder} has no end-of-text token: set 'eos_token' in tokenizer_config.json")
    return tokenizer


class _Counted:
    """Yields texts unchanged and counts them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.documents = 0
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.documents += 1
            self.characters += len(text)
            yield text
