"""The embedded generator as files: a small Llama, its tokenizer, and the chat template they share.

Saved in Hugging Face format, so that an engine serves it like any other chat model. How it learns is
`pretrain.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.generator import EmbeddedGenerator
from finephrase_dagster.train.vocabulary import train_bpe

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
MOST_PARAMETERS = 5_000_000  # what stays quick to train and to serve on two cores

# One token opens each message and says whose it is; only the assistant's messages end.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


class GeneratorError(FinephraseError):
    """The embedded generator cannot be trained as the study says; the message names the field."""


def build_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE vocabulary and dresses it as a chat model's tokenizer."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(texts, vocabulary=vocabulary, special_tokens=(PAD, SYSTEM, USER, ASSISTANT, END)),
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(spec: EmbeddedGenerator, *, tokenizer: PreTrainedTokenizerFast, context: int) -> LlamaForCausalLM:
    """A Llama with fresh weights from torch's random state.

    Raises:
        GeneratorError: the widths do not divide, or it has more parameters than allowed.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    if spec.hidden % spec.heads or (spec.hidden // spec.heads) % 2:
        raise GeneratorError(f"embedded.hidden {spec.hidden} must be an even multiple of heads {spec.heads}")
    layer = 4 * spec.hidden**2 + 3 * spec.hidden * spec.ffn + 2 * spec.hidden
    parameters = len(tokenizer) * spec.hidden + spec.layers * layer + spec.hidden
    if parameters > MOST_PARAMETERS:
        raise GeneratorError(
            f"the embedded generator would have {parameters:,} parameters, {MOST_PARAMETERS:,} are allowed; "
            "lower embedded.layers, hidden, ffn or vocabulary"
        )
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=spec.hidden,
            intermediate_size=spec.ffn,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            num_key_value_heads=spec.heads,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    if model.num_parameters() != parameters:
        raise AssertionError(f"counted {parameters:,} parameters, the model has {model.num_parameters():,}")
    return model


def save_generator(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes weights (safetensors), configuration, tokenizer, chat template and sampling values."""
    from transformers import GenerationConfig

    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.9,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
