"""The order: which window a student saw at which place, and which documents are in it.

With the datasets themselves this says exactly what a student was trained on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.train.mixture import Windows
from finephrase_dagster.train.tokens import TokenSet
from finephrase_dagster.train.training import TrainingError

ORDER = "order.parquet"


def listed(windows: Windows, sets: list[TokenSet], order: np.ndarray, *, length: int) -> pa.Table:
    """A row a window, in the order in which a student sees them.

    Columns: `component` (the dataset), `start` (the window's first token in it), `first_document` and
    `last_document` (the ids of the documents that the window begins and ends in; those between them are
    whole).

    Args:
        windows: of the mixture.
        sets: the tokens of its components, as `windows` numbers them.
        order: numbers of windows, shape (windows seen,).
        length: tokens that are read of a window.
    """
    component, start = windows.component[order], windows.start[order]
    first = np.empty(len(order), dtype=object)
    last = np.empty(len(order), dtype=object)
    for number, tokens in enumerate(sets):
        rows = np.flatnonzero(component == number)
        ids, ends = tokens.document_ids, tokens.document_ends
        for column, places in ((first, start[rows]), (last, start[rows] + length - 1)):
            column[rows] = ids.take(pa.array(np.searchsorted(ends, places, side="right"))).to_pylist()
    return pa.table(
        {
            "component": pa.DictionaryArray.from_arrays(
                pa.array(component, pa.int32()), pa.array(windows.names, pa.string())
            ),
            "start": pa.array(start, pa.int64()),
            "first_document": pa.array(first, pa.string()),
            "last_document": pa.array(last, pa.string()),
        }
    ).replace_schema_metadata({"tokens": str(length)})


def write_order(path: Path, parts: list[pa.Table]) -> None:
    """Writes what was seen, one part after another; the metadata `tokens` say how many each window has."""
    table = pa.concat_tables(parts).unify_dictionaries()
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_order(path: Path) -> pa.Table:
    """What an earlier run saw.

    Raises:
        TrainingError: it does not say.
    """
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise TrainingError(f"{path} cannot be read ({error}): train the plateau again") from error
