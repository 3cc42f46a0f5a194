"""A checkpoint as a lighteval model that scores given answers: what all backends share, and transformers.

No special tokens are added, since students are trained without a beginning-of-sequence token, and
prompt and answer are tokenised apart. lighteval's own transformers model would give the same figures;
it computes the logits of every prompt token, which at 128,256 entries a token is most of the memory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lighteval.models.abstract_model import LightevalModel
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.prompt_manager import PromptManager
from lighteval.tasks.requests import Doc
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A prompt and the answer whose probability is wanted.

    Attributes:
        tokens: of both.
        length: how many of them, at the end, are the answer.
    """

    tokens: Sequence[int]
    length: int

    @property
    def start(self) -> int:
        """Where the answer begins."""
        return len(self.tokens) - self.length


class ScoringModel(LightevalModel):
    """A model that is only asked how probable answers are."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        """Args:
        tokenizer: of prompts and answers.
        context: tokens of both together at most; of a longer prompt the beginning is cut off.
        """
        self._tokenizer = tokenizer
        self._context = context

    @abstractmethod
    def log_probabilities(self, answers: Sequence[Answer]) -> list[float]:
        """The natural log-probability of each answer given its prompt, summed over its tokens."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer

    @property
    def add_special_tokens(self) -> bool:
        return False

    @property
    def max_length(self) -> int:
        return self._context

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        prompts = PromptManager()
        encoded = [self.tok_encode_pair(prompts.prepare_prompt(doc), doc.choices, pairwise=True) for doc in docs]
        answers = [
            Answer(tokens=[*prompt, *answer][-self._context :], length=len(answer))
            for pair in encoded
            for prompt, answer in zip(*pair, strict=True)
        ]
        found = iter(self.log_probabilities(answers))
        return [
            ModelResponse(
                input_tokens=prompts_of_doc,
                output_tokens=answers_of_doc,
                logprobs=[next(found) for _ in answers_of_doc],
            )
            for prompts_of_doc, answers_of_doc in encoded
        ]

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        raise NotImplementedError("the suite asks for the probability of answers; nothing is generated")

    def loglikelihood_rolling(self, docs: list[Doc]) -> list[ModelResponse]:
        raise NotImplementedError("the suite asks for the probability of answers, not of whole texts")


class TransformersModel(ScoringModel):
    """A checkpoint on transformers, in float32, on the GPU where there is one."""

    def __init__(self, checkpoint: Path, *, batch_size: int) -> None:
        """Loads it; what a damaged file raises depends on the library that reads it."""
        network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, local_files_only=True)
        super().__init__(_tokenizer(checkpoint), network.config.max_position_embeddings)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network: PreTrainedModel = network.eval().to(device)
        self._batch_size = batch_size

    def log_probabilities(self, answers: Sequence[Answer]) -> list[float]:
        found = [0.0] * len(answers)
        for places in self._batches(answers):
            batch = [answers[place] for place in places]
            for place, value in zip(places, self._of_batch(batch), strict=True):
                found[place] = value
        return found

    def _batches(self, answers: Sequence[Answer]) -> Iterator[list[int]]:
        """Paths of answers of about the same length, the longest first: if memory is short, it shows at once."""
        order = sorted(range(len(answers)), key=lambda place: len(answers[place].tokens), reverse=True)
        for start in range(0, len(order), self._batch_size):
            yield order[start : start + self._batch_size]

    @torch.inference_mode()
    def _of_batch(self, batch: Sequence[Answer]) -> list[float]:
        longest = max(len(answer.tokens) for answer in batch)
        # Filled up on the right, where no token before can see it: no mask is needed.
        tokens = torch.tensor([[*answer.tokens, *[0] * (longest - len(answer.tokens))] for answer in batch])
        tokens = tokens.to(self.network.device)
        first = min(answer.start for answer in batch) - 1  # the logits that tell the first answer token
        kept = torch.arange(first, longest - 1, device=tokens.device)
        logits = self.network(input_ids=tokens, use_cache=False, logits_to_keep=kept).logits
        steps = torch.log_softmax(logits.float(), dim=-1)
        told = steps.gather(-1, tokens[:, first + 1 :, None])[..., 0].double()
        return [
            float(told[row, answer.start - first - 1 : len(answer.tokens) - first - 1].sum())
            for row, answer in enumerate(batch)
        ]


def _tokenizer(checkpoint: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
