"""How this machine computes: its fast precision, and the variables of its environment that an engine receives."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")  # Intel, AMD and Intel, Arm
ISA_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""oneDNN's variable that keeps it, and so PyTorch and vLLM, from using a processor's newer instructions."""
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")

VLLM_VARIABLES = (
    *("VLLM_CACHE_ROOT", "VLLM_CONFIGURE_LOGGING", "VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_NUM_OF_RESERVED_CPU"),
    *("VLLM_CPU_OMP_THREADS_BIND", "VLLM_DO_NOT_TRACK", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_HOST_IP"),
    *("VLLM_LOGGING_CONFIG_PATH", "VLLM_LOGGING_LEVEL", "VLLM_NCCL_SO_PATH", "VLLM_NO_USAGE_STATS"),
    *("VLLM_RPC_BASE_PATH", "VLLM_RPC_TIMEOUT", "VLLM_WORKER_MULTIPROC_METHOD"),
)
"""Variables that place, log or cache. An engine receives no other `VLLM_*`, because many of them change logits."""


def known_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the `VLLM_*` variables that may change what an engine computes."""
    return {
        name: value for name, value in environment.items() if not name.startswith("VLLM_") or name in VLLM_VARIABLES
    }


def fast_precision() -> str:
    """Return vLLM's name of the precision: bfloat16 on GPUs and on processors that multiply it, else float32.

    Emulated, bfloat16 is about 40 times slower than float32. `ONEDNN_MAX_CPU_ISA` may forbid the instructions.
    """
    if not on_cpu():
        return "bfloat16"
    limited = os.environ.get(ISA_LIMIT, "").upper() in WITHOUT_BFLOAT16
    return "bfloat16" if _has_any(BFLOAT16) and not limited else "float32"


def on_cpu() -> bool:
    """Return whether the installed vLLM is a build for CPUs."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return distribution == "vllm-cpu" or "+cpu" in metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return False


@cache
def device_name() -> str | None:
    """Return what vLLM computes on, such as `2 cores of an AMD EPYC` or `NVIDIA H100`; None if that is not known."""
    if on_cpu():
        lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else 'a processor'}"
    if command := shutil.which("nvidia-smi"):
        query = [command, "--query-gpu=name", "--format=csv,noheader"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            output = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
            return next(iter(output.splitlines()), "").strip() or None
    return None


def _has_any(instructions: tuple[str, ...]) -> bool:
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    known = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    return not known.isdisjoint(instructions)
