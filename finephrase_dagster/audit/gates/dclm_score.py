"""How much a fastText classifier such as DCLM's finds the completions and their sources like instructive text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.gate_model import model_reference
from finephrase_dagster.audit.gate import Settings
from finephrase_dagster.audit.proxy import Score, ScoringModelError, proxy_gate


def _open_model(settings: Settings) -> Score:
    import fasttext

    name, label = settings["model"], f"__label__{settings['label']}"
    path = name if Path(name).exists() else _downloaded(name)
    try:
        model = fasttext.load_model(str(path))
    except ValueError as error:
        raise ScoringModelError(
            f"dclm_score.model: {name} is not the file of a fastText model ({error}); correct the path"
        ) from error
    labels = model.get_labels()
    if label not in labels:
        known = ", ".join(one.removeprefix("__label__") for one in labels)
        raise ScoringModelError(f"dclm_score.label: {name} has no label {settings['label']!r}; choose from {known}")
    return partial(_scores, model, label)


def _downloaded(name: str) -> Path:
    """Return the only fastText file of a repository of the hub."""
    from huggingface_hub import snapshot_download

    repository, revision = model_reference(name)
    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=["*.bin", "*.ftz"])
        files = list(Path(folder).rglob("*.[bf][it][nz]"))
    except (OSError, ValueError) as error:
        raise ScoringModelError(
            f"dclm_score.model: {name} is no file, and the hub has no such model ({str(error).splitlines()[0]}); "
            "correct it, or download the model and name its file"
        ) from error
    if len(files) != 1:
        raise ScoringModelError(
            f"dclm_score.model: {name} has {len(files)} fastText files; download one of them, and name the file"
        )
    return files[0]


def _scores(model: Any, label: str, texts: Sequence[str]) -> list[float]:
    """Return the probability of a label for each text."""
    lines = [" ".join(text.encode("utf-8", "replace").decode().split()) for text in texts]
    results = zip(*model.predict(lines, k=-1), strict=True) if lines else ()
    return [float(dict(zip(labels, values, strict=True)).get(label, 0.0)) for labels, values in results]


GATE = proxy_gate(
    name="dclm_score",
    scorer="a fastText classifier, such as `mlfoundations/fasttext-oh-eli5`,",
    defaults={"model": None, "label": "hq", "rows": 10_000},
    open_model=_open_model,
)
