"""Shared by the benchmarks of engines: a random chat model, documents of real text, and a run of our pipeline.

The model is a Llama with 43 million random weights. It is as fast as a trained one and rarely ends a completion by
itself, so that completions have the requested length. As a script, this file describes the model.

    python benchmarks/random_model.py
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.recipe import dataset_recipe
from finephrase_dagster.artifacts.sampling import read_sampling, resolve_sampling
from finephrase_dagster.rephrase.engine import Engine, EngineLike
from finephrase_dagster.rephrase.job import RephraseJob, Target, execute
from finephrase_dagster.study.generator import Generator, Sampling
from finephrase_dagster.study.prompt import Prompt
from finephrase_dagster.study.turns import parse_turns, positions

VOCABULARY = 8192
CONTEXT = 1024
CONCURRENCY = 256  # the engine batches 128: as many wait for a place
CHUNK_ROWS = 100
CHARACTERS_PER_TOKEN = 4.3  # of the documents under the model's tokenizer
SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Document:
    """A piece of real text with an id."""

    id: str
    text: str


def documents(count: int, *, tokens: int, first: int = 0) -> list[Document]:
    """Return pieces of Python's language reference of about this many tokens, numbered from `first`.

    No two begin alike, so that only what an order of requests shares is served from the prefix cache.
    """
    text = "\n\n".join(topics.values())
    size = int(tokens * CHARACTERS_PER_TOKEN)
    starts = (number * size % (len(text) - size) for number in range(first, first + count))
    return [
        Document(f"doc-{number}", f"{number} is this document's number. {text[start : start + size]}")
        for number, start in enumerate(starts, first)
    ]


def prompt(name: str, template: str) -> Prompt:
    return Prompt(
        name=name,
        family="other",
        format="text",
        origin="a benchmark",
        document=positions(parse_turns(template))[0],
        check="prose",
        version=1,
        description="A benchmark's.",
        template=template,
    )


def generator(model: Path, *, max_tokens: int) -> Generator:
    sampling = Sampling(temperature=1.0, top_p=1.0, seed=1)
    return Generator(model=str(model), context=CONTEXT, max_tokens=max_tokens, sampling=sampling)


def write_model(folder: Path) -> int:
    """Write model, tokenizer and chat template in Hugging Face format; return the number of parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    _write_tokenizer(folder)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=12,
            num_attention_heads=8,
            num_key_value_heads=8,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        )
    )
    model.bfloat16().save_pretrained(folder)
    return sum(weights.numel() for weights in model.parameters())


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(topics.values(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def engine(model: Path, log: Path) -> Engine:
    """Return our engine for that model; it is not started."""
    return Engine.of(generator(model, max_tokens=1), model=model, name="random", log=log)


def rephrased(
    root: Path, of: Sequence[Document], prompts: Sequence[Prompt], *, model: Path, max_tokens: int, engine: EngineLike
) -> dict[str, dict[str, Any]]:
    """Run our pipeline over documents, from reading them to complete datasets in `root/<prompt>`.

    Returns:
        The manifest of each prompt's dataset, by name.
    """
    root.mkdir()
    corpus = root / "documents.parquet"
    pq.write_table(pa.Table.from_pylist([vars(one) for one in of]), corpus)
    spec = generator(model, max_tokens=max_tokens)
    by_name = {one.name: one for one in prompts}
    sampling = resolve_sampling(spec.sampling, read_sampling(model))
    job = RephraseJob(
        files=(str(corpus),),
        prompts=by_name,
        targets={
            name: Target(
                folder=str(root / name),
                recipe=dataset_recipe(
                    rows=None,
                    prompt=prompt,
                    model=engine.model,
                    engine={},
                    sampling=sampling,
                    context=spec.context,
                    max_tokens=spec.max_tokens,
                ),
            )
            for name, prompt in by_name.items()
        },
        model=engine.model,
        tokenizer=str(model),
        concurrency=CONCURRENCY,
        chunk_rows=CHUNK_ROWS,
    )
    return execute(job, engines=lambda: contextlib.nullcontext([engine]))


def main() -> None:
    """Print a description of the model as one JSON object on the last line."""
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        parameters = write_model(Path(name))
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        lengths = [len(tokenizer.encode(one.text)) for one in documents(200, tokens=450)]
    figures = {
        "parameters": parameters,
        "vocabulary": len(tokenizer),
        "tokens_of_a_450_token_document": round(sum(lengths) / len(lengths), 1),
        "longest": max(lengths),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
