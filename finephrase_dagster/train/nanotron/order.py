"""The order in which nanotron reads: which window of which component is at which place.

It follows from the shares, the lengths of the linked files and their order alone, and is the same on any number of
GPUs. A batch takes the next places, replica by replica.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from finephrase_dagster.train.mixture import Windows
from finephrase_dagster.train.nanotron.data import linked_files, sequences_in
from finephrase_dagster.train.order import rows_of_order
from finephrase_dagster.train.tokens import TokenSet


def blended(weights: Sequence[float], places: int) -> np.ndarray:
    """Return the component at each place of a data stage; shape (places,), int16.

    Each place goes to the component that is furthest behind its share, on a tie to the first. nanotron computes in the
    same precision, so both round alike where the shares leave it to rounding.
    """
    shares = np.asarray(weights, dtype=np.float64)
    shares = (shares / shares.sum()).tolist()
    given = [0] * len(shares)
    components = np.empty(places, dtype=np.int16)
    for place in range(places):
        due = float(max(place, 1))
        behind = [share * due - count for share, count in zip(shares, given, strict=True)]
        chosen = behind.index(max(behind))
        given[chosen] += 1
        components[place] = chosen
    return components


def stage_order(
    *,
    components: Mapping[str, Path],
    weights: Mapping[str, float],
    places: int,
    read_before: Mapping[str, int],
    sequence: int,
    seed: int,
) -> pa.Table:
    """Return what one data stage reads, as rows of `order.parquet`.

    A row's window has `sequence + 1` tokens: those that the student sees, and the one that follows them.

    Args:
        components: the folder of tokens of each component.
        weights: share of each component.
        places: number of sequences in the stage.
        read_before: sequences that an earlier stage has read of a component.
        sequence: tokens per training sequence.
        seed: of the order of the files.
    """
    component = blended(list(weights.values()), places)
    starts, sets = np.empty(places, dtype=np.int64), []
    for number, name in enumerate(weights):
        rows, before = np.flatnonzero(component == number), read_before.get(name, 0)
        tokens = TokenSet(components[name])
        pieces: list[np.ndarray] = [np.empty(0, np.int64)]
        left = before + len(rows)
        for file in linked_files(components[name], left, sequence=sequence, seed=seed, name=name):
            size = min(sequences_in(file, sequence), left)
            pieces.append(file.begin + (sequence + 1) * np.arange(size))
            left -= size
        starts[rows] = np.concatenate(pieces)[before:]
        sets.append(tokens)
    windows = Windows(names=tuple(weights), component=component, start=starts)
    return rows_of_order(windows, sets, np.arange(places), length=sequence + 1)
