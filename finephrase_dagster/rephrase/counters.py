"""vLLM's own counters: tokens, hits of the prefix cache, tokens that speculation proposed and had accepted, seconds.

Read from the `/metrics` page of engines of ours; an endpoint of others gets generation requests only. The names are
those of vLLM's documentation ("Production Metrics").
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence

from prometheus_client.parser import text_string_to_metric_families

from finephrase_dagster.rephrase.connection import fetch
from finephrase_dagster.rephrase.engine import EngineLike

NAMES = {
    "vllm:generation_tokens_total": "generated",
    "vllm:prefix_cache_hits_total": "prefix_hits",
    "vllm:prefix_cache_queries_total": "prefix_queries",
    "vllm:spec_decode_num_draft_tokens_total": "drafted",
    "vllm:spec_decode_num_accepted_tokens_total": "accepted",
    "vllm:request_prefill_time_seconds_sum": "prefill_seconds",
    "vllm:request_decode_time_seconds_sum": "decode_seconds",
}
TIMEOUT_SECONDS = 10.0


def read_counters(engines: Sequence[EngineLike]) -> Counter[str]:
    """Return the sums over all engines of ours, without what cannot be read."""
    sums: Counter[str] = Counter()
    for engine in engines:
        if engine.restartable:
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                page = fetch(f"{engine.url}/metrics", TIMEOUT_SECONDS)
                sums.update(parse_counters(page.body.decode("utf-8", "replace")))
    return sums


def parse_counters(page: str) -> Counter[str]:
    """Return the counters of a page in Prometheus' text format; raises ValueError if it is in another."""
    counters: Counter[str] = Counter()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in NAMES:
                counters[NAMES[sample.name]] += sample.value  # type: ignore[assignment]
    return counters
