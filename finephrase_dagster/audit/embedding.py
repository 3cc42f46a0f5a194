"""A sentence-embedding model: texts as vectors of their meaning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finephrase_dagster.artifacts.gate_model import model_reference
from finephrase_dagster.audit.dataset import AuditError

MOST_TOKENS = 512  # if the model does not state a limit
TEXTS_AT_ONCE = 32


class Embedder:
    """A model in Hugging Face's layout, on the GPU if there is one. No code of the model is run."""

    def __init__(self, model: str) -> None:
        """Load a model.

        Args:
            model: its folder, or `<owner>/<name>@<revision>` on the hub; with the files of sentence-transformers if it
                has them.

        Raises:
            AuditError: there is no such model, or the libraries that run it are not installed.
        """
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise AuditError(
                f"the embedding model {model!r} needs PyTorch and transformers ({error}); install "
                "finephrase-dagster[engine], or set the gate's `model` to null"
            ) from error
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        name, revision = model_reference(model)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
            loaded: Any = AutoModel.from_pretrained(
                name, revision=revision, trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise AuditError(
                f"the embedding model {model!r} cannot be loaded ({str(error).splitlines()[0]}); name a folder or "
                "a model of the hub with config.json, tokenizer.json and model.safetensors"
            ) from error
        self._model = loaded.to(self._device).eval()
        self._first_token = _file_of(model, "1_Pooling/config.json").get("pooling_mode_cls_token", False)
        stated = _file_of(model, "sentence_bert_config.json").get("max_seq_length")
        self._most_tokens = stated or min(self._tokenizer.model_max_length, MOST_TOKENS)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return a unit vector for each text; what goes beyond the model's context does not count."""
        import torch

        order = np.argsort([len(text) for text in texts])  # texts of one length need no padding
        batches = []
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = [texts[index] for index in order[start : start + TEXTS_AT_ONCE]]
            inputs = self._tokenizer(
                some, padding=True, truncation=True, max_length=self._most_tokens, return_tensors="pt"
            ).to(self._device)
            with torch.inference_mode():
                states = self._model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"].unsqueeze(-1)
            pooled = states[:, 0] if self._first_token else (states * mask).sum(1) / mask.sum(1)
            batches.append(torch.nn.functional.normalize(pooled, dim=1).cpu().numpy())
        vectors = np.concatenate(batches) if batches else np.empty((0, 1), np.float32)
        return vectors[np.argsort(order)]


def _file_of(model: str, name: str) -> dict[str, Any]:
    """Return one of a model's further JSON files; empty if it has none."""
    from transformers.utils import cached_file

    repository, revision = model_reference(model)
    path = cached_file(
        repository,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
