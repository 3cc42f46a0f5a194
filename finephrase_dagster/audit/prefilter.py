"""Which of many texts a pattern may match: found by RE2, several times as fast as by Python's expressions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def may_match(texts: Sequence[str], pattern: str) -> NDArray[np.bool_]:
    """Return for each text whether it matches a pattern in RE2's syntax; half surrogates count as U+FFFD."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        column = pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        whole = [text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts]
        column = pa.array(whole, pa.large_string())
    return pc.match_substring_regex(column, pattern=pattern).to_numpy(zero_copy_only=False)
