"""Which optional dependencies (extras) of the package provide a library that is not installed."""

from __future__ import annotations

EXTRAS = {
    "s3": ("s3fs",),
    "sources": ("datasets", "trafilatura", "warcio"),
    "engine": ("safetensors", "torch", "transformers", "vllm"),
    "train": ("accelerate", "lighteval", "tokenizers"),
    "dagster": ("dagster", "dagster_duckdb", "dagster_postgres", "mlflow", "sqlalchemy"),
    "kubernetes": ("dagster_k8s", "dagster_pipes", "kubernetes"),
}
"""The modules that each extra brings and the base installation lacks."""


def missing_extra(error: BaseException | None) -> str | None:
    """Return a message that names the extra to install, or None if no missing library is behind an error."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            module = error.name.split(".")[0]
            for extra, modules in EXTRAS.items():
                if module in modules:
                    return f"{module} is not installed. Install it with: pip install 'finephrase-dagster[{extra}]'"
        error = error.__cause__ or error.__context__
    return None
