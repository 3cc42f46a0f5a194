"""vLLM's flags: which of them only change how an engine runs, and which count as identity.

A flag counts unless it is listed here. The listed flags place, schedule, log, load or serve: with them, a completion is
drawn from the same distribution. They may change how a sum is rounded. So does the batch that a request happens to
share, which no recipe can name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

EXECUTION_FLAGS = frozenset(
    [
        # placement and parallelism
        *("api_server_count", "cpu_offload_gb", "data_parallel_size", "disable_custom_all_reduce"),
        *("distributed_executor_backend", "enable_expert_parallel", "pipeline_parallel_size", "tensor_parallel_size"),
        # scheduling and memory
        *("async_scheduling", "block_size", "enable_chunked_prefill", "enable_prefix_caching"),
        *("gpu_memory_utilization", "kv_cache_memory_bytes", "max_num_batched_tokens", "max_num_seqs"),
        *("num_gpu_blocks_override", "prefix_caching_hash_algo", "scheduling_policy", "swap_space"),
        # kernels of the same function and precision
        *("attention_backend", "compilation_config", "cudagraph_capture_sizes", "enforce_eager"),
        # loading
        *("download_dir", "max_parallel_loading_workers", "safetensors_load_strategy", "use_tqdm_on_load"),
        # logging and serving
        *("aggregate_engine_logging", "collect_detailed_traces", "disable_fastapi_docs", "disable_log_stats"),
        *("disable_uvicorn_access_log", "enable_log_outputs", "enable_log_requests", "enable_request_id_headers"),
        *("enable_server_load_tracking", "log_config_file", "max_log_len", "otlp_traces_endpoint"),
        *("show_hidden_metrics_for_version", "uvicorn_log_level"),
    ]
)
"""vLLM flags that change how an engine runs but not the distribution of completions."""

EXACT_VERIFICATION = ("standard", "block")
"""Values of `rejection_sample_method` by which speculative decoding keeps the model's distribution."""


def flag_name(flag: str) -> str:
    """Return a flag as Python writes it: `max_num_seqs` for `--max-num-seqs`."""
    return flag.strip("-").replace("-", "_")


def distribution_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that may change completions, by their names in Python; they are part of the identity."""
    named = {flag_name(flag): value for flag, value in flags.items()}
    return {name: value for name, value in sorted(named.items()) if not _is_execution(name, value)}


def _is_execution(name: str, value: Any) -> bool:
    if name == "dtype":
        return value == "auto"  # as without the flag
    if name == "load_format":
        return value != "dummy"  # random weights
    if name == "speculative_config":
        return _keeps_distribution(value)
    return name in EXECUTION_FLAGS


def _keeps_distribution(speculation: Any) -> bool:
    try:
        config = json.loads(speculation) if isinstance(speculation, str) else speculation
    except ValueError:
        return False
    if not isinstance(config, Mapping):
        return False
    return config.get("rejection_sample_method", "standard") in EXACT_VERIFICATION
