"""Build a student: a decoder of the study's shape with fresh weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finephrase_dagster.study.student import Student

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def build_student(student: Student, *, vocabulary: int, sequence: int, eos: int) -> LlamaForCausalLM:
    """Return a Llama without biases, with tied embeddings and weights drawn from torch's random state.

    The published study's students are a Qwen2 without attention biases, which is the same as this Llama: SiLU, RMSNorm
    with epsilon 1e-6, rope_theta 10,000, initial standard deviation 0.02 (arXiv 2604.13977).

    Args:
        vocabulary: entries of the tokenizer.
        sequence: tokens in the context.
        eos: the id of the end-of-text token.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=student.hidden,
            intermediate_size=student.ffn,
            num_hidden_layers=student.layers,
            num_attention_heads=student.heads,
            num_key_value_heads=student.kv_heads,
            max_position_embeddings=sequence,
            hidden_act="silu",
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            initializer_range=0.02,
            attention_bias=False,
            mlp_bias=False,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=eos,
            pad_token_id=None,
            dtype="float32",
        )
    )
