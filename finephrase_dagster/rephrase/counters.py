"""What vLLM counts of itself: hits of the prefix cache, and what speculation proposed and got accepted.

Read from the `/metrics` page of engines of our own; other endpoints get generation requests only. The names
are those of vLLM's documentation ("Production Metrics").
"""

from __future__ import annotations

import contextlib
import http.client
import re
import urllib.request
from collections import Counter
from collections.abc import Sequence

from finephrase_dagster.rephrase.engine import EngineLike

NAMES = {
    "vllm:prefix_cache_hits": "prefix_hits",
    "vllm:prefix_cache_queries": "prefix_queries",
    "vllm:spec_decode_num_draft_tokens": "drafted",
    "vllm:spec_decode_num_accepted_tokens": "accepted",
}
SECONDS = 10.0

_LINE = re.compile(r"^(vllm:\w+?)(?:_total)?(?:\{[^}]*\})? ([-+.\deE]+)$", re.MULTILINE)


def counters(engines: Sequence[EngineLike]) -> Counter[str]:
    """The sums over all engines of our own, in tokens; what cannot be read is left out."""
    sums: Counter[str] = Counter()
    for engine in engines:
        if engine.restartable:
            with contextlib.suppress(OSError, http.client.HTTPException):
                with urllib.request.urlopen(f"{engine.url}/metrics", timeout=SECONDS) as page:
                    sums += read_counters(page.read().decode("utf-8", "replace"))
    return sums


def read_counters(page: str) -> Counter[str]:
    """The counters of a page in Prometheus' text format."""
    found: Counter[str] = Counter()
    for name, value in _LINE.findall(page):
        if name in NAMES:
            found[NAMES[name]] += float(value)  # type: ignore[assignment]
    return found
