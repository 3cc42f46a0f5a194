"""The benchmarks: one per file of this folder, found by listing it.

To add a benchmark, add a file that defines `BENCHMARK`. Study files, scores and lighteval's tasks then know it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from finephrase_dagster.evaluate.benchmark import Benchmark


def benchmarks() -> dict[str, Benchmark]:
    """Return all benchmarks by name, in the order of the published tables; others follow in alphabetical order."""
    return _benchmarks(tuple(__path__))


@cache
def _benchmarks(folders: tuple[str, ...]) -> dict[str, Benchmark]:
    registered = []
    for module in pkgutil.iter_modules(folders):
        benchmark: Benchmark = importlib.import_module(f"{__name__}.{module.name}").BENCHMARK
        assert benchmark.folder == module.name, f"evaluate/tasks/{module.name}.py: the folder is {benchmark.folder!r}"
        registered.append(benchmark)
    registered.sort(key=lambda benchmark: (benchmark.position is None, benchmark.position or 0, benchmark.name))
    return {benchmark.name: benchmark for benchmark in registered}
