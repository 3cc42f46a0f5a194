"""Trains the embedded generator from scratch on a study's own documents.

A fixed number of steps, so that one seed gives one model on one machine; how fast they go is the
machine's. Its skill is form: it learns what a table or a tutorial of a document looks like, not facts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from finephrase_dagster.corpora.document import Document
from finephrase_dagster.generators.branches import IGNORED, Batch, Sampler
from finephrase_dagster.generators.instructions import FORMATS, wordings
from finephrase_dagster.generators.model import GeneratorError, build_model, build_tokenizer, save_generator
from finephrase_dagster.generators.outline import outline
from finephrase_dagster.generators.pairs import derive
from finephrase_dagster.study.generator import EmbeddedGenerator

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

WARMUP = 0.05  # share of the steps
WEIGHT_DECAY = 0.1
DOCUMENT_WEIGHT = 0.3  # of the loss over the document itself, which teaches its words
LOGGED = 20  # points of the loss curve
VOCABULARY_TEXT = 20_000  # characters of a document that the vocabulary is learned from
RESTATED_TEXT = 1_000  # characters of it that are restated for the vocabulary, about a context
INSTRUCTION_WEIGHT = 20  # times that an instruction counts there, so that its words become single tokens


@dataclass(frozen=True, kw_only=True)
class GeneratorFacts:
    """What was trained.

    Attributes:
        parameters: of the model, its tied embedding counted once.
        vocabulary: entries of the tokenizer.
        steps: optimizer steps.
        tokens: that went through the model, padding included.
        final_loss: mean over the last twentieth of the steps, in nats a completion token.
        seconds: of the steps alone.
        tokens_per_second: `tokens / seconds`.
        loss_curve: (step, mean loss since the point before).
    """

    parameters: int
    vocabulary: int
    steps: int
    tokens: int
    final_loss: float
    seconds: float
    tokens_per_second: float
    loss_curve: tuple[tuple[int, float], ...]


def train_generator(
    output: Path,
    *,
    spec: EmbeddedGenerator,
    context: int,
    documents: Sequence[Document],
    log: Callable[[str], None],
) -> GeneratorFacts:
    """Trains a chat model to restate the documents and saves it in Hugging Face format.

    Args:
        output: a folder that nobody else writes.
        spec: size, steps and seed.
        context: tokens of prompt and completion together, as the model will be served.
        documents: texts to restate.
        log: takes one line of progress at a time.

    Raises:
        GeneratorError: no documents, or sizes that do not fit together.
    """
    import torch

    if not documents:
        raise GeneratorError("the embedded generator needs documents; name sources in embedded.sources")
    texts = [document.text for document in documents]
    log(f"learning a vocabulary of {spec.vocabulary:,} from {len(texts):,} documents")
    tokenizer = build_tokenizer(_vocabulary_texts(texts, spec.seed), vocabulary=spec.vocabulary)
    sampler = Sampler(texts, tokenizer=tokenizer, context=context, sequence=spec.sequence, seed=spec.seed)
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        model = build_model(spec, tokenizer=tokenizer, context=context)
    log(f"{model.num_parameters():,} parameters, {spec.steps:,} steps")
    started = time.monotonic()
    losses = _fit(model, sampler.batches(steps=spec.steps, sequences=spec.batch_sequences), spec, log)
    seconds = time.monotonic() - started
    output.mkdir(parents=True, exist_ok=True)
    save_generator(model, tokenizer, output)
    tokens = spec.steps * spec.batch_sequences * spec.sequence
    last = losses[-max(1, spec.steps // 20) :]
    return GeneratorFacts(
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        steps=spec.steps,
        tokens=tokens,
        final_loss=sum(last) / len(last),
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        loss_curve=tuple(_curve(losses)),
    )


def _vocabulary_texts(documents: Sequence[str], seed: int) -> Iterator[str]:
    rng = Random(seed)
    for document in documents:
        yield document[:VOCABULARY_TEXT]
        found = outline(document[:RESTATED_TEXT])
        for format in FORMATS:
            yield derive(format, found, rng=rng) or ""
    yield from wordings() * INSTRUCTION_WEIGHT


def _fit(
    model: LlamaForCausalLM,
    batches: Iterator[Batch],
    spec: EmbeddedGenerator,
    log: Callable[[str], None],
) -> list[float]:
    """Runs the optimizer over the batches; returns the loss of each step."""
    import torch

    half = _has_bfloat16()
    optimizers = _optimizers(model, spec.learning_rate, precision=torch.bfloat16 if half else torch.float32)
    warmup = max(1, round(WARMUP * spec.steps))
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (spec.steps - step) / max(1, spec.steps - warmup))
        )
        for optimizer in optimizers
    ]
    losses: list[float] = []
    started = time.monotonic()
    model.set_attn_implementation("eager")  # faster than the fused kernel under a mask, at these lengths
    model.train()
    for step, batch in enumerate(batches, 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss, completions = _loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        losses.append(completions.item())
        if step % max(1, spec.steps // LOGGED) == 0 or step == spec.steps:
            log(f"step {step:,} of {spec.steps:,}: loss {losses[-1]:.3f}, {time.monotonic() - started:.0f} s")
    model.eval()
    model.set_attn_implementation("sdpa")
    return losses


def _optimizers(
    model: LlamaForCausalLM, learning_rate: float, *, precision: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embedding and norms."""
    import torch

    from finephrase_dagster.generators.muon import Muon

    embedding = {id(model.get_input_embeddings().weight)}
    inner = [one for one in model.parameters() if one.dim() == 2 and id(one) not in embedding]
    outer = [one for one in model.parameters() if one.dim() != 2 or id(one) in embedding]
    return [
        Muon(inner, lr=learning_rate, weight_decay=WEIGHT_DECAY, momentum=0.95, precision=precision),
        torch.optim.AdamW(outer, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def _loss(model: LlamaForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What is minimised, and its part over completions alone (mean cross-entropy a token)."""
    import torch

    hidden = model.model(
        input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
    ).last_hidden_state
    chosen = batch.targets != IGNORED  # only these go through the output layer
    logits = model.lm_head(hidden[chosen]).float()
    losses = torch.nn.functional.cross_entropy(logits, batch.targets[chosen], reduction="none")
    restated = batch.restated[chosen]
    completions = losses[restated].mean()
    return completions + DOCUMENT_WEIGHT * losses[~restated].mean(), completions.detach()


def _has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; emulated, it is slower than float32."""
    import torch

    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _curve(losses: Sequence[float]) -> Iterator[tuple[int, float]]:
    size = max(1, len(losses) // LOGGED)
    for start in range(0, len(losses), size):
        part = losses[start : start + size]
        yield start + len(part), sum(part) / len(part)
