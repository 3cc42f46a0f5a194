"""lighteval's transformers model, set up for a small local checkpoint on the CPU.

Nothing of its computation is changed: a fixed batch size, no progress bars, no cache of answers
(it would be written into the checkpoint's folder), no look-up on the hub, no added special tokens,
since students are trained without a beginning-of-sequence token.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lighteval.models.transformers.transformers_model import TransformersModel, TransformersModelConfig
from transformers import PreTrainedModel


class CheckpointConfig(TransformersModelConfig):
    """A configuration whose model is a folder: it has no revision to look up."""

    def get_model_sha(self) -> str:
        return ""


class CheckpointModel(TransformersModel):
    """The model without progress bars."""

    @property
    def disable_tqdm(self) -> bool:
        return True


def checkpoint_model(checkpoint: Path, network: PreTrainedModel, *, batch_size: int) -> TransformersModel:
    """lighteval's model around a network and the tokenizer of its folder (an absolute path)."""
    with tempfile.TemporaryDirectory() as cache:
        config = CheckpointConfig(
            model_name="checkpoint",  # names a folder below the cache
            tokenizer=str(checkpoint),
            cache_dir=cache,
            batch_size=batch_size,
            device="cpu",
            dtype="float32",
            model_parallel=False,
            add_special_tokens=False,
            override_chat_template=False,
        )
        # Its annotation says the factory class where it means what the factory makes.
        model = CheckpointModel.from_model(network, config, accelerator=None)  # type: ignore[arg-type]
    model._cache = None  # type: ignore[assignment] # switches it off
    return model
