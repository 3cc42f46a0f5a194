"""Training the embedded generator: its sequences, and the folder that comes out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from finephrase_dagster.corpora.document import Document
from finephrase_dagster.corpora.kinds.embedded import read_language_reference
from finephrase_dagster.generators.branches import IGNORED, Sampler
from finephrase_dagster.generators.model import GeneratorError, build_model, build_tokenizer
from finephrase_dagster.generators.pretrain import GeneratorFacts, train_generator
from finephrase_dagster.study.generator import EmbeddedGenerator
from finephrase_dagster.study.prompt import read_prompts

pytestmark = pytest.mark.slow

PROMPTS = Path(__file__).parents[1] / "prompts"
SPEC = EmbeddedGenerator(
    sources=("language_reference",),
    vocabulary=1024,
    layers=2,
    hidden=64,
    ffn=128,
    heads=2,
    steps=30,
    batch_sequences=2,
    sequence=768,
    learning_rate=3e-3,
    seed=1,
)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [row for row in read_language_reference() if isinstance(row, Document)][:20]


def train(folder: Path, documents: list[Document], **changes: Any) -> tuple[GeneratorFacts, list[str]]:
    lines: list[str] = []
    spec = SPEC.model_copy(update=changes)
    return train_generator(folder, spec=spec, context=512, documents=documents, log=lines.append), lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> tuple[Path, GeneratorFacts]:
    folder = tmp_path_factory.mktemp("generator") / "model"
    return folder, train(folder, documents)[0]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_training_saves_a_chat_model_that_loads_and_answers(
    trained: tuple[Path, GeneratorFacts], documents: list[Document]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, facts = trained
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.num_parameters() == facts.parameters < 5_000_000
    assert model.config.architectures == ["LlamaForCausalLM"]
    assert model.config.tie_word_embeddings is True
    assert (model.generation_config.temperature, model.generation_config.top_p) == (0.7, 0.9)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    prompt = read_prompts(PROMPTS, ("faq",))["faq"].fill(documents[0].text[:200])[0].text
    message = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert text == f"<|user|>{prompt}<|assistant|>"
    tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    assert tokenizer.decode(tokens["input_ids"][0]) == text
    assert model.generate(**tokens, max_new_tokens=5, do_sample=False).shape[1] > tokens["input_ids"].shape[1]


def test_the_loss_falls_and_is_recorded(trained: tuple[Path, GeneratorFacts]) -> None:
    _, facts = trained
    assert facts.final_loss < facts.loss_curve[0][1] - 1
    assert facts.loss_curve[-1][0] == facts.steps == SPEC.steps
    assert facts.tokens == SPEC.steps * SPEC.batch_sequences * SPEC.sequence
    assert facts.tokens_per_second == pytest.approx(facts.tokens / facts.seconds)


def test_a_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path, documents: list[Document]) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, documents, steps=3, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_a_path_through_the_branches_is_what_the_model_meets_when_served(documents: list[Document]) -> None:
    import torch

    texts = [document.text for document in documents]
    tokenizer = build_tokenizer(texts, vocabulary=1024)
    sampler = Sampler(texts, tokenizer=tokenizer, context=512, sequence=1024, seed=3)
    torch.manual_seed(0)
    model = build_model(SPEC, tokenizer=tokenizer, context=512).eval()
    drawn = sampler.draw()
    batch = sampler.batch([drawn])
    with torch.no_grad():
        packed = model(
            input_ids=batch.tokens, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        ).logits[0]
        paths = sorted({(i, c) for i, c in zip(drawn.instruction, drawn.completion, strict=True) if c})
        assert len(paths) > 2
        for number, completion in paths:
            owned = [
                index
                for index, (i, c) in enumerate(zip(drawn.instruction, drawn.completion, strict=True))
                if i == 0 or (i == number and c in (0, completion))
            ]
            tokens = torch.tensor([[drawn.tokens[index] for index in owned]])
            assert tokens.shape[1] <= 512
            assert drawn.tokens[owned[-1]] == tokenizer.eos_token_id
            alone = model(input_ids=tokens, use_cache=False).logits[0]
            torch.testing.assert_close(packed[owned], alone, atol=1e-4, rtol=1e-3)


def test_completions_and_documents_are_learned_and_instructions_are_not(documents: list[Document]) -> None:
    texts = [document.text for document in documents]
    tokenizer = build_tokenizer(texts, vocabulary=1024)
    sampler = Sampler(texts, tokenizer=tokenizer, context=512, sequence=1024, seed=1)
    drawn = [sampler.draw() for _ in range(4)]
    batch = sampler.batch(drawn)
    learned = batch.targets != IGNORED
    assert 0.3 < (learned & batch.restated).float().mean() < 0.9
    ends = batch.targets == tokenizer.eos_token_id
    assert ends.sum() == sum(len({*zip(one.instruction, one.completion, strict=True)}) for one in drawn) - sum(
        1 + len({*one.instruction} - {0}) for one in drawn
    )
    assert batch.restated[ends].all()
    for row, one in enumerate(drawn):
        for place, (number, completion) in enumerate(zip(one.instruction, one.completion, strict=True)):
            assert not (number and not completion and learned[row, place])
        assert not learned[row, len(one.tokens) :].any()


@pytest.mark.parametrize(
    ("changes", "context", "said"),
    [
        ({"hidden": 1024, "ffn": 4096}, 512, r"parameters, 5,000,000 are allowed; lower embedded.layers"),
        ({"heads": 3}, 512, "embedded.hidden 64 must be an even multiple of heads 3"),
        ({}, 256, "context 256 leaves -24 tokens for a document"),
        ({"sequence": 256}, 512, "embedded.sequence 256 is shorter than the context 512"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    tmp_path: Path, documents: list[Document], changes: dict[str, Any], context: int, said: str
) -> None:
    spec = SPEC.model_copy(update=changes)
    with pytest.raises(GeneratorError, match=said):
        train_generator(tmp_path / "model", spec=spec, context=context, documents=documents, log=lambda line: None)
    assert not (tmp_path / "model").exists()


def test_no_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GeneratorError, match="needs documents"):
        train(tmp_path, [])
