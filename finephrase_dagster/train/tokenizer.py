"""The students' tokenizer: a folder in Hugging Face format, trained here or taken as it is.

One tokenizer serves a whole study, since scores per token compare only under the same tokens. It has
an end-of-text token, which follows every document, and no token at a document's beginning. How the
vocabulary is learned is `vocabulary.py`'s.
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
    """A tokenizer cannot be trained or read; the message names it and what to do."""


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """What a trained tokenizer is.

    Attributes:
        vocabulary: its entries, the end-of-text token included.
        eos: the id of that token.
        documents: texts it was trained on.
        characters: their length together.
    """

    vocabulary: int
    eos: int
    documents: int
    characters: int


def train_tokenizer(output: Path, *, vocabulary: int, texts: Iterable[str]) -> TokenizerFacts:
    """Trains a byte-level BPE tokenizer and writes it into `output` as a Hugging Face tokenizer.

    Args:
        output: an existing folder; `tokenizer.json` and `tokenizer_config.json` land in it, whole.
        vocabulary: entries at most, the end-of-text token included; little text gives fewer.
        texts: documents; read once, in order.

    Raises:
        TokenizerError: there is no text.
        VocabularyError: the vocabulary is too small for the bytes.
    """
    from transformers import PreTrainedTokenizerFast

    seen = _Counted(texts)
    trained = train_bpe(seen, vocabulary=vocabulary, special_tokens=[END_OF_TEXT])
    if not seen.characters:
        raise TokenizerError("the tokenizer's sources hold no text: name sources that do in 'tokenizer.sources'")
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
    """The folder of a tokenizer that lies on this machine: a path, or `<owner>/<name>@<revision>`.

    Nothing is downloaded: a hub reference is looked up in the local hub cache.

    Raises:
        TokenizerError: there is no such folder, or it holds no `tokenizer.json`.
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
                f"tokenizer {reference} is not in the local hub cache: fetch it once with "
                f"`hf download {name} --revision {revision or 'main'}`"
            ) from error
    if not (folder / TOKENIZER_FILE).is_file():
        raise TokenizerError(
            f"tokenizer {reference}: {folder} holds no {TOKENIZER_FILE}; a fast tokenizer in Hugging Face "
            "format is needed"
        )
    return folder


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Reads the tokenizer in a folder, without the network.

    Raises:
        TokenizerError: there is none, it cannot be read, or it has no end-of-text token.
    """
    if not (folder / TOKENIZER_FILE).is_file():
        raise TokenizerError(f"tokenizer {folder}: there is no {TOKENIZER_FILE}; make or fetch the tokenizer first")
    try:
        tokenizer = read_tokenizer(folder)
    except (OSError, ValueError) as error:
        raise TokenizerError(f"tokenizer {folder} cannot be read: {error}") from error
    if tokenizer.eos_token_id is None:
        raise TokenizerError(f"tokenizer {folder} has no end-of-text token: set 'eos_token' in tokenizer_config.json")
    return tokenizer


class _Counted:
    """Passes texts through and counts them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.documents = 0
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            self.documents += 1
            self.characters += len(text)
            yield text
