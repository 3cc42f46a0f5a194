"""A scorer on vLLM, for students that are large or many.

The engine runs in this process and ends with its `with` block. It computes in the checkpoint's own precision, which
limits how closely its scores agree with those of transformers.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, PreTrainedTokenizerBase

from finephrase_dagster.artifacts.alias import plain_path
from finephrase_dagster.artifacts.processor import known_variables
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.evaluate.scorer import Show, TokenizedAnswer, load_tokenizer

if TYPE_CHECKING:
    from vllm import LLM

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    # The engine must generate one token after the answer, for which a full context has no room.
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


ANSWERS_PER_CALL = 512  # the engine returns one Python object per prompt token


class EngineUnavailable(FinephraseError):
    """vLLM is not installed, or does not start."""


class VllmScorer:
    """A checkpoint on a running engine."""

    def __init__(self, engine: LLM, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
        self.context = context
        self._engine = engine
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def log_probabilities(self, answers: Sequence[TokenizedAnswer], show: Show) -> list[float]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        sampling = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        sums = []
        for start in range(0, len(answers), ANSWERS_PER_CALL):
            batch = answers[start : start + ANSWERS_PER_CALL]
            prompts = [TokensPrompt(prompt_token_ids=list(answer.tokens)) for answer in batch]
            outputs = self._engine.generate(prompts, sampling, use_tqdm=False)
            sums += [_sum(answer, output.prompt_logprobs) for answer, output in zip(batch, outputs, strict=True)]
            show(len(sums), len(answers))
        return sums


def _sum(answer: TokenizedAnswer, logprobs: Any) -> float:
    """Return the sum over an answer's tokens; the engine lists a token's log-probability at its own position."""
    return sum(logprobs[index][answer.tokens[index]].logprob for index in range(answer.start, len(answer.tokens)))


@contextlib.contextmanager
def vllm_scorer(checkpoint: Path, *, flags: Mapping[str, Any]) -> Iterator[VllmScorer]:
    """Start an engine with a checkpoint; it ends with the `with` block.

    Args:
        checkpoint: a Hugging Face folder.
        flags: arguments of `vllm.LLM`, such as `gpu_memory_utilization` or `dtype`.

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

            engine = LLM(model=str(plain_path(checkpoint)), **chosen)
        except ImportError as error:
            raise EngineUnavailable(
                f"vLLM cannot be imported ({error}). Install it, or set evaluation.backend to transformers."
            ) from error
        except Exception as error:  # whatever the engine's start raises
            reason = str(error).split("\n")[0]
            raise EngineUnavailable(
                f"{checkpoint}: the engine does not start ({reason}). Or set evaluation.backend to transformers."
            ) from error
        try:
            yield VllmScorer(engine, load_tokenizer(checkpoint), context)
        finally:
            engine.llm_engine.engine_core.shutdown()
            del engine
            gc.collect()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set the environment variables that are not set yet, without `VLLM_*` that may change scores; then restore it."""
    before = dict(os.environ)
    environment = {**variables, **known_variables(before)}
    try:
        _set(environment)
        yield
    finally:
        _set(before)


def _set(environment: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
