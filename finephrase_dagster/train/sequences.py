"""A mixture's windows as the batches that a student trains on."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from finephrase_dagster.train.mixture import Windows
from finephrase_dagster.train.order import rows_of_order
from finephrase_dagster.train.tokens import TokenSet


class Sequences(torch.utils.data.Dataset):
    """A mixture's windows in a student's order; PyTorch reads a batch at a time."""

    def __init__(
        self, windows: Windows, sets: list[TokenSet], order: np.ndarray, sequence: int, *, end_of_text: int | None
    ) -> None:
        """Keep the arguments; tokens are read when a batch is asked for.

        Args:
            windows: the mixture's windows.
            sets: the tokens of its components, in the order of `windows.names`.
            order: numbers of windows, in the order in which the student sees them.
            sequence: tokens per window.
            end_of_text: the token after each document, if attention must stay within a document; else None.
        """
        self._windows = windows
        self._sets = sets
        self._order = order
        self._sequence = sequence
        self._end_of_text = end_of_text

    def rows_of_order(self, begin: int = 0, end: int | None = None) -> pa.Table:
        """Return the rows of `order.parquet` for a range of places."""
        return rows_of_order(self._windows, self._sets, self._order[begin:end], length=self._sequence)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        """Return input ids and labels, which the model shifts itself; shape (len(indices), sequence), int64.

        With document masking there are also `position_ids`, which begin at 0 in each document; with them transformers
        keeps attention within a document.
        """
        rows = np.empty((len(indices), self._sequence), np.int64)
        for row, index in enumerate(self._order[indices]):
            tokens = self._sets[self._windows.component[index]]
            rows[row] = tokens.window(int(self._windows.start[index]), self._sequence)
        ids = torch.from_numpy(rows)
        batch = {"input_ids": ids, "labels": ids}
        if self._end_of_text is not None:
            batch["position_ids"] = torch.from_numpy(positions(rows, self._end_of_text))
        return batch


def positions(rows: np.ndarray, end_of_text: int) -> np.ndarray:
    """Return each token's position in the part of its document that is in the window; shape and type of `rows`."""
    places = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
    begins = np.zeros_like(rows)
    begins[:, 1:] = np.where(rows[:, :-1] == end_of_text, places[:, 1:], 0)
    return places - np.maximum.accumulate(begins, axis=1)
