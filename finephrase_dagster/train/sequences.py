"""Sequences: a mixture's windows as the batches that a student trains on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from finephrase_dagster.train.mixture import Windows
from finephrase_dagster.train.order import listed
from finephrase_dagster.train.tokens import TokenSet


class Sequences(torch.utils.data.Dataset):
    """A mixture's windows in a student's order, handed out as whole batches."""

    def __init__(
        self, windows: Windows, sets: list[TokenSet], order: np.ndarray, sequence: int, *, end_of_text: int | None
    ) -> None:
        """Reads nothing yet.

        Args:
            windows: of the mixture.
            sets: the tokens of its components.
            order: numbers of windows, as the student sees them.
            sequence: tokens a window.
            end_of_text: the token behind each document, where attention is to stay within a document.
        """
        self._windows = windows
        self._sets = sets
        self._order = order
        self._sequence = sequence
        self._end_of_text = end_of_text

    def listed(self, begin: int = 0, end: int | None = None) -> pa.Table:
        """What stands at these places, as rows of `order.parquet`."""
        return listed(self._windows, self._sets, self._order[begin:end], length=self._sequence)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Input ids and labels, which the model shifts itself; shape (len(indices), sequence), int64.

        With document masking also `position_ids`, which begin at 0 in each document: by them transformers keeps
        attention within it.
        """
        rows = np.empty((len(indices), self._sequence), np.int64)
        for row, index in enumerate(self._order[indices]):
            tokens = self._sets[self._windows.component[index]]
            rows[row] = tokens.window(int(self._windows.start[index]), self._sequence)
        batch = torch.from_numpy(rows)
        found = {"input_ids": batch, "labels": batch}
        if self._end_of_text is not None:
            found["position_ids"] = torch.from_numpy(positions(rows, self._end_of_text))
        return found


def positions(rows: np.ndarray, end_of_text: int) -> np.ndarray:
    """Each token's position in its document, or in what a window holds of it; shape and type as `rows`."""
    places = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    begins = np.zeros_like(rows)
    begins[:, 1:] = np.where(rows[:, :-1] == end_of_text, places[:, 1:], 0)
    return places - np.maximum.accumulate(begins, axis=1)
