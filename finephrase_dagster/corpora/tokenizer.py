"""Tokenizers in Hugging Face format, loaded without the libraries that only models need.

`AutoTokenizer` imports PyTorch and most of transformers to find the class of a tokenizer, which takes 8 s. If the
files name the plain class, it need not be found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = {"PreTrainedTokenizerFast", "TokenizersBackend"}
PLAIN_MODELS = {"llama", None}
"""Model types for which `AutoTokenizer` uses the class that the tokenizer names; None: the folder has no model."""


def read_tokenizer(location: Path | str) -> PreTrainedTokenizerBase:
    """Return the tokenizer that `AutoTokenizer` would load, without running code that comes with it.

    Args:
        location: a folder, or the name of a model in the hub's cache.

    Raises:
        OSError, ValueError: there is no tokenizer, or it cannot be read.
    """
    folder = Path(location)
    if _is_plain(folder):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        location, trust_remote_code=False, local_files_only=folder.is_dir()
    )
    return tokenizer


def _is_plain(folder: Path) -> bool:
    config = _json(folder / "tokenizer_config.json")
    if not (folder / "tokenizer.json").is_file() or config.get("tokenizer_class") not in PLAIN or "auto_map" in config:
        return False
    return _json(folder / "config.json").get("model_type") in PLAIN_MODELS


def _json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if the file does not exist."""
    if not file.is_file():
        return {}
    value = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{file} has no JSON object")
    return value
