"""Options that several commands share, and the folders that they lead to."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.paths import REPOSITORY, Paths, study_path

StudyOption = Annotated[
    Path | None,
    typer.Option(
        "--study",
        metavar="FILE",
        help="Study file; default: $FINEPHRASE_STUDY, or studies/demo.yaml.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]


class OptionWrong(FinephraseError, exit_status=2):
    """The command line asks for something that cannot be done; the message says what to change."""


def paths_of(study: Path | None) -> Paths:
    """Return the folders of this installation, with the study file that `--study` names."""
    if named := study or os.environ.get("FINEPHRASE_STUDY"):
        # Through the environment and absolute, for the Dagster code location, which runs in another folder, reads it.
        os.environ["FINEPHRASE_STUDY"] = str(study_path(named))
    return Paths.from_environment()


def dagster_home() -> Path:
    """Return the folder of the Dagster instance, and put it into `DAGSTER_HOME`.

    Raises:
        OptionWrong: the folder has no `dagster.yaml`.
    """
    home = REPOSITORY / (os.environ.get("DAGSTER_HOME") or "dagster_home")
    if not (home / "dagster.yaml").is_file():
        raise OptionWrong(
            f"the folder DAGSTER_HOME, {home}, has no dagster.yaml. Run: cp "
            f"{REPOSITORY}/dagster_home/dagster.yaml {home}/"
        )
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def require_finite(options: dict[str, float | None]) -> None:
    """Raise OptionWrong for the first option whose value is infinite or not a number."""
    for option, value in options.items():
        if value is not None and not math.isfinite(value):
            raise OptionWrong(f"{option} {value} is not a finite number")


def require_writable(option: str, path: Path | None, inputs: Sequence[str]) -> None:
    """Refuse a file that cannot be written, before anything is read.

    Raises:
        OptionWrong: its folder does not exist, it is a folder, or it is one of the inputs.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise OptionWrong(f"{option} {path}: no folder {path.parent}; create it")
    if path.is_dir():
        raise OptionWrong(f"{option} {path}: is a folder; name a file in it")
    if path.resolve() in {Path(name).resolve() for name in inputs}:
        raise OptionWrong(f"{option} {path}: is one of the inputs; name another file")
