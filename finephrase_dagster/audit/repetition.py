"""How much a sample of completions repeats itself: sequences of words, compression, openings and closings."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from finephrase_dagster.audit.gate import AuditedRow

LONGEST = 4  # words of the longest sequences that are counted
FRAME_WORDS = 12  # words of the longest opening or closing
FRAME_SHARE, FEWEST = 0.01, 3  # completions that have a frame in common
FRAMES = 5  # that are listed
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def repetition(rows: Sequence[AuditedRow]) -> dict[str, Any]:
    """Return how varied some completions are.

    Returns:
        `distinct_n`: the share of different sequences among all sequences of n words, for n from 1 to 4.
        `self_repetition`: the share of the different sequences of four words of each completion that another one has.
        `compression_ratio`: bytes of all texts divided by their bytes compressed together.
        `openings`, `closings`: the longest sequences of words that many completions begin or end with.
    """
    distinct, repeated = _sequences(rows)
    return {
        "sampled_rows": len(rows),
        "distinct_n": distinct,
        "self_repetition": repeated,
        "compression_ratio": _compression([row.text for row in rows]),
        "openings": list(_frames([row.words[:FRAME_WORDS] for row in rows], [row.id for row in rows])),
        "closings": list(_frames([row.words[: -FRAME_WORDS - 1 : -1] for row in rows], [row.id for row in rows], -1)),
    }


def _sequences(rows: Sequence[AuditedRow]) -> tuple[dict[str, float], float]:
    numbers: defaultdict[str, int] = defaultdict(lambda: len(numbers))
    words = np.array([numbers[word] for row in rows for word in row.words], np.uint64)
    row_of = np.repeat(np.arange(len(rows), dtype=np.uint64), [len(row.words) for row in rows])
    distinct = {}
    sequences = words
    for size in range(1, LONGEST + 1):
        if size > 1:
            sequences = sequences[:-1] * _FACTOR + words[size - 1 :] + np.uint64(1)
        inside = sequences[row_of[: len(sequences)] == row_of[size - 1 :]]
        distinct[str(size)] = round(len(np.unique(inside)) / len(inside), 6) if len(inside) else 1.0
    inside_rows = row_of[: len(sequences)][row_of[: len(sequences)] == row_of[LONGEST - 1 :]]
    return distinct, round(_share_in_others(inside, inside_rows), 6)


def _share_in_others(sequences: NDArray[np.uint64], rows: NDArray[np.uint64]) -> float:
    order = np.lexsort((rows, sequences))
    sequences, rows = sequences[order], rows[order]
    first = np.ones(len(rows), bool)
    first[1:] = (sequences[1:] != sequences[:-1]) | (rows[1:] != rows[:-1])
    _, times = np.unique(sequences[first], return_counts=True)
    return float(times[times > 1].sum() / max(times.sum(), 1))


def _compression(texts: Sequence[str]) -> dict[str, float]:
    data = "\n\n".join(texts).encode(errors="replace")
    window = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    packed = {"zlib": zlib.compress(data), "zstd": zstandard.ZstdCompressor(compression_params=window).compress(data)}
    return {name: round(len(data) / max(len(one), 1), 3) for name, one in packed.items()}


def _frames(rows: Sequence[Sequence[str]], ids: Sequence[str], step: int = 1) -> Iterator[dict[str, Any]]:
    """Yield the longest common beginnings of some sequences of words, the most frequent first.

    A beginning is left out if a longer one is nearly as frequent.
    """
    fewest = max(FEWEST, FRAME_SHARE * len(rows))
    counts = Counter(tuple(words[:size]) for words in rows for size in range(1, len(words) + 1))
    common = {frame: count for frame, count in counts.items() if count >= fewest}
    longest: dict[tuple[str, ...], int] = {}
    for frame, count in common.items():
        longest[frame[:-1]] = max(count, longest.get(frame[:-1], 0))
    chosen = [
        (count, frame) for frame, count in common.items() if len(frame) > 1 and longest.get(frame, 0) < 0.8 * count
    ]
    for count, frame in sorted(chosen, key=lambda one: (-one[0] * len(one[1]), one[1]))[:FRAMES]:
        example = next(id for id, words in zip(ids, rows, strict=True) if tuple(words[: len(frame)]) == frame)
        yield {"text": " ".join(frame[::step]), "share": round(count / len(rows), 6), "example": example}
