"""Tokenizers in Hugging Face format, loaded without what only models need.

`AutoTokenizer` imports PyTorch and with it most of transformers, to find the class of a tokenizer: 8 s of every
process that does no more than count tokens. Where the files name the plain class, nothing has to be found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = {"PreTrainedTokenizerFast", "TokenizersBackend"}
PLAIN_MODELS = {"llama", None}
"""Model types of which `AutoTokenizer` believes what the tokenizer says of its class; None: no model stands there."""


def read_tokenizer(place: Path | str) -> PreTrainedTokenizerBase:
    """What `AutoTokenizer` gives of a folder, or of a name in the hub's cache; never runs code from there.

    Raises:
        OSError, ValueError: there is none, or it cannot be read.
    """
    folder = Path(place)
    if _is_plain(folder):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from transformers import AutoTokenizer

    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        place, trust_remote_code=False, local_files_only=folder.is_dir()
    )
    return found


def _is_plain(folder: Path) -> bool:
    said = _json(folder / "tokenizer_config.json")
    if not (folder / "tokenizer.json").is_file() or said.get("tokenizer_class") not in PLAIN or "auto_map" in said:
        return False
    return _json(folder / "config.json").get("model_type") in PLAIN_MODELS


def _json(file: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none."""
    if not file.is_file():
        return {}
    said = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise ValueError(f"{file} holds no JSON object")
    return said
