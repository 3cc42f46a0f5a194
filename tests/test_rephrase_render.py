"""Truncation: the prompt and its completion always fit, and the instruction always survives."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from finephrase_dagster.rephrase.render import (
    TEMPLATE_TOKENS,
    TURN_TOKENS,
    ByteRenderer,
    ChatTemplateError,
    PromptDoesNotFit,
    Renderer,
    messages,
)
from rephrase_parts import CHAT_TEMPLATE, TEXTS, prompt, write_tokenizer

BEFORE = "Write a summary of this text in three sentences, please:\n\n"
AFTER = "\n\nNow write down what a reader should remember of it."
PROMPTS = {
    "instruction_last": prompt("instruction_last", f"[[DOCUMENT]]{AFTER}"),
    "instruction_first": prompt("instruction_first", f"{BEFORE}[[DOCUMENT]]"),
    "both_sides": prompt("both_sides", f"{BEFORE}[[DOCUMENT]]{AFTER}", system="You write well."),
    "conversation": prompt(
        "conversation",
        f"[[USER]]\nSay hello.\n[[ASSISTANT]]\nHello.\n[[USER]]\n{BEFORE}[[DOCUMENT]]{AFTER}\n"
        "[[ASSISTANT]]\nIt is about a queue.\n[[USER]]\nWhat is a queue?",
        system="You write well.",
    ),
}
MAX_TOKENS = 30
MARK = "\u2042the document\u2042"
FOLDER = TemporaryDirectory(prefix="finephrase-tokenizer-")  # removed when the process ends


@cache
def model() -> Path:
    return write_tokenizer(Path(FOLDER.name))


@cache
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(model())


@cache
def renderer(context: int) -> Renderer:
    return Renderer(model=model(), prompts=PROMPTS, context=context, max_tokens=MAX_TOKENS)


TEXT = st.one_of(
    st.text(max_size=2000),
    st.sampled_from(TEXTS),
    st.text(alphabet="é漢🙂\u0301 \n", max_size=800),
    st.sampled_from(["a", " ", "\n", "🙂", "ab "]).flatmap(lambda s: st.integers(0, 4000).map(lambda n: s * n)),
    st.lists(st.sampled_from([*"<|end|>", "<|end|>", "<|user|>", "word"]), max_size=300).map("".join),
)


@settings(max_examples=150, deadline=None)
@given(text=TEXT, name=st.sampled_from(sorted(PROMPTS)), context=st.sampled_from([200, 300, 1000]))
def test_prompt_and_completion_fit_and_the_instruction_survives(text: str, name: str, context: int) -> None:
    rendered = renderer(context).render(name, text)
    ids = tokenizer().apply_chat_template(rendered.messages, add_generation_prompt=True, return_dict=False)
    assert len(ids) + MAX_TOKENS <= context
    around = messages(PROMPTS[name], MARK)
    assert [message["role"] for message in rendered.messages] == [message["role"] for message in around]
    place = next(index for index, message in enumerate(around) if MARK in message["content"])
    assert rendered.messages[:place] + rendered.messages[place + 1 :] == around[:place] + around[place + 1 :]
    message = rendered.messages[place]["content"]
    before, after = around[place]["content"].split(MARK)
    assert message.startswith(before)
    assert message.endswith(after)
    document = message[len(before) : len(message) - len(after)]
    assert text.startswith(document)
    assert rendered.document_cut == (document != text)


@settings(max_examples=60, deadline=None)
@given(text=TEXT, name=st.sampled_from(sorted(PROMPTS)))
def test_a_document_is_cut_only_if_it_does_not_fit_and_then_fills_the_context(text: str, name: str) -> None:
    whole = messages(PROMPTS[name], text)
    needed = len(tokenizer().apply_chat_template(whole, add_generation_prompt=True, return_dict=False))
    rendered = renderer(300).render(name, text)
    assert rendered.document_cut == (needed > 300 - MAX_TOKENS)
    if rendered.document_cut:
        used = tokenizer().apply_chat_template(rendered.messages, add_generation_prompt=True, return_dict=False)
        assert len(used) > 300 - MAX_TOKENS - 12  # a character of four bytes and two seams may be lost


def test_a_conversation_is_sent_turn_by_turn_after_its_system_message() -> None:
    asked = [(message["role"], message["content"]) for message in messages(PROMPTS["conversation"], "A text.")]
    assert asked == [
        ("system", "You write well."),
        ("user", "Say hello."),
        ("assistant", "Hello."),
        ("user", f"{BEFORE}A text.{AFTER}"),
        ("assistant", "It is about a queue."),
        ("user", "What is a queue?"),
    ]


@settings(max_examples=60, deadline=None)
@given(text=TEXT, name=st.sampled_from(sorted(PROMPTS)), context=st.sampled_from([700, 1000]))
def test_without_a_tokenizer_the_bytes_of_all_turns_fit(text: str, name: str, context: int) -> None:
    rendered = ByteRenderer(prompts=PROMPTS, context=context, max_tokens=MAX_TOKENS).render(name, text)
    size = sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in rendered.messages)
    around = TEMPLATE_TOKENS + TURN_TOKENS * max(0, len(rendered.messages) - 2)
    assert size + around + MAX_TOKENS <= context
    assert rendered.messages[0] == messages(PROMPTS[name], "")[0] or len(rendered.messages) == 1
    if len(rendered.messages) > 2:
        assert rendered.messages[-1]["content"] == "What is a queue?"


def test_a_document_whose_bytes_fit_is_not_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    sees_all = Renderer(model=model(), prompts=PROMPTS, context=1000, max_tokens=MAX_TOKENS)
    monkeypatch.setattr(sees_all, "_count", lambda text: pytest.fail("tokenised"))
    assert not sees_all.render("both_sides", "Short.").document_cut


def test_ten_megabytes_are_cut_without_tokenising_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    one = Renderer(model=model(), prompts=PROMPTS, context=300, max_tokens=MAX_TOKENS)
    count, cut = one._count, one._cut
    monkeypatch.setattr(one, "_count", lambda text: seen.append(len(text)) or count(text))
    monkeypatch.setattr(one, "_cut", lambda text, tokens: seen.append(len(text)) or cut(text, tokens))
    rendered = one.render("instruction_last", "word " * 2_000_000)
    assert rendered.document_cut
    assert max(seen) < 100_000


def test_a_prompt_that_leaves_no_room_is_named_before_anything_is_sent() -> None:
    with pytest.raises(PromptDoesNotFit, match=r"instruction_last: needs .*raise the context or lower max_tokens"):
        Renderer(model=model(), prompts=PROMPTS, context=60, max_tokens=MAX_TOKENS)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match=str(tmp_path)):
        Renderer(model=tmp_path, prompts=PROMPTS, context=300, max_tokens=MAX_TOKENS)


def test_a_chat_template_that_refuses_a_system_message_is_explained(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    (tmp_path / "chat_template.jinja").write_text(refusing + CHAT_TEMPLATE)
    with pytest.raises(ChatTemplateError, match=r"both_sides.*no system role"):
        Renderer(model=tmp_path, prompts=PROMPTS, context=300, max_tokens=MAX_TOKENS)
