"""The throughput sweep of a generator: its artifact, and the settings that it chose for the generator's next runs.

A sweep chooses execution settings only. Its settings apply as long as the model, the context, the engine flags of the
study file and the device are those that it measured; an edited prompt or source does not change them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finephrase_dagster.artifacts.artifact import Artifact, ArtifactMissing, labelled_manifest
from finephrase_dagster.artifacts.engine_flags import distribution_flags
from finephrase_dagster.artifacts.fingerprint import plain
from finephrase_dagster.artifacts.key import SWEEP, ItemKey
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.processor import device_name
from finephrase_dagster.artifacts.recipe import resolve_precision
from finephrase_dagster.study.component import Cell
from finephrase_dagster.study.generator import Generator


@dataclass(frozen=True, kw_only=True)
class SweptSettings:
    """The settings that a sweep chose.

    Attributes:
        name: in words, such as `max_num_seqs 64, concurrency 32`.
        concurrency: requests in flight.
        tokens_per_second: output tokens per second and GPU in the steady state.
        low, high: the interval of that figure.
        runs: the number of engines that were measured with them.
        gpus: GPUs of the engine; 0 on a CPU.
    """

    name: str
    engine: Mapping[str, Any]
    concurrency: int
    tokens_per_second: float
    low: float
    high: float
    runs: int
    gpus: int

    @property
    def basis(self) -> str:
        """Where the figure comes from, for a plan."""
        margin = 100 * (self.high - self.low) / 2 / self.tokens_per_second
        return f"throughput sweep here: {self.name}, {self.runs} runs, {margin:.0f} % either way"


def sweep_artifact(lineage: Lineage, cell: Cell, sweep: Any) -> Artifact:
    """Return the sweep of a cell's generator.

    Args:
        sweep: what is measured, as fields.

    Raises:
        ArtifactMissing: the model or the corpus is not complete.
    """
    prompts = lineage.study.prompts_of(cell)
    recipe = {
        **_engine_identity(lineage, cell.generator),
        "datasets": {prompt: lineage.dataset(cell, prompt).fingerprint for prompt in prompts},
        "sweep": sweep,
    }
    return lineage.artifact(ItemKey(kind=SWEEP, generator=cell.generator), recipe)


def swept_settings(lineage: Lineage, generator: str) -> SweptSettings | None:
    """Return the settings that the latest sweep of a generator chose, if they apply to it; None otherwise."""
    manifest = labelled_manifest(lineage.labels / ItemKey(kind=SWEEP, generator=generator).name)
    if manifest is None or not isinstance(best := manifest.get("best"), dict):
        return None
    try:
        own = plain(_engine_identity(lineage, generator))
    except ArtifactMissing:
        return None
    device = own.pop("device")
    recipe = manifest["recipe"]
    if {name: recipe.get(name) for name in own} != own or device not in (None, recipe.get("device")):
        return None
    swept = SweptSettings(**best)
    if distribution_flags(swept.engine) != distribution_flags(own["engine"]):  # written by another version
        return None
    return swept


def running_generator(lineage: Lineage, name: str, generator: Generator | None = None) -> Generator:
    """Return a generator with the engine flags that its engine runs with: the swept ones, if there are.

    Args:
        generator: with changed settings; default: as it is in the study.
    """
    generator, swept = generator or lineage.study.generators[name], swept_settings(lineage, name)
    return generator.model_copy(update={"engine": dict(swept.engine)}) if swept else generator


def _engine_identity(lineage: Lineage, name: str) -> dict[str, Any]:
    """Return what the speed of a generator's engine depends on, apart from its work."""
    generator = resolve_precision(lineage.study.generators[name])
    return {
        "model": lineage.generator(name).version,
        "context": generator.context,
        "engine": dict(generator.engine),
        "device": device_name(),
    }
