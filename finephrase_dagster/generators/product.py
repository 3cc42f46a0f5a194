"""A generator as a product of the study: packaged, fetched from the hub, or found in a folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.fingerprint import SHORT
from finephrase_dagster.artifacts.sampling import read_sampling
from finephrase_dagster.generators.hub import resolve_model
from finephrase_dagster.generators.packaged import write_packaged_model
from finephrase_dagster.generators.template_clock import read_clock
from finephrase_dagster.study.generator import Generator


def make_generator(spec: Generator, folder: Path) -> Contents:
    """Put the model of a generator into `folder/model`, as files or as a link to where they are.

    Raises:
        ModelError: it cannot be had.
    """
    model = folder / "model"
    if spec.is_packaged:
        write_packaged_model(model)
    found = resolve_model(str(model) if spec.is_packaged else spec.model, model)
    if Path(found.folder) != model:
        model.unlink(missing_ok=True)
        model.symlink_to(Path(found.folder).resolve())
    return Contents(
        files=[] if model.is_symlink() else sorted(path for path in model.rglob("*") if path.is_file()),
        facts={
            "resolved": asdict(found),
            "model_bytes": found.bytes,
            "sampling": read_sampling(model),
            "clock": read_clock(model),
        },
        version=found.content[:SHORT],
    )
