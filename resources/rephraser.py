"""The rephraser as a resource: it keeps engines, and sends a cell's documents through one.

An engine takes tens of seconds to start, so a process that runs several cells of one generator keeps it:
`engines_kept` holds engines open over several runs; without it an engine stops with its run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.fingerprint import fingerprint
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.orchestration.devices import Lease, are_free, lease
from finephrase_dagster.orchestration.retries import is_infrastructure
from finephrase_dagster.pods.failure import PodMisconfigured
from finephrase_dagster.study.spec import Cell

if TYPE_CHECKING:
    from finephrase_dagster.rephrase.engine import Engine, EngineLike
    from finephrase_dagster.rephrase.order import Order
    from finephrase_dagster.study.generator import Generator

_engines: dict[str, Engine] = {}
_keepers = 0


@contextlib.contextmanager
def engines_kept() -> Iterator[None]:
    """Within this block engines outlive their runs; at its end they stop."""
    global _keepers
    _keepers += 1
    try:
        yield
    finally:
        _keepers -= 1
        _stop_engines()


def _stop_engines() -> None:
    if _keepers == 0:
        _stop_all()


def _stop_all() -> None:
    while _engines:
        _engines.popitem()[1].stop()


def _devices(generator: Generator, name: str, log: Callable[[str], None]) -> Lease:
    """The devices of an engine; idle engines that this process keeps make room first."""
    if not are_free(generator.gpus):
        _stop_all()
    return lease(generator.gpus, f"an engine of {name}", log=log)


class Rephraser(dg.ConfigurableResource):
    """vLLM on this machine, driven by the rephrasing pipeline."""

    concurrency: int = Field(default=128, ge=1, description="requests in flight, 1 or more")
    chunk_rows: int = Field(default=5000, ge=1, description="rows a data file, 1 or more")
    endpoints: list[str] = Field(
        default=[], description="servers of the generator under its name in the study; none: an engine is started here"
    )
    gpu_hour_dollars: float | None = Field(
        default=None, ge=0, description="the price of a GPU for an hour, 0 or more; for the bill alone"
    )
    log_seconds: float = Field(default=30, gt=0, description="between two lines on how far a run is, above 0")

    def rephrase(
        self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], *, log: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """The manifests of a cell's datasets by prompt, made where they are not complete.

        Where what fails is no fault of the infrastructure, each prompt is tried by itself, so that one that is wrong
        does not hold up the others; then its error is raised. A pod that was asked for wrongly serves none of them.
        """
        try:
            return self._together(lineage, cell, datasets, log)
        except Exception as error:
            if len(datasets) == 1 or is_infrastructure(error) or isinstance(error, PodMisconfigured):
                raise
            log(f"{error}; now each prompt by itself")
        failures: list[Exception] = []
        manifests: dict[str, dict[str, Any]] = {}
        with engines_kept():
            for prompt, artifact in datasets.items():
                try:
                    manifests |= self._together(lineage, cell, {prompt: artifact}, log)
                except Exception as error:
                    log(f"{prompt}: {error}")
                    failures.append(error)
        if failures:
            raise failures[0]
        return manifests

    def _together(
        self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact], log: Callable[[str], None]
    ) -> dict[str, dict[str, Any]]:
        """The same for prompts whose documents share their prefix: those of a document one after another."""
        from finephrase_dagster.rephrase.metrics import served_from_environment

        order = self._order(lineage, cell, datasets)
        with served_from_environment(cell.generator, log=log) as watch:
            try:
                return order.carry_out(
                    lambda: self._remotes(cell) or [_kept_engine(order, log)],
                    log=log,
                    watch=watch,
                    engines_are_ours=not self.endpoints,
                )
            finally:
                _stop_engines()

    def _order(self, lineage: Lineage, cell: Cell, datasets: Mapping[str, Artifact]) -> Order:
        from finephrase_dagster.rephrase.order import Order

        return Order.of(
            lineage,
            cell,
            datasets,
            concurrency=self.concurrency,
            chunk_rows=self.chunk_rows,
            gpu_hour_dollars=self.gpu_hour_dollars,
            log_seconds=self.log_seconds,
        )

    def _remotes(self, cell: Cell) -> list[EngineLike]:
        from finephrase_dagster.rephrase.engine import Endpoint

        return [Endpoint(url=url, model=cell.generator) for url in self.endpoints]


def _kept_engine(order: Order, log: Callable[[str], None]) -> Engine:
    """An engine for an order, which another order may have started."""
    key = fingerprint([str(order.model), order.generator.context, order.generator.engine])
    engine = _engines.get(key)
    if engine is None or not engine.running:
        if engine is not None:
            _engines.pop(key).stop()
        log(f"starting an engine for {order.name}")
        engine = order.engine(devices=partial(_devices, order.generator, order.name, log))
        _engines[key] = engine.start()
    return engine
