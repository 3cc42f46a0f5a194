"""Gain of a shared prefix: output tokens/s of one engine for the same documents and prompts in two orders.

Document first, the four prompts of a document together, as our pipeline sends them: the engine prefills each document
once. Instruction first, prompt by prompt, as four separate datasets: it prefills each document four times. Measured
with short completions, where prefilling dominates, and at the study's 1.7 input tokens per output token. Rounds of both
orders alternate with new documents each time, and the medians are compared.

    python benchmarks/prefix.py [--rounds 3] [--documents 40]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from random_model import Document, documents, engine, prompt, rephrased, write_model

from finephrase_dagster.rephrase.engine import Engine
from finephrase_dagster.study.prompt import Prompt

DOCUMENT_TOKENS = 420  # with chat template and instruction about 450
SHORT_TOKENS = 64
STUDY_TOKENS = 265  # 450 / 1.7
WARM_UP_DOCUMENTS = 8
INSTRUCTIONS = {
    "faq": "Write the questions that the text answers, each with an answer that stands on its own.",
    "math": "Write a word problem about the text, and solve it step by step, with the result on the last line.",
    "table": "Put the facts of the text into a table with a header, and say below what the table shows.",
    "tutorial": "Write a tutorial in numbered steps that teaches somebody who is new to it what the text says.",
}
DOCUMENT_FIRST = [prompt(name, f"[[DOCUMENT]]\n\n{words}") for name, words in INSTRUCTIONS.items()]
INSTRUCTION_FIRST = [prompt(name, f"{words}\n\n[[DOCUMENT]]") for name, words in INSTRUCTIONS.items()]


@dataclass(kw_only=True)
class OrderResult:
    """The result of one order of requests.

    Attributes:
        seconds: time in our pipeline.
        prompt_tokens, output_tokens: sums over all completions.
        cached: share of prompt tokens found in the prefix cache.
    """

    seconds: float
    prompt_tokens: int
    output_tokens: int
    cached: float

    @property
    def rate(self) -> float:
        return self.output_tokens / self.seconds


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=40, help="per round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        root = Path(name)
        parameters = write_model(root / "model")
        with engine(root / "model", root / "engine.log") as server:
            run = Comparison(root, server)
            run.compare(WARM_UP_DOCUMENTS, SHORT_TOKENS)
            short = [run.compare(arguments.documents, SHORT_TOKENS) for _ in range(arguments.rounds)]
            study = [run.compare(arguments.documents, STUDY_TOKENS)]
    print(
        json.dumps(
            {
                "parameters": parameters,
                "prompts": len(INSTRUCTIONS),
                "documents_per_round": arguments.documents,
                "short": figures(short, SHORT_TOKENS),
                "study_ratio": figures(study, STUDY_TOKENS),
            }
        )
    )


class Comparison:
    """Runs both orders on one engine, with new documents each time."""

    def __init__(self, root: Path, server: Engine) -> None:
        self._root = root
        self._server = server
        self._documents = 0

    def compare(self, count: int, max_tokens: int) -> tuple[OrderResult, OrderResult]:
        """Return the results of document first and instruction first, on the same documents."""
        of = documents(count, tokens=DOCUMENT_TOKENS, first=self._documents)
        self._documents += count
        together = self._run("together", of, [DOCUMENT_FIRST], max_tokens)
        one_by_one = self._run("one-by-one", of, [[one] for one in INSTRUCTION_FIRST], max_tokens)
        print(f"{max_tokens} tokens: {together.rate:.0f} together, {one_by_one.rate:.0f} one by one", file=sys.stderr)
        return together, one_by_one

    def _run(
        self, order: str, of: Sequence[Document], calls: Sequence[Sequence[Prompt]], max_tokens: int
    ) -> OrderResult:
        seconds = 0.0
        manifests: list[dict[str, Any]] = []
        hits: list[float] = []
        for number, prompts in enumerate(calls):
            folder = self._root / f"{order}-{self._documents}-{number}"
            started = time.perf_counter()
            made = rephrased(
                folder, of, prompts, model=self._root / "model", max_tokens=max_tokens, engine=self._server
            )
            seconds += time.perf_counter() - started
            manifests += made.values()
            hits.append(manifests[-1]["run"]["prefix_cache_hit_rate"])
        return OrderResult(
            seconds=seconds,
            prompt_tokens=sum(one["prompt_tokens"] for one in manifests),
            output_tokens=sum(one["completion_tokens"] for one in manifests),
            cached=statistics.mean(hits),
        )


def figures(rounds: Sequence[tuple[OrderResult, OrderResult]], max_tokens: int) -> dict[str, Any]:
    """Return the rates of both orders over all rounds, their ratio, and the cache hits that explain it."""
    together = [one for one, _ in rounds]
    one_by_one = [one for _, one in rounds]
    rate, other = (statistics.median(one.rate for one in order) for order in (together, one_by_one))
    return {
        "max_tokens": max_tokens,
        "document_first_output_tokens_per_second": round(rate, 1),
        "instruction_first_output_tokens_per_second": round(other, 1),
        "gain": round(rate / other, 2),
        "gain_of_each_round": [round(one.rate / two.rate, 2) for one, two in rounds],
        "output_tokens": [sum(one.output_tokens for one in order) for order in (together, one_by_one)],
        "input_tokens_per_output_token": round(
            sum(one.prompt_tokens for one in together) / sum(one.output_tokens for one in together), 2
        ),
        "prefix_cache_hits": [
            round(statistics.mean(one.cached for one in order), 3) for order in (together, one_by_one)
        ],
    }


if __name__ == "__main__":
    main()
