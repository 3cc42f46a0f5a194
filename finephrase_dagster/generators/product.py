"""A generator as a product of the study: trained here, fetched from the hub, or found in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.artifact import Contents
from finephrase_dagster.artifacts.fingerprint import SHORT
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.corpora.shards import read_corpus
from finephrase_dagster.generators.hub import resolve_model
from finephrase_dagster.generators.sampling import read_sampling


def make_generator(
    lineage: Lineage,
    name: str,
    folder: Path,
    *,
    log: Callable[[str], None],
    device: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> Contents:
    """Puts the model of a generator into `folder/model`, as files or as a link to where they lie.

    Args:
        device: what is entered while a model is trained.

    Raises:
        ModelError: it cannot be had.
        ArtifactMissing: it is trained on sources that are not there.
    """
    spec = lineage.study.generators[name]
    model = folder / "model"
    facts: dict[str, Any] = {}
    if spec.trained_here:
        from finephrase_dagster.generators.pretrain import train_generator

        assert spec.embedded is not None
        sources = [lineage.source(source).folder for source in spec.embedded.sources]
        documents = [document for source in sources for document in read_corpus(source)]
        with device():
            trained = train_generator(model, spec=spec.embedded, context=spec.context, documents=documents, log=log)
        facts = asdict(trained)
    found = resolve_model(str(model) if spec.trained_here else spec.model, model)
    if Path(found.folder) != model:
        model.unlink(missing_ok=True)
        model.symlink_to(Path(found.folder).resolve())
    return Contents(
        files=[] if model.is_symlink() else sorted(path for path in model.rglob("*") if path.is_file()),
        facts={**facts, "resolved": asdict(found), "sampling": read_sampling(model)},
        version=found.content[:SHORT],
    )
