"""The data that nanotron reads: one folder per component with links to token files, in the student's order.

nanotron takes sequences of `sequence + 1` tokens from a folder's files, one file after another in the order of their
names, and does not start over at the end. So a component that is seen more than once is linked more than once, and the
order of the data is the order of the links. Two things differ from the trainer for one machine: documents keep their
order within a file, and a component that is longer than its share is read from its beginning.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from finephrase_dagster.train.job import TrainingError
from finephrase_dagster.train.mixture import Windows
from finephrase_dagster.train.tokens import TokenFile, TokensError, TokenSet


def weights_of(windows: Windows) -> dict[str, float]:
    """Return the share of each component of a mixture."""
    counts = np.bincount(windows.component, minlength=len(windows.names))
    return {name: int(count) / len(windows) for name, count in zip(windows.names, counts, strict=True)}


def sequences_in(file: TokenFile, sequence: int) -> int:
    """Return the number of sequences that nanotron reads from a file."""
    return file.tokens // (sequence + 1)


def token_bytes(components: Mapping[str, Path]) -> int:
    """Return the bytes per token, 2 or 4, which must be the same in all components.

    Raises:
        TokensError: they differ, so the components come from different tokenizers.
    """
    sizes = {name: TokenSet(folder).token_bytes for name, folder in components.items()}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise TokensError(f"the bytes per token differ ({listed}): tokenise all components with one tokenizer")
    return next(iter(sizes.values()))


def link_data(
    folder: Path,
    *,
    components: Mapping[str, Path],
    weights: Mapping[str, float],
    sequences: int,
    read_before: Mapping[str, int],
    sequence: int,
    seed: int,
) -> dict[str, float]:
    """Link each component's files into `folder/<component>`, as often as the run needs them.

    A longer run has the links of a shorter one and more after them, so that a run can continue from an earlier one.

    Args:
        folder: the folder of the run's data; an existing one is replaced.
        components: the folder of tokens of each component.
        read_before: sequences of a component that an earlier stage has read; the run continues after them.
        sequence: tokens per sequence.
        seed: of the order of the files.

    Returns:
        The number of epochs that the run reads of each component.

    Raises:
        TrainingError: no file of a component holds a complete sequence.
        TokensError: a component's tokens cannot be read.
    """
    shutil.rmtree(folder, ignore_errors=True)
    epochs = {}
    for name, weight in weights.items():
        # nanotron rounds shares step by step, so a component may get one sequence more.
        needed = math.ceil(weight * sequences) + 1 + read_before.get(name, 0)
        target = folder / name
        target.mkdir(parents=True)
        files = set()
        for place, file in enumerate(linked_files(components[name], needed, sequence=sequence, seed=seed, name=name)):
            (target / f"{place:09d}.ds").symlink_to(file.path.resolve())
            files.add(file)
        epochs[name] = needed / sum(sequences_in(file, sequence) for file in files)
    return epochs


def linked_files(folder: Path, sequences: int, *, sequence: int, seed: int, name: str) -> Iterator[TokenFile]:
    """Yield a component's files in the order in which nanotron reads them.

    The files are yielded in complete epochs, until they hold the number of sequences.

    Raises:
        TrainingError: no file holds a complete sequence.
        TokensError: the tokens cannot be read.
    """
    files = [file for file in TokenSet(folder).files if sequences_in(file, sequence)]
    if not files:
        raise TrainingError(
            f"no file of {name} holds {sequence + 1} tokens: give it more text, lower the study's 'sequence', or "
            "take it out of the mixture"
        )
    epoch_sequences = sum(sequences_in(file, sequence) for file in files)
    for epoch in range(math.ceil(sequences / epoch_sequences)):
        for number in _order(len(files), seed=seed, name=name, epoch=epoch):
            yield files[number]


def _order(files: int, *, seed: int, name: str, epoch: int) -> np.ndarray:
    """Return the numbers of the files in the order in which an epoch reads them."""
    source = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.default_rng([seed, source, epoch]).permutation(files)
