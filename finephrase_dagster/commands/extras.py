"""The optional dependencies (extras) of the package: which one provides a library that is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from finephrase_dagster.errors import FinephraseError

EXTRAS = {
    "s3": ("s3fs",),
    "sources": ("datasets", "trafilatura", "warcio"),
    "engine": ("safetensors", "torch", "transformers", "vllm"),
    "train": ("accelerate", "lighteval", "tokenizers"),
    "fasttext": ("fasttext",),
    "dagster": ("dagster", "dagster_postgres", "mlflow", "sqlalchemy"),
    "kubernetes": ("dagster_k8s", "dagster_pipes", "kubernetes"),
}
"""The modules that each extra brings and the base installation lacks."""


class ExtraMissing(FinephraseError, exit_status=2):
    """A command needs an extra that is not installed; the message names it."""

    def __init__(self, module: str, extra: str, needed_by: str = "this command") -> None:
        super().__init__(
            f"{needed_by} needs {module}, which is not installed. Install it with: "
            f"pip install 'finephrase-dagster[{extra}]'"
        )


def require_extra(extra: str, needed_by: str) -> None:
    """Raise ExtraMissing unless all modules of an extra are installed."""
    for module in EXTRAS[extra]:
        if find_spec(module) is None:
            raise ExtraMissing(module, extra, needed_by)


def missing_extra(error: BaseException | None) -> ExtraMissing | None:
    """Return the missing extra that is behind an import error, or None if there is another reason."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            module = error.name.split(".")[0]
            for extra, modules in EXTRAS.items():
                if module in modules:
                    return ExtraMissing(module, extra)
        error = error.__cause__ or error.__context__
    return None
