"""Scorers: how probable a checkpoint finds given answers. This one computes with transformers.

The student is asked without special tokens, as it was trained, and prompt and answer are tokenized separately.
Logits are computed for the answers' tokens alone: with 128,256 entries per token they are most of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class TokenizedAnswer:
    """A prompt and the answer whose probability is wanted.

    Attributes:
        tokens: the tokens of both.
        length: how many of them, at the end, are the answer.
    """

    tokens: Sequence[int]
    length: int

    @property
    def start(self) -> int:
        """The position of the answer's first token."""
        return len(self.tokens) - self.length


Show = Callable[[int, int], None]
"""Receives how many answers are done, and of how many."""


class Scorer(Protocol):
    """A loaded checkpoint.

    Attributes:
        context: the number of tokens of a prompt and its answer at most.
    """

    context: int

    def encode(self, text: str) -> list[int]:
        """Return a text's tokens, without special tokens."""

    def log_probabilities(self, answers: Sequence[TokenizedAnswer], show: Show) -> list[float]:
        """Return the natural log-probability of each answer given its prompt, summed over its tokens."""


def load_tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint."""
    return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)


class TransformersScorer:
    """A checkpoint on transformers, in float32, on the GPU if there is one."""

    def __init__(self, checkpoint: Path, *, batch_size: int) -> None:
        """Load the checkpoint; what a damaged file raises depends on the library that reads it."""
        network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
        self.context: int = network.config.max_position_embeddings
        self._tokenizer = load_tokenizer(checkpoint)
        self._network: PreTrainedModel = network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._batch_size = batch_size

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def log_probabilities(self, answers: Sequence[TokenizedAnswer], show: Show) -> list[float]:
        sums, done = [0.0] * len(answers), 0
        for indices in self._batches(answers):
            for index, value in zip(indices, self._batch_sums([answers[index] for index in indices]), strict=True):
                sums[index] = value
            done += len(indices)
            show(done, len(answers))
        return sums

    def _batches(self, answers: Sequence[TokenizedAnswer]) -> Iterator[list[int]]:
        """Yield the indices of answers of similar length, the longest first: too little memory shows at once."""
        order = sorted(range(len(answers)), key=lambda index: len(answers[index].tokens), reverse=True)
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    @torch.inference_mode()
    def _batch_sums(self, batch: Sequence[TokenizedAnswer]) -> list[float]:
        longest = max(len(answer.tokens) for answer in batch)
        # Padded on the right, where no earlier token attends to it: no mask is needed.
        tokens = torch.tensor([[*answer.tokens, *[0] * (longest - len(answer.tokens))] for answer in batch])
        tokens = tokens.to(self._network.device)
        first = min(answer.start for answer in batch) - 1  # the logits that predict the first answer token
        kept = torch.arange(first, longest - 1, device=tokens.device)
        logits = self._network(input_ids=tokens, use_cache=False, logits_to_keep=kept).logits
        steps = torch.log_softmax(logits.float(), dim=-1)
        chosen = steps.gather(-1, tokens[:, first + 1 :, None])[..., 0].double()
        return [
            float(chosen[row, answer.start - first - 1 : len(answer.tokens) - first - 1].sum())
            for row, answer in enumerate(batch)
        ]
