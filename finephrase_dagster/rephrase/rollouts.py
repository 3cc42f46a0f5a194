"""Rollouts: a row is drawn again, with another seed, while its completion fails gates; the best one is kept.

Which rollout is drawn next and which one is kept follows from those that were drawn, whatever interrupted the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from finephrase_dagster.artifacts.recipe import base_seed
from finephrase_dagster.rephrase.completion import FailedRow
from finephrase_dagster.rephrase.outcome import Completed, Outcome, Rejected, Rollout, with_discarded

SEED_BITS = 53  # JSON carries integers of this size exactly everywhere
BY_CHANCE = frozenset({"no_text", "finish_reason", "refusal"})
"""The kinds of failures that another seed may not have."""


class RolloutRule:
    """How the rollouts of a dataset's rows are drawn, judged and chosen, by the dataset's recipe."""

    def __init__(self, recipe: Mapping[str, Any]) -> None:
        """Read the recipe of a dataset whose rows may be drawn several times."""
        from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow  # not needed where rows are drawn once
        from finephrase_dagster.audit.gates import gates

        rule = recipe["rollouts"]
        self._most: int = rule["most"]
        self._draws_all: bool = rule["keep"] == "best"
        self._seed, self._prompt = base_seed(recipe), recipe["prompt"]["name"]
        self._audited = AuditedRow
        dataset = AuditedDataset(files=(), check=rule["check"])
        self._measures = {name: gates()[name].measure(dataset, settings) for name, settings in rule["gates"].items()}
        self._required = frozenset(name for name, settings in rule["gates"].items() if settings.get("blocking"))

    def next(self, drawn: Mapping[int, Rollout]) -> int | None:
        """Return the number of the rollout that is drawn next, from 0; None if one of those drawn is kept."""
        for number in range(self._most):
            if number not in drawn:
                return number
            if not self._draws_all and self._passes(drawn[number]):
                return None
        return None

    def request(self, request: bytes, row: str, number: int) -> bytes:
        """Return the request of a rollout, given that of the first."""
        if number == 0 or self._seed is None:
            return request
        return orjson.dumps(orjson.loads(request) | {"seed": request_seed(self._seed, row, self._prompt, number)})

    def judge(self, outcome: Outcome, document: str, failure: FailedRow | None) -> Rollout:
        """Return a rollout with the gates that it fails."""
        if isinstance(outcome, Rejected):
            spent = (0, 0) if failure is None else (failure.prompt_tokens, failure.completion_tokens)
            return Rollout(with_discarded(outcome, [(1, *spent)]), ())
        row = self._audited(outcome.id, outcome.text, outcome.finish_reason, document)
        flaws = [name for name, measure in self._measures.items() if measure.flaw(row) is not None]
        return Rollout(outcome, tuple(flaws))

    def keep(self, drawn: Mapping[int, Rollout]) -> Outcome:
        """Return the outcome of the best rollout, with what the others cost.

        A completion is better than none; then the fewest blocking gates that it fails count, then the fewest gates,
        then the order in which they were drawn.
        """
        best = min(drawn, key=lambda number: (*self._rank(drawn[number]), number))
        others = (rollout.outcome for number, rollout in drawn.items() if number != best)
        spent = [one.discarded if isinstance(one, Rejected) else _tokens(one) for one in others]
        return with_discarded(drawn[best].outcome, spent)

    def _passes(self, rollout: Rollout) -> bool:
        return isinstance(rollout.outcome, Completed) and not self._required.intersection(rollout.flaws)

    def _rank(self, rollout: Rollout) -> tuple[bool, int, int]:
        required = self._required.intersection(rollout.flaws)
        return isinstance(rollout.outcome, Rejected), len(required), len(rollout.flaws)


def request_seed(seed: int, row: str, prompt: str, rollout: int = 0) -> int:
    """Return the seed of one request, derived from the dataset's seed, the row's id, the prompt and the rollout."""
    text = f"{seed}\0{prompt}\0{row}" + (f"\0{rollout}" if rollout else "")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> (64 - SEED_BITS)


def _tokens(completed: Completed) -> tuple[int, int, int]:
    return 1, completed.prompt_tokens, completed.completion_tokens
