"""A checkpoint as a lighteval model on vLLM, for students that are large or many.

The engine runs in this process and ends with the block that it was asked for in. It computes in the
checkpoint's own precision, so its figures agree with those of transformers only as far as that goes.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.model import Answer, ScoringModel

if TYPE_CHECKING:
    from vllm import LLM

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    # The engine wants to generate a token behind the answer, for which a full context has no room.
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",
}
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; unbounded, it takes most of the machine
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
CPU_FLAGS: Mapping[str, Any] = {
    "enforce_eager": True,  # compiling takes longer than the suite
    "max_num_seqs": 32,
    "distributed_executor_backend": "uni",
}


AT_ONCE = 512  # answers: the engine tells of every token of their prompts, as an object of its own


class EngineUnavailable(FinephraseError):
    """vLLM is not installed, or does not start."""


class EngineModel(ScoringModel):
    """A checkpoint on a running engine."""

    def __init__(self, engine: LLM, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        super().__init__(tokenizer, context)
        self._engine = engine

    def log_probabilities(self, answers: Sequence[Answer]) -> list[float]:
        found = []
        for start in range(0, len(answers), AT_ONCE):
            found += self._of_some(answers[start : start + AT_ONCE])
        return found

    def _of_some(self, answers: Sequence[Answer]) -> list[float]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        outputs = self._engine.generate(
            [TokensPrompt(prompt_token_ids=list(answer.tokens)) for answer in answers],
            SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False),
            use_tqdm=False,
        )
        return [
            _log_probability(answer, output.prompt_logprobs) for answer, output in zip(answers, outputs, strict=True)
        ]


def _log_probability(answer: Answer, told: Any) -> float:
    """The sum over an answer's tokens; the engine tells a token's log-probability at its own place."""
    return sum(told[place][answer.tokens[place]].logprob for place in range(answer.start, len(answer.tokens)))


@contextlib.contextmanager
def engine_model(checkpoint: Path, *, flags: Mapping[str, Any]) -> Iterator[EngineModel]:
    """A checkpoint on an engine of its own, which ends with the block.

    Args:
        checkpoint: a Hugging Face folder.
        flags: of `vllm.LLM`, such as `gpu_memory_utilization` or `dtype`.

    Raises:
        EngineUnavailable: vLLM is not installed, or the engine does not start.
    """
    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
    context = config.max_position_embeddings
    on_cpu = not torch.cuda.is_available()
    chosen: dict[str, Any] = {
        "max_model_len": context + 1,
        "max_num_batched_tokens": max(8192, context + 1),
        # Log-probabilities of a prompt cannot come from the cache.
        "enable_prefix_caching": False,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "seed": 0,
        **(CPU_FLAGS if on_cpu else {}),
        **flags,
    }
    with _environment({**ENVIRONMENT, **(CPU_ENVIRONMENT if on_cpu else {})}):
        try:
            from vllm import LLM

            engine = LLM(model=str(checkpoint), **chosen)
        except ImportError as error:
            raise EngineUnavailable(f"vLLM cannot be imported ({error}); install it, or use transformers") from error
        except Exception as error:  # whatever the engine's start raises
            reason = str(error).split("\n")[0]
            raise EngineUnavailable(
                f"{checkpoint}: the engine does not start ({reason}); or use transformers"
            ) from error
        try:
            yield EngineModel(engine, AutoTokenizer.from_pretrained(checkpoint, local_files_only=True), context)
        finally:
            engine.llm_engine.engine_core.shutdown()
            del engine
            gc.collect()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets what is not set yet, and puts it back."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
