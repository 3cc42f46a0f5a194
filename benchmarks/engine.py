"""Generation speed: output tokens/s of our pipeline with its own vLLM server against vLLM's offline `LLM.chat`.

Both get the same documents, messages, sampling, seeds and engine flags. The peer runs in another process, without
server, client or output files, uses all cores, and gets all requests of a round at once. Rounds of both alternate with
new documents each time (so that no prefix is cached), and the medians are compared. The time to load the engines is
reported separately.

    python benchmarks/engine.py [--rounds 3] [--documents 200] [--max-tokens 128]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from random_model import CONTEXT, Document, documents, engine, generator, prompt, rephrased, write_model

from finephrase_dagster.artifacts.processor import on_cpu
from finephrase_dagster.artifacts.sampling import DEFAULT_SAMPLING, read_sampling
from finephrase_dagster.rephrase.clean import clean
from finephrase_dagster.rephrase.engine import CPU_FLAGS, FLAGS, Engine, environment
from finephrase_dagster.rephrase.render import Renderer
from finephrase_dagster.rephrase.rollouts import request_seed

DOCUMENT_TOKENS = 200
WARM_UP_DOCUMENTS = 32
SERVER_FLAGS = frozenset({"disable_uvicorn_access_log"})
PROMPT = prompt("retell", "[[DOCUMENT]]\n\nTell the text above again, in other words, for somebody who is new to it.")
OFFLINE = "--offline"


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=200, help="per round")
    parser.add_argument("--max-tokens", type=int, default=128)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        root = Path(name)
        model = root / "model"
        parameters = write_model(model)
        started = time.perf_counter()
        with engine(model, root / "engine.log") as server:
            start_seconds = time.perf_counter() - started
            peer = Offline(model, arguments.max_tokens)
            ours, theirs = [], []
            for number in range(arguments.rounds + 1):  # the first is the warm-up of both
                count = arguments.documents if number else WARM_UP_DOCUMENTS
                of = documents(count, tokens=DOCUMENT_TOKENS, first=number * arguments.documents)
                ours.append(served(root / f"round-{number}", of, model, arguments.max_tokens, server))
                theirs.append(peer.generate(of))
                print(
                    f"round {number}: ours {ours[-1].rate:.0f}, offline {theirs[-1].rate:.0f} tokens/s", file=sys.stderr
                )
            peer.close()
        print(json.dumps(figures(ours[1:], theirs[1:], parameters, start_seconds, peer.start_seconds)))


class Round:
    """The result of one side in one round."""

    def __init__(self, seconds: float, rows: dict[str, tuple[str, int, int]]) -> None:
        """Store the seconds and, by document id, the text and the tokens of prompt and completion."""
        self.seconds = seconds
        self.rows = rows
        self.prompt_tokens = sum(tokens for _, tokens, _ in rows.values())
        self.output_tokens = sum(tokens for _, _, tokens in rows.values())

    @property
    def rate(self) -> float:
        return self.output_tokens / self.seconds


def figures(
    ours: Sequence[Round], theirs: Sequence[Round], parameters: int, start: float, offline_start: float
) -> dict[str, Any]:
    """Return the comparison over all rounds, without the warm-up."""
    rate = statistics.median(one.rate for one in ours)
    offline = statistics.median(one.rate for one in theirs)
    same = [
        mine.rows[name][0] == clean(other.rows[name][0])
        for mine, other in zip(ours, theirs, strict=True)
        for name in mine.rows
    ]
    return {
        "ours_output_tokens_per_second": round(rate, 1),
        "offline_output_tokens_per_second": round(offline, 1),
        "ratio": round(rate / offline, 3),
        "ratio_of_each_round": [round(mine.rate / other.rate, 3) for mine, other in zip(ours, theirs, strict=True)],
        "ours_output_tokens": sum(one.output_tokens for one in ours),
        "offline_output_tokens": sum(one.output_tokens for one in theirs),
        "ours_prompt_tokens": sum(one.prompt_tokens for one in ours),
        "offline_prompt_tokens": sum(one.prompt_tokens for one in theirs),
        "same_completions": round(sum(same) / len(same), 3),
        "documents_per_round": len(ours[0].rows),
        "rounds": len(ours),
        "parameters": parameters,
        "ours_start_seconds": round(start, 1),
        "offline_start_seconds": round(offline_start, 1),
        "cores": len(os.sched_getaffinity(0)),
    }


def served(root: Path, of: Sequence[Document], model: Path, max_tokens: int, server: Engine) -> Round:
    """Run our pipeline, from the call to the complete dataset."""
    started = time.perf_counter()
    made = rephrased(root, of, [PROMPT], model=model, max_tokens=max_tokens, engine=server)[PROMPT.name]
    seconds = time.perf_counter() - started
    rows: dict[str, tuple[str, int, int]] = {}
    for file in made["files"]:
        for row in pq.read_table(root / PROMPT.name / file["path"]).to_pylist():
            rows[row["id"]] = (row["text"], row["prompt_tokens"], row["completion_tokens"])
    if len(rows) != len(of):
        raise SystemExit(f"only {len(rows)} of {len(of)} documents were completed")
    return Round(seconds, rows)


class Offline:
    """vLLM's own `LLM.chat` in another process, which answers with one line of JSON per round."""

    def __init__(self, model: Path, max_tokens: int) -> None:
        defaults = {**FLAGS, **CPU_FLAGS} if on_cpu() else FLAGS
        flags = {name: value for name, value in defaults.items() if name not in SERVER_FLAGS}
        flags["max_model_len"] = CONTEXT
        command = [sys.executable, __file__, OFFLINE, str(model), str(max_tokens), json.dumps(flags)]
        variables = {**environment(), "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
        started = time.perf_counter()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        self._answer()
        self.start_seconds = time.perf_counter() - started

    def generate(self, of: Sequence[Document]) -> Round:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([[one.id, one.text] for one in of]) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        return Round(answer["seconds"], {name: tuple(row) for name, row in answer["rows"].items()})

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # the other lines are vLLM's log
                return json.loads(line)
        raise SystemExit(f"the offline engine ended with {self._process.wait()}")

    def close(self) -> None:
        self._process.communicate()


def offline(model: Path, max_tokens: int, flags: dict[str, Any]) -> None:
    """Load the engine, then answer each line of documents with a line of completions: the peer's process."""
    from vllm import LLM, SamplingParams

    llm = LLM(model=str(model), **flags)
    print(json.dumps({}), flush=True)
    of = generator(model, max_tokens=max_tokens)
    renderer = Renderer(model=model, prompts={PROMPT.name: PROMPT}, context=of.context, max_tokens=max_tokens)
    sampling: dict[str, Any] = {**DEFAULT_SAMPLING, **read_sampling(model)}
    for line in sys.stdin:
        rows = json.loads(line)
        messages: list[Any] = [renderer.render(PROMPT.name, text).messages for _, text in rows]
        parameters = [
            SamplingParams(**sampling, max_tokens=max_tokens, seed=request_seed(of.sampling.seed, name, PROMPT.name))
            for name, _ in rows
        ]
        started = time.perf_counter()
        outputs = llm.chat(messages, parameters, use_tqdm=False)
        seconds = time.perf_counter() - started
        answers = {
            name: [one.outputs[0].text, len(one.prompt_token_ids or ()), len(one.outputs[0].token_ids)]
            for (name, _), one in zip(rows, outputs, strict=True)
        }
        print(json.dumps({"seconds": seconds, "rows": answers}), flush=True)


if __name__ == "__main__":
    if OFFLINE in sys.argv:
        offline(Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
    else:
        main()
