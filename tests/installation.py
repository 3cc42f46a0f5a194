"""An installation for a test: a small study, prompts that the test may edit, a Dagster instance."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from filelock import FileLock

from finephrase_dagster.artifacts.fingerprint import sha256_file
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import catalogue, read_lineage
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration.materialize import Outcome, materialize_study
from finephrase_dagster.study.paths import REPOSITORY, Paths
from rephrase_parts import write_model

CELL = "rephraser__package_readmes"


def small_study() -> dict[str, Any]:
    """Return the demo with few documents, two prompts, a tiny random generator, two mixtures and one seed."""
    fields = yaml.safe_load((REPOSITORY / "studies" / "demo.yaml").read_text(encoding="utf-8"))
    fields["name"] = "small"
    fields["prompts"] = ["faq", "table"]
    for source in fields["sources"].values():
        source["limit"] = 24
    fields["generators"] = {
        "rephraser": {
            "model": str(tiny_model()),
            "context": 512,
            "max_tokens": 24,
            "engine": {"dtype": "float32"},
        }
    }
    fields["cells"] = [{"generator": "rephraser", "source": "package_readmes"}]
    # The text of a random model has no form, so the gates of this study accept everything.
    accepted = {"form": 0, "completed": 0.95, "truncated": 1, "empty": 1, "common_opening": 1}
    known = catalogue().gates
    lenient = {name: {"blocking": False} for name in known.keys() - accepted.keys() if "blocking" in known[name]}
    lenient.pop("accounting", None)
    fields["gates"] = {**accepted, **lenient}
    fields["tokenizer"]["vocabulary"] = 1024
    fields["sequence"] = 64
    fields["mixtures"] = {
        "raw": {"components": {"package_readmes": 1}, "tokens": 8192, "seed": 0},
        "faq_and_raw": {"components": {f"{CELL}/faq": 1, "package_readmes": 1}, "tokens": 8192, "seed": 0},
    }
    fields["students"]["nano"] |= {"layers": 2, "hidden": 32, "ffn": 64, "heads": 2, "batch_sequences": 8}
    fields["evaluation"]["every"] = 8
    fields["seeds"] = [{"data": 0, "model": 0}]
    fields["runs"] = [
        {"mixtures": ["*"], "students": ["nano"]},
        {"mixtures": ["faq_and_raw"], "students": ["nano"], "decay_from": "raw"},
    ]
    return fields


def tiny_model() -> Path:
    """Return the folder of a random chat model, which all test processes share."""
    code = sha256_file(Path(write_model.__code__.co_filename))[:12]
    folder = Path(tempfile.gettempdir()) / f"finephrase-tiny-model-{code}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            write_model(folder.with_suffix(".new"), vocabulary=1024).rename(folder)
    return folder


@dataclass(frozen=True)
class Installation:
    """A study with its own prompts and Dagster instance."""

    root: Path

    @property
    def study(self) -> Path:
        return self.root / "study.yaml"

    @property
    def paths(self) -> Paths:
        listed = self.root / "endpoints"  # the installation's endpoints, one per line
        endpoints = tuple(listed.read_text().split()) if listed.exists() else ()
        return Paths(data=self.root / "data", study=self.study, prompts=self.root / "prompts", endpoints=endpoints)

    @property
    def lineage(self) -> Lineage:
        return read_lineage(self.paths)

    def write(self, fields: dict[str, Any]) -> None:
        self.study.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.root / "dagster_home"))

    def materialize(self, only: Collection[str] | None = None) -> tuple[Outcome, list[str]]:
        """Materialize what is missing, in this process; return the outcome and the log messages."""
        messages: list[str] = []
        lineage, log = self.lineage, messages.append
        with self.instance() as instance:
            return materialize_study(lineage, build_defs(lineage), instance, only=only, log=log), messages

    def copy(self, root: Path) -> Installation:
        return Installation(Path(shutil.copytree(self.root, root, symlinks=True)))


def install(root: Path) -> Installation:
    root.mkdir(parents=True, exist_ok=True)
    shutil.copytree(REPOSITORY / "prompts", root / "prompts")
    (root / "dagster_home").mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", root / "dagster_home")
    made = Installation(root)
    made.write(small_study())
    return made
