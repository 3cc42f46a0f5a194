"""Training speed: tokens/s of `trainer.train` against a bare PyTorch loop on the same model and batches.

Both see the same windows of real text (the standard library's language reference) in the same order, with the same
optimizer and clipping. They run alternately and the medians of their rounds are compared, so that a busy machine slows
down both.

    python benchmarks/train.py [--rounds 3] [--tokens 180000]
    python benchmarks/train.py --preset 0.5b    model FLOPs utilisation on one device; see `utilisation.py`
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads that spin while they wait cost a busy machine many times what they save an idle one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import utilisation

from finephrase_dagster.study.student import Mixture, Seeds, Student
from finephrase_dagster.train.job import TrainingJob
from finephrase_dagster.train.mixture import mix, read_windows
from finephrase_dagster.train.schedule import data_order, steps_of
from finephrase_dagster.train.sequences import Sequences
from finephrase_dagster.train.student import build_student
from finephrase_dagster.train.tokenizer import train_tokenizer
from finephrase_dagster.train.tokens import TokenSet, tokenise
from finephrase_dagster.train.trainer import adamw, train

SEQUENCE, VOCABULARY = 256, 4096
STUDENT = Student(
    layers=2,
    hidden=128,
    ffn=384,
    heads=4,
    kv_heads=2,
    batch_sequences=2,
    learning_rate=2e-3,
    final_learning_rate=2e-4,
    warmup_fraction=0.1,
    decay_fraction=0.3,
    weight_decay=0.1,
    document_masking=True,
)
SEEDS = Seeds(data=1, model=1)


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=180_000, help="training tokens per round")
    utilisation.add_options(parser)
    arguments = parser.parse_args()
    if arguments.preset:
        utilisation.report(arguments)
        return
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        root = Path(name)
        tokenise_seconds, tokens = prepare(root, arguments.tokens)
        bare(root)  # the first run of a process pays for allocations and kernels
        ours_rates, bare_rates, data_shares = [], [], []
        for number in range(arguments.rounds):
            ours_rates.append(ours(root, number))
            rate, data_share = bare(root)
            bare_rates.append(rate)
            data_shares.append(data_share)
            print(f"round {number + 1}: ours {ours_rates[-1]:.0f}, bare {rate:.0f} tokens/s", file=sys.stderr)
    ours_rate, bare_rate = statistics.median(ours_rates), statistics.median(bare_rates)
    figures = {
        "ours_tokens_per_second": round(ours_rate),
        "bare_tokens_per_second": round(bare_rate),
        "ratio": round(ours_rate / bare_rate, 3),
        "data_share_of_step": round(statistics.median(data_shares), 4),
        "tokenise_tokens_per_second": round(tokens / tokenise_seconds),
        "tokens_a_round": arguments.tokens,
        "rounds": arguments.rounds,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps(figures))


def prepare(root: Path, budget: int) -> tuple[float, int]:
    """Write tokenizer, tokens and mixture below `root`; return the seconds of tokenising and the number of tokens."""
    for folder in ("tokenizer", "tokens", "mixture"):
        (root / folder).mkdir()
    train_tokenizer(root / "tokenizer", vocabulary=VOCABULARY, texts=topics.values())
    pq.write_table(pa.table({"id": list(topics), "text": list(topics.values())}), root / "shard-00000.parquet")
    started = time.perf_counter()
    facts = tokenise(
        [root / "shard-00000.parquet"],
        root / "tokens",
        tokenizer=root / "tokenizer",
        dataset="language_reference",
        log=lambda _: None,
    )
    seconds = time.perf_counter() - started
    mixture = Mixture(components={"language_reference": 1.0}, tokens=budget, seed=1)
    mix(root / "mixture", mixture=mixture, sequence=SEQUENCE, components={"language_reference": root / "tokens"})
    return seconds, facts.tokens


def ours(root: Path, number: int) -> float:
    """Return the tokens/s of `trainer.train`."""
    output = root / f"student-{number}"
    output.mkdir()
    job = TrainingJob(
        student=STUDENT,
        sequence=SEQUENCE,
        seeds=SEEDS,
        mixture=root / "mixture",
        components={"language_reference": root / "tokens"},
        tokenizer=root / "tokenizer",
        output=output,
    )
    return train(job).tokens_per_second


def bare(root: Path) -> tuple[float, float]:
    """Return the tokens/s of a loop with only data, model and optimizer, and the share of time spent on data."""
    windows = read_windows(root / "mixture", sequence=SEQUENCE)
    steps = steps_of(len(windows), student=STUDENT)
    order = data_order(len(windows), seed=SEEDS.data)
    data = Sequences(windows, [TokenSet(root / "tokens")], order, SEQUENCE, end_of_text=0)
    torch.manual_seed(SEEDS.model)
    model = build_student(STUDENT, vocabulary=VOCABULARY, sequence=SEQUENCE, eos=0)
    model.config.use_cache = False
    model.train()
    optimizer = adamw(model, STUDENT)
    batch, reading = STUDENT.batch_sequences, 0.0
    started = time.perf_counter()
    for step in range(steps):
        before = time.perf_counter()
        inputs = data.__getitems__(list(range(step * batch, (step + 1) * batch)))
        reading += time.perf_counter() - before
        model(**inputs).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - started
    return steps * batch * SEQUENCE / seconds, reading / seconds


if __name__ == "__main__":
    main()
