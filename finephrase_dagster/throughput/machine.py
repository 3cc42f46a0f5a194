"""The machine that a sweep runs on, and which values of a sweep file it cannot vary, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from finephrase_dagster.artifacts.processor import on_cpu
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.throughput.setting import SPECULATION, Flags, Value

NODES = Path("/sys/devices/system/node")
SUFFIX_PACKAGE, SUFFIX_MODULE = "arctic-inference", "arctic_inference"
CONCURRENCY = "concurrency"
ROUNDS = 2
"""Requests per place in flight that a measurement needs: the engine is not steady while the first are under way."""


class NothingToSweep(FinephraseError, exit_status=2):
    """There is nothing that a sweep could measure; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What decides which settings apply.

    Attributes:
        cpu: whether vLLM computes on the CPU.
        devices: the number of GPUs, or of the CPU's memory nodes: the most ranks of tensor parallelism.
        has_suffix: whether suffix decoding is installed.
    """

    cpu: bool
    devices: int
    has_suffix: bool

    @classmethod
    def of_devices(cls, devices: Sequence[str]) -> Machine:
        """Return this machine; `devices` are those that engines may use."""
        nodes = len(list(NODES.glob("node[0-9]*"))) or 1
        has_suffix = find_spec(SUFFIX_MODULE) is not None
        return cls(cpu=on_cpu(), devices=nodes if on_cpu() else len(devices), has_suffix=has_suffix)


class NotApplicable(NamedTuple):
    """A value of an axis that is not measured, and why."""

    axis: str
    value: Value
    reason: str


def applicable_concurrency(listed: Sequence[int], requests: int) -> tuple[list[int], list[NotApplicable]]:
    """Return the numbers of requests in flight that so many requests suffice for, ascending, and the others.

    Raises:
        NothingToSweep: they suffice for none.
    """
    most = requests // ROUNDS
    if not (usable := sorted(number for number in listed if number <= most)):
        raise NothingToSweep(
            f"{requests:,} requests (documents times prompts, without the warm-up) are too few for {min(listed)} in "
            f"flight, which need {ROUNDS * min(listed)}. Raise the source's limit or 'documents' in the sweep file, or "
            "lower 'concurrency' there."
        )
    reason = f"needs {ROUNDS} requests per place, and the documents make {requests:,}"
    return usable, [NotApplicable(CONCURRENCY, number, reason) for number in listed if number > most]


def applicable_values(
    tier: Mapping[str, Sequence[Value]], own: Flags, machine: Machine, *, concurrency: int, context: int
) -> tuple[dict[str, list[Value]], list[NotApplicable]]:
    """Return the values of a tier that this machine can vary, by axis, and the others with the reasons.

    Args:
        own: the flags of the generator's engine, with the defaults that are known.
        concurrency: requests in flight.
        context: of the generator.
    """

    def reason(axis: str, value: Value) -> str | None:
        match axis:
            case "tensor_parallel_size" if int(value) > machine.devices:
                return f"this machine has {machine.devices} {'memory node' if machine.cpu else 'GPU'}(s), one per rank"
            case "gpu_memory_utilization" if machine.cpu:
                return "on a CPU, VLLM_CPU_KVCACHE_SPACE sets the size of the KV cache"
            case "max_num_seqs":
                enough = [int(one) for one in (*tier[axis], own.get(axis, 0)) if int(one) >= concurrency]
                if enough and int(value) > min(enough):
                    return f"the same as {min(enough)}: only {concurrency} requests are in flight"
            case "max_num_batched_tokens" if own.get("enable_chunked_prefill") is False and int(value) < context:
                return f"at least the context, {context}: prompts are not prefilled in chunks here"
            case _ if axis == SPECULATION and str(value).startswith("suffix") and not machine.has_suffix:
                return f"needs the package {SUFFIX_PACKAGE}, which is not installed"
        return None

    reasons = {(axis, value): reason(axis, value) for axis, values in tier.items() for value in values}
    usable = {axis: [value for value in values if not reasons[axis, value]] for axis, values in tier.items()}
    left_out = [NotApplicable(axis, value, why) for (axis, value), why in reasons.items() if why]
    return {axis: values for axis, values in usable.items() if values}, left_out
