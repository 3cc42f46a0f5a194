"""Speed of rephrasing: documents/s of the complete `finephrase rephrase` command against DataTrove's InferenceRunner.

Both send documents of 4.3 KB of real text to a server that answers at once with 360 words, with 500 requests in flight,
and end with every row on disk; the start counts, too. Rounds of both alternate, and the medians are compared. The peer
is far slower and gets fewer documents; so that this is no disadvantage, its better rate counts, with or without its
start.

    python benchmarks/driver.py [--documents 40000] [--peer-documents 8000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from instant_server import InstantServer
from load import Driver, Ours, Peer, running, write_documents

SIZE, WORDS = 4300, 360
TARGET_RATIO = 8.0


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=40_000)
    parser.add_argument("--peer-documents", type=int, default=8_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=500)
    arguments = parser.parse_args()
    ours, peer = [], []
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name, InstantServer(words=WORDS) as server:
        root = Path(name)
        write_documents(root / "ours.jsonl", arguments.documents, SIZE)
        write_documents(root / "peer.jsonl", arguments.peer_documents, SIZE)
        common = {"url": server.url, "concurrency": arguments.concurrency}
        our_driver = Ours(input=root / "ours.jsonl", output=root / "ours", **common)
        its_driver = Peer(input=root / "peer.jsonl", output=root / "peer", **common)
        for number in range(arguments.rounds):
            ours.append(measure(our_driver, arguments.documents, server))
            peer.append(measure(its_driver, arguments.peer_documents, server))
            print(f"round {number + 1}: ours {ours[-1][0]:.0f}, peer {peer[-1][0]:.0f} documents/s", file=sys.stderr)
    ours_rate, ours_after_start = map(median, zip(*ours, strict=True))
    peer_rate, peer_after_start = map(median, zip(*peer, strict=True))
    figures = {
        "ours_documents_per_second": round(ours_rate),
        "ours_documents_per_second_after_start": round(ours_after_start),
        "peer_documents_per_second": round(peer_rate),
        "peer_documents_per_second_after_start": round(peer_after_start),
        "ratio": round(ours_rate / max(peer_rate, peer_after_start), 2),
        "target_ratio": TARGET_RATIO,
        "document_characters": SIZE,
        "answer_words": WORDS,
        **vars(arguments),
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


def measure(driver: Driver, documents: int, server: InstantServer) -> tuple[float, float]:
    """Return the documents/s of a complete command, and its documents/s from the first request on.

    Raises:
        RuntimeError: it failed, sent not exactly one request per document, or did not write every row.
    """
    shutil.rmtree(driver.output, ignore_errors=True)
    server.reset()
    with running(driver.command(), driver.output.with_suffix(".log")) as run:
        seconds = run.finish()
    counts = server.counts()
    if counts.requests != documents or counts.first is None:
        raise RuntimeError(f"{counts.requests} requests for {documents} documents: {' '.join(driver.command())}")
    driver.check(documents)
    return documents / seconds, documents / (run.started + seconds - counts.first)


if __name__ == "__main__":
    main()
