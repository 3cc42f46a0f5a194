"""Fitting few-shot prompts into a model's context: on purpose, recorded, and never at the answer's cost.

Cutting tokens off the left of a prompt that is too long would let examples begin in the middle. Here
the earliest examples are dropped whole until prompt and longest gold fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lighteval.models.abstract_model import LightevalModel
from lighteval.tasks.prompt_manager import PromptManager
from lighteval.tasks.requests import Doc

from finephrase_dagster.errors import FinephraseError


class AnswerTooLong(FinephraseError):
    """A gold answer alone fills the model's context, so it has no probability given the question."""


@dataclass(frozen=True, kw_only=True)
class FittedDoc:
    """A document that fits.

    Attributes:
        doc: with the examples that fit.
        shots: how many they are.
        prompt_tokens: of the question and its examples, less those that were cut.
        cut_tokens: tokens lost on the left of the question itself, where it is too long without examples.
    """

    doc: Doc
    shots: int
    prompt_tokens: int
    cut_tokens: int


def fit(doc: Doc, model: LightevalModel) -> FittedDoc:
    """Drops the earliest examples until the prompt and the longest gold fit the model's context.

    Raises:
        AnswerTooLong: a gold leaves no room for even one token of the question.
    """
    prompts = PromptManager()
    examples = list(doc.fewshot_samples)
    longest = prompt_tokens = 0
    for dropped in range(len(examples) + 1):
        fitted = replace(doc, fewshot_samples=examples[dropped:])
        contexts, golds = model.tok_encode_pair(prompts.prepare_prompt(fitted), fitted.choices, pairwise=True)
        longest, prompt_tokens = max(len(gold) for gold in golds), len(contexts[0])
        excess = max(len(context) + len(gold) for context, gold in zip(contexts, golds, strict=True))
        excess -= model.max_length
        if excess <= 0:
            return FittedDoc(doc=fitted, shots=len(examples) - dropped, prompt_tokens=prompt_tokens, cut_tokens=0)
    if longest >= model.max_length:
        raise AnswerTooLong(
            f"task {doc.task_name}, item {doc.id}: an answer of {longest} tokens does not fit "
            f"a context of {model.max_length}: leave the item out, or give the student a longer sequence"
        )
    return FittedDoc(doc=fitted, shots=0, prompt_tokens=prompt_tokens - excess, cut_tokens=excess)
