"""Where an installation keeps its files: in a clone of the repository, or around an installed package.

No path and no URL is part of an artifact's identity.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from finephrase_dagster.errors import FinephraseError

_PACKAGE = Path(__file__).resolve().parents[1]

REPOSITORY = _PACKAGE.parent
"""The root of the clone. Meaningless for an installed package: check `IN_CLONE`, or call `require_clone`."""

IN_CLONE = (REPOSITORY / "workspace.yaml").is_file() and (REPOSITORY / "prompts").is_dir()
"""Whether the package runs from a clone, which has `assets/`, `resources/` and the settings of a Dagster instance."""

SHIPPED = REPOSITORY if IN_CLONE else _PACKAGE / "shipped"
"""The folder of `prompts/`, `studies/` and `requirements/cpu.txt`: the clone, or the package data of a wheel."""


ENDPOINTS = "FINEPHRASE_ENDPOINTS"


class CloneMissing(FinephraseError, exit_status=2):
    """A command needs files that only a clone of the repository has."""


def require_clone(what: str) -> None:
    """Raise CloneMissing unless the package runs from a clone; `what` names the command that needs one."""
    if not IN_CLONE:
        raise CloneMissing(
            f"{what} runs the Dagster project, whose files are not part of the installed package. Clone the repository "
            "and run the command from the clone (`make demo` sets up all that it needs)."
        )


def resolve_path(path: str | Path) -> Path:
    """Return a path of the environment as an absolute one; a relative one starts at the clone, or where one works."""
    return Path(os.path.normpath((REPOSITORY if IN_CLONE else Path.cwd()) / path))  # without "..": it is printed


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The folders and files of an installation.

    Attributes:
        data: all artifacts, the warehouse and the tracking store (`FINEPHRASE_DATA`; default: `data/` in the clone, or
            in the working directory of an installed package).
        study: the study file (`FINEPHRASE_STUDY`; default: `studies/demo.yaml`).
        requirements: the resolved list that the embedded corpus `package_readmes` is read from.
        endpoints: URLs of servers that have all generators of the study under their names and are used in place of
            engines of our own (`FINEPHRASE_ENDPOINTS`, separated by commas; default: none).
    """

    data: Path
    study: Path
    prompts: Path = SHIPPED / "prompts"
    requirements: Path = SHIPPED / "requirements" / "cpu.txt"
    items: Path = _PACKAGE / "evaluate" / "items"
    endpoints: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls) -> Paths:
        """Return the paths that the environment variables name."""
        study = os.environ.get("FINEPHRASE_STUDY") or "studies/demo.yaml"
        return cls(
            data=resolve_path(os.environ.get("FINEPHRASE_DATA") or "data"),
            study=study_path(study),
            endpoints=tuple(url.strip() for url in os.environ.get(ENDPOINTS, "").split(",") if url.strip()),
        )

    @property
    def warehouse(self) -> Path:
        """The DuckDB file of scores, audits and manifests."""
        return self.data / "warehouse.duckdb"

    @property
    def tracking_store(self) -> Path:
        """MLflow's SQLite file, used unless `MLFLOW_TRACKING_URI` names a server."""
        return self.data / "mlflow" / "mlflow.db"


NAME = "finephrase"


def materialize_command(study: Path) -> str:
    """Return the command that materializes a study, for messages."""
    return f"{program()} materialize --study {shlex.quote(shown_path(study))}"


def program() -> str:
    """Return how the working directory's shell finds the command that is running: by its name, or by its path."""
    running = Path(sys.argv[0])
    known = shutil.which(NAME)
    if running.name != NAME or (known and Path(known).samefile(running)):
        return NAME
    return shlex.quote(shown_path(running.absolute()))


def shown_path(path: Path) -> str:
    """Return a path as a person would write it in the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def study_path(study: str | Path) -> Path:
    """Return where a study file is: below the working directory, or else in the clone or among the shipped files."""
    path = Path(os.path.normpath(Path(study).absolute()))
    return path if path.exists() or not (SHIPPED / study).is_file() else SHIPPED / study
