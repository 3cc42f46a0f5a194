"""Existing generators: on the Hugging Face hub at a revision, or in a local folder.

`resolve_model` determines a model's identity (its commit, and a hash of its weights and tokenizer) and the folder of
its files, so that an engine loads exactly these. Weights must be safetensors; a model's own code is never downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finephrase_dagster.artifacts.fingerprint import fingerprint, sha256_file
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.fields import hub_reference

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
FILES = (
    WEIGHTS,
    "*.json",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "tokenizer.model",
    "merges.txt",
    "vocab.txt",
)
"""The files of a snapshot: weights, configuration, tokenizer, chat template."""


class ModelError(FinephraseError):
    """A model cannot be resolved; the message names it, what is wrong and the next action."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A resolved model.

    Attributes:
        reference: its name in the study file.
        commit: the commit of the revision on the hub; None for a folder.
        content: hash of the names and bytes of its files: weights, configuration, tokenizer, template.
        architecture: such as `LlamaForCausalLM`.
    """

    reference: str
    folder: str
    commit: str | None
    content: str
    bytes: int
    architecture: str


def resolve_model(reference: str, output: Path) -> ModelFacts:
    """Locate a model, download it if it is on the hub, and check its files.

    Args:
        reference: a folder (`/...`, `./...`, `../...`) or `<owner>/<name>@<revision>`.
        output: the folder for a snapshot from the hub; a local folder is used in place.

    Raises:
        ModelError: no such folder or revision, no network, or the files are not a complete model.
    """
    hub = hub_reference(reference)
    if hub is None:
        return _facts(reference, Path(reference), commit=None)
    if not hub.revision:
        raise ModelError(f"model {reference}: no revision; write {reference}@<commit>")
    return _facts(reference, output, commit=_snapshot(hub.repository, hub.revision, output))


def _snapshot(repository: str, revision: str, output: Path) -> str:
    """Download a model's files and return the commit."""
    from huggingface_hub import constants, model_info, snapshot_download

    reference = f"{repository}@{revision}"
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"model {reference}: the hub is disabled by HF_HUB_OFFLINE; unset that variable, "
            "or name a folder that has the model"
        )
    try:
        # Resolve the commit first: a branch that moves during the download cannot mix two states then.
        commit = model_info(repository, revision=revision).sha
        if commit is None:
            raise ModelError(f"model {reference}: the hub returned no commit; name a commit instead of the revision")
        snapshot_download(repository, revision=commit, local_dir=output, allow_patterns=list(FILES))
    except ModelError:
        raise
    except Exception as error:  # the client raises many types: no network, no such model, no access
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ModelError(
            f"model {reference}: cannot be downloaded from the hub ({reason}); "
            "check its name, the network and your access, or name a folder that has the model"
        ) from error
    return commit


def _facts(reference: str, folder: Path, *, commit: str | None) -> ModelFacts:
    if not folder.is_dir():
        raise ModelError(f"model {reference}: no such folder; correct the path")
    architecture = _architecture(reference, folder)
    files = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    names = {path.name for path in files}
    if not any(name.endswith(".safetensors") for name in names):
        raise ModelError(f"model {reference}: {folder} has no {WEIGHTS}; convert its weights with save_pretrained")
    if not names.intersection(TOKENIZERS):
        raise ModelError(f"model {reference}: {folder} has no tokenizer ({', '.join(TOKENIZERS)}); add its files")
    _check_index(reference, folder, names)
    return ModelFacts(
        reference=reference,
        folder=str(folder),
        commit=commit,
        content=fingerprint([[str(path.relative_to(folder)), sha256_file(path)] for path in files]),
        bytes=sum(path.stat().st_size for path in files),
        architecture=architecture,
    )


def _architecture(reference: str, folder: Path) -> str:
    path = folder / CONFIG
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"model {reference}: {folder} has no {CONFIG}; name a folder in Hugging Face format"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"model {reference}: {path} cannot be read ({error}); replace it") from error
    architectures = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(architectures, Sequence) or isinstance(architectures, str) or not architectures:
        raise ModelError(f"model {reference}: {path} names no architecture; name the folder of a language model")
    return str(architectures[0])


def _check_index(reference: str, folder: Path, names: set[str]) -> None:
    """Check that all weight files in the index exist; an interrupted copy lacks some."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return
    try:
        listed = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"model {reference}: {path} cannot be read ({error}); replace it") from error
    if missing := sorted(listed - names):
        raise ModelError(
            f"model {reference}: {folder} has no {', '.join(missing)}, which its index lists; copy the model again"
        )
