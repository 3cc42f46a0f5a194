"""How educational a classifier such as fineweb-edu-classifier finds the completions and their sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finephrase_dagster.artifacts.gate_model import model_reference
from finephrase_dagster.audit.gate import Settings
from finephrase_dagster.audit.proxy import Score, ScoringModelError, proxy_gate

MOST_TOKENS = 512
TEXTS_AT_ONCE = 32


def _open_model(settings: Settings) -> Score:
    return Classifier(settings["model"]).scores


class Classifier:
    """A sequence classifier in Hugging Face's layout, on the GPU if there is one. No code of the model is run."""

    def __init__(self, model: str) -> None:
        """Load a model from its folder, or from `<owner>/<name>@<revision>` on the hub.

        Raises:
            ScoringModelError: there is no such model.
        """
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        name, revision = model_reference(model)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                name, revision=revision, trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise ScoringModelError(
                f"edu_score.model: {model} cannot be loaded ({str(error).splitlines()[0]}); name a sequence classifier "
                "of the hub, or a folder with config.json, tokenizer.json and model.safetensors"
            ) from error
        self._model = loaded.to(self._device).eval()

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Return the output for each text; with several outputs, the mean class by probability."""
        import torch

        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))  # texts of one length need no padding
        scores = [0.0] * len(texts)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            some = order[start : start + TEXTS_AT_ONCE]
            most = min(self._tokenizer.model_max_length, MOST_TOKENS)
            inputs = self._tokenizer(
                [texts[index] for index in some], padding=True, truncation=True, max_length=most, return_tensors="pt"
            ).to(self._device)
            with torch.inference_mode():
                logits = self._model(**inputs).logits.float()
            if logits.shape[1] == 1:
                values = logits[:, 0]
            else:
                values = logits.softmax(1) @ torch.arange(float(logits.shape[1]), device=self._device)
            for index, value in zip(some, values.tolist(), strict=True):
                scores[index] = value
        return scores


GATE = proxy_gate(
    name="edu_score",
    scorer="a classifier of educational value, such as `HuggingFaceFW/fineweb-edu-classifier`,",
    defaults={"model": None, "rows": 1_000},
    open_model=_open_model,
)
