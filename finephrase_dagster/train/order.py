"""`order.parquet`: which window a student saw at which place, and which documents are in it.

Together with the datasets this says exactly what a student was trained on. One row per window, in the order in which
the student saw them: `component` (the version of the tokens), `start` (the position of the window's first token),
`first_document` and `last_document` (the ids of the documents that the window begins and ends in; it contains those
between them completely). The metadata `tokens` is the number of tokens per window.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import atomic_write
from finephrase_dagster.train.job import TrainingError
from finephrase_dagster.train.mixture import Windows
from finephrase_dagster.train.tokens import TokenSet


def rows_of_order(windows: Windows, sets: list[TokenSet], order: np.ndarray, *, length: int) -> pa.Table:
    """Return the rows of `order.parquet` for some windows.

    Args:
        sets: the tokens of its components, in the order of `windows.names`.
        order: numbers of windows, in the order in which the student sees them; shape (windows seen,).
        length: tokens per window.
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


def write_order(path: Path, tables: list[pa.Table]) -> None:
    """Write what a student saw, one table after another."""
    table = pa.concat_tables(tables).unify_dictionaries()
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_order(path: Path) -> pa.Table:
    """Return what an earlier run saw.

    Raises:
        TrainingError: the file cannot be read.
    """
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise TrainingError(f"{path} cannot be read ({error}): train the run that it belongs to again") from error
