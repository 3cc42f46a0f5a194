"""The grammars of prompts: they compile fast, and every text that they allow has the form that the audit asks for."""

from __future__ import annotations

import random
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.artifacts.recipe import dataset_recipe, request_parameters
from finephrase_dagster.audit.forms import form_flaw
from finephrase_dagster.rephrase.clean import clean
from finephrase_dagster.study.prompt import Prompt, PromptError, prompt_names, read_prompt
from rephrase_parts import prompt, write_tokenizer

PROMPTS = Path(__file__).parents[1] / "prompts"
GUIDED = ("faq", "math", "table", "tutorial")
MOST_CHARACTERS = 1_600
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "seed": 0}


@cache
def shipped(name: str) -> Prompt:
    return read_prompt(PROMPTS / f"{name}.md")


def test_the_prompts_of_the_published_study_with_a_form_have_a_grammar() -> None:
    assert {name for name in prompt_names(PROMPTS) if shipped(name).grammar} == set(GUIDED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("name", GUIDED)
def test_a_grammar_compiles_in_less_than_a_second(name: str, folder: Path) -> None:
    compiler = _compiler(folder)
    started = time.process_time()
    compiler.compile_grammar(shipped(name).grammar)
    assert time.process_time() - started < 1


@given(name=st.sampled_from(GUIDED), seed=st.integers(0, 2**32))
@pytest.mark.slow
def test_every_text_of_a_grammar_has_its_form_and_a_bounded_length(name: str, seed: int, folder: Path) -> None:
    text = _random_text(name, folder, random.Random(seed))
    assert form_flaw(shipped(name).check, clean(text)[0]) is None, text
    assert len(text) <= MOST_CHARACTERS


def _compiler(folder: Path):  # type: ignore[no-untyped-def]
    import xgrammar
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo.from_huggingface(tokenizer), max_threads=1)


@cache
def _compiled(name: str, folder: Path):  # type: ignore[no-untyped-def]
    compiled = _compiler(folder).compile_grammar(shipped(name).grammar)
    return compiled.tokenizer_info, compiled


def _random_text(name: str, folder: Path, rng: random.Random) -> str:
    """Return a text of a grammar: at each place a random one of the tokens that the matcher of the engine allows."""
    import xgrammar

    info, grammar = _compiled(name, folder)
    matcher = xgrammar.GrammarMatcher(grammar)
    mask = xgrammar.allocate_token_bitmask(1, info.vocab_size)
    words = info.decoded_vocab
    text = b""
    while not matcher.is_terminated():
        matcher.fill_next_token_bitmask(mask)
        bits = mask[0].tolist()
        allowed = [token for token in range(info.vocab_size) if bits[token // 32] >> (token % 32) & 1]
        token = rng.choice(allowed)
        assert matcher.accept_token(token)
        if token not in info.stop_token_ids:
            text += words[token]
    return text.decode()


def written(folder: Path, grammar: str, **files: str) -> Path:
    text = (PROMPTS / "faq.md").read_text().replace("name: faq", "name: letter")
    path = folder / "letter.md"
    path.write_text(text.replace("grammar: faq.ebnf", f"grammar: {grammar}"))
    for name, content in files.items():
        (folder / f"{name}.ebnf").write_text(content)
    return path


def test_a_grammar_stands_in_the_front_matter_or_in_a_file_beside_the_prompt(tmp_path: Path) -> None:
    rule = 'root ::= "yes" | "no"'
    assert read_prompt(written(tmp_path, f"'{rule}'")).grammar == rule
    assert read_prompt(written(tmp_path, "answer.ebnf", answer=rule)).grammar == rule


@pytest.mark.parametrize(
    ("grammar", "files", "message"),
    [
        ("absent.ebnf", {}, r"letter\.md:\d+: grammar: \S*absent\.ebnf has no rule"),
        ("../faq.ebnf", {}, r"letter\.md:\d+: grammar: is '../faq\.ebnf'; write a grammar"),
        ("anything", {}, r"letter\.md:\d+: grammar: is 'anything'; write a grammar"),
        (
            "answer.ebnf",
            {"answer": "yes or no"},
            r"letter\.md:\d+: grammar: \S*answer\.ebnf has no rule; write root ::=",
        ),
    ],
)
def test_a_wrong_grammar_is_refused_with_its_file(
    tmp_path: Path, grammar: str, files: dict[str, str], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        read_prompt(written(tmp_path, grammar, **files))


def recipe(text: Prompt, *, guided: bool) -> dict[str, object]:
    return dataset_recipe(
        rows="r", prompt=text, model="m", engine={}, sampling=SAMPLING, context=512, max_tokens=64, guided=guided
    )


def test_a_grammar_is_part_of_the_recipe_and_of_requests_only_if_it_guides() -> None:
    grammar = shipped("faq").grammar
    assert request_parameters(recipe(shipped("faq"), guided=True))["structured_outputs"] == {"grammar": grammar}
    free = recipe(shipped("faq"), guided=False)
    assert grammar not in str(free)
    assert "structured_outputs" not in request_parameters(free)
    with pytest.raises(PromptError, match=r"prompt 'plain': has no grammar, .* leave the generator free \(--free"):
        recipe(prompt("plain").model_copy(update={"grammar": None}), guided=True)
