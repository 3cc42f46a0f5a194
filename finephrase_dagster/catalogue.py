"""The catalogue of this installation: the source kinds, gates and benchmarks that it has, its prompts and registries.

The first three are found by listing their folders: `corpora/kinds/`, `audit/gates/`, `evaluate/tasks/`.
"""

from __future__ import annotations

from pathlib import Path

from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.corpora.kinds import source_kinds
from finephrase_dagster.evaluate.reading import ItemsError, check_items_folder
from finephrase_dagster.evaluate.tasks import benchmarks
from finephrase_dagster.study.catalogue import Catalogue
from finephrase_dagster.study.file import PROMPTS, STUDIES, StudyError, read_registries, read_study
from finephrase_dagster.study.paths import Paths
from finephrase_dagster.study.prompt import prompt_names


def read_lineage(paths: Paths) -> Lineage:
    """Read the study file that `paths` names, with everything this installation offers.

    Raises:
        StudyError: the study file or a registry is wrong, or items of its evaluation are missing.
        PromptError: one of the study's prompts is wrong.
    """
    study = read_study(paths.study, catalogue(prompts=paths.prompts))
    if study.evaluation is not None:
        try:
            check_items_folder(study.evaluation.items, study.evaluation.tasks)
        except ItemsError as error:
            raise StudyError(f"study {paths.study}: {error}") from error
    return Lineage(study=study, paths=paths)


def catalogue(*, prompts: Path = PROMPTS, registries: Path = STUDIES) -> Catalogue:
    """Return everything that a study file may name without defining it.

    Args:
        registries: the folder of `generators.yaml` and `sources.yaml`.

    Raises:
        StudyError: a registry is wrong.
        PromptError: there is no such folder of prompts, or one of its files has an invalid name.
    """
    return Catalogue(
        registries=read_registries(registries),
        prompts=prompt_names(prompts),
        source_kinds=source_kinds(),
        gates={name: gate.all_defaults for name, gate in gates().items()},
        tasks={task: benchmark.category for task, benchmark in benchmarks().items()},
    )
