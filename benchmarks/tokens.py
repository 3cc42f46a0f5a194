"""Tokenising speed: tokens/s of `tokenise` against DataTrove's own reader and tokenizer step on the same files.

Both read the same Parquet files of real text (the standard library's language reference, again and again)
with the same tokenizer, in turns, and the medians of their rounds are compared.

    python benchmarks/tokens.py [--rounds 3] [--documents 8000]
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

from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer
from loguru import logger

from finephrase_dagster.train.tokenizer import END_OF_TEXT, train_tokenizer
from finephrase_dagster.train.tokens import tokenise

VOCABULARY, FILES = 4096, 4


def main() -> None:
    """Prints the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=8000)
    arguments = parser.parse_args()
    logger.remove()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        root = Path(name)
        files = prepare(root, arguments.documents)
        ours_rates, peer_rates = [], []
        for number in range(arguments.rounds):
            ours_rates.append(ours(root, files, number))
            peer_rates.append(peer(root, number, ours_rates[-1][1]))
            print(f"round {number + 1}: ours {ours_rates[-1][0]:.0f}, DataTrove {peer_rates[-1]:.0f} tokens/s")
    ours_rate, peer_rate = statistics.median(rate for rate, _ in ours_rates), statistics.median(peer_rates)
    sys.stdout.flush()
    print(
        json.dumps(
            {
                "ours_tokens_per_second": round(ours_rate),
                "datatrove_tokens_per_second": round(peer_rate),
                "ratio": round(ours_rate / peer_rate, 3),
                "documents": arguments.documents,
                "tokens": ours_rates[0][1],
                "rounds": arguments.rounds,
            }
        )
    )


def prepare(root: Path, documents: int) -> list[Path]:
    """A tokenizer and files of real text."""
    texts = [topics[name] for name in sorted(topics)]
    (root / "tokenizer").mkdir()
    train_tokenizer(root / "tokenizer", vocabulary=VOCABULARY, texts=texts)
    (root / "text").mkdir()
    files = []
    for number in range(FILES):
        rows = range(number, documents, FILES)
        table = pa.table({"id": [str(row) for row in rows], "text": [texts[row % len(texts)] for row in rows]})
        files.append(root / "text" / f"shard-{number:05d}.parquet")
        pq.write_table(table, files[-1])
    return files


def ours(root: Path, files: list[Path], number: int) -> tuple[float, int]:
    """Tokens/s, and the tokens."""
    output = root / f"ours-{number}"
    output.mkdir()
    started = time.perf_counter()
    facts = tokenise(files, output, tokenizer=root / "tokenizer", dataset="reference", log=lambda _: None)
    return facts.tokens / (time.perf_counter() - started), facts.tokens


def peer(root: Path, number: int, tokens: int) -> float:
    """Tokens/s of DataTrove's pipeline over as many tokens."""
    output = root / f"peer-{number}"
    pipeline = [
        ParquetReader(str(root / "text")),
        DocumentTokenizer(
            str(output),
            str(root / "tokenizer" / "tokenizer.json"),
            eos_token=END_OF_TEXT,
            shuffle_documents=False,
            save_final_metadata=False,
        ),
    ]
    started = time.perf_counter()
    LocalPipelineExecutor(pipeline, tasks=1, logging_dir=str(root / f"logs-{number}")).run()
    seconds = time.perf_counter() - started
    written = sum(file.stat().st_size for file in output.rglob("*.ds")) // 2
    assert written == tokens, f"DataTrove wrote {written} tokens, ours are {tokens}"
    return tokens / seconds


if __name__ == "__main__":
    main()
