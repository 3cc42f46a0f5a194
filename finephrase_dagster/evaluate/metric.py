"""`prob_norm_token`, as a lighteval metric: how probable the gold answer is, per token.

exp(mean log-probability per token of the gold answer); of several golds the largest counts; choices
that are not gold are ignored. lighteval 0.13's own probability metric with token normalisation is not
used: it raises IndexError, takes the padding of shorter answers for tokens, and looks at all choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from lighteval.metrics.metrics_sample import SampleLevelComputation
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc, SamplingMethod

from finephrase_dagster.errors import FinephraseError

NAME = "prob_norm_token"
PADDING = -1  # what lighteval fills the shorter of several answers with


class NotAProbability(FinephraseError):
    """A model's log-probability is not a number: its weights or its context are broken."""


@dataclass(frozen=True, kw_only=True)
class GoldAnswer:
    """One right answer as the model sees it.

    Attributes:
        text: the answer, without the space that joins it to the prompt.
        log_probability: the sum over its tokens, natural logarithm.
        tokens: how many they are.
    """

    text: str
    log_probability: float
    tokens: int

    @property
    def prob_norm_token(self) -> float:
        return math.exp(self.log_probability / self.tokens)


def gold_answers(doc: Doc, response: ModelResponse) -> list[GoldAnswer]:
    """All gold answers, in the document's order.

    Raises:
        NotAProbability: a log-probability is NaN or infinite.
    """
    golds = [doc.gold_index] if isinstance(doc.gold_index, int) else doc.gold_index
    answers = [
        GoldAnswer(
            text=doc.choices[index].strip(),
            log_probability=float(response.logprobs[index]),
            tokens=sum(int(token) != PADDING for token in response.output_tokens[index]),
        )
        for index in golds
    ]
    if not all(math.isfinite(answer.log_probability) for answer in answers):
        raise NotAProbability(f"a log-probability in task {doc.task_name} is not finite; train the model again")
    return answers


def best_gold(doc: Doc, response: ModelResponse) -> GoldAnswer:
    """The gold answer with the largest probability per token.

    Raises:
        NotAProbability: a log-probability is NaN or infinite.
    """
    return max(gold_answers(doc, response), key=lambda answer: answer.prob_norm_token)


class ProbNormToken(SampleLevelComputation):
    """One item's value."""

    def compute(self, doc: Doc, model_response: ModelResponse, **_: Any) -> float:
        return best_gold(doc, model_response).prob_norm_token


def prob_norm_token() -> SampleLevelMetric:
    """The metric, for a lighteval task."""
    return SampleLevelMetric(
        metric_name=NAME,
        higher_is_better=True,
        category=SamplingMethod.LOGPROBS,
        sample_level_fn=ProbNormToken(),
        corpus_level_fn=np.mean,
    )
