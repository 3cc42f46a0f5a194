"""The code location: the only file that wires everything that Dagster sees."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

# Both must be set before torch and MLflow are imported. Threads that spin while they wait make two cores slower than
# one as soon as anything else runs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
for category in (dg.BetaWarning, dg.PreviewWarning):  # a matter of the pinned Dagster version, not of its users
    warnings.filterwarnings("ignore", category=category)

from assets.audits import build_audits
from assets.early import build_early
from assets.evaluation import build_evaluation
from assets.generators import build_generators
from assets.mixtures import build_mixtures
from assets.plan import build_plan
from assets.prompts import build_prompts
from assets.release import build_release
from assets.report import build_report
from assets.sources import build_sources
from assets.sweep import build_sweep
from assets.synthetic import build_synthetic
from assets.tokens import build_tokens
from assets.tracking import record_students
from assets.training import build_training
from assets.verdicts import build_verdicts
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.orchestration.automation.conditions import build_condition_sensors
from finephrase_dagster.orchestration.automation.nightly import build_nightly
from finephrase_dagster.orchestration.automation.observer import build_observer
from finephrase_dagster.orchestration.automation.reload import build_reload_sensor
from finephrase_dagster.orchestration.automation.webhook import build_failure_sensor
from finephrase_dagster.orchestration.due_job import build_due_job
from finephrase_dagster.orchestration.jobs import build_jobs
from finephrase_dagster.orchestration.placement import executor
from finephrase_dagster.orchestration.progress import progress
from finephrase_dagster.orchestration.stores import TRACKING_URI
from finephrase_dagster.pods.cluster import cluster_from_environment
from finephrase_dagster.study.paths import Paths
from resources.evaluator import Evaluator
from resources.pod_rephraser import PodRephraser
from resources.rephraser import Rephraser
from resources.tracking import study_tracking
from resources.trainer import NanotronTrainer, StudentTrainer
from resources.warehouse import Warehouse

CLUSTER = ("nodes", "gpus")
"""The numbers that `FINEPHRASE_NANOTRON_<NAME>` sets for the cluster."""


def build_defs(lineage: Lineage, *, resources: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the definitions of a study.

    Args:
        resources: resources that replace the default ones, by name.
    """
    assets = [
        *build_plan(lineage),
        *build_sources(lineage),
        *build_generators(lineage),
        *build_synthetic(lineage),
        *build_audits(lineage),
        *(_training(lineage) if lineage.study.mixtures else []),
        *build_release(lineage),
        *build_sweep(lineage),
    ]
    jobs = build_jobs(assets)
    schedule, launcher = build_nightly(lineage, jobs)
    return dg.Definitions(
        assets=[*build_prompts(lineage), *assets],
        jobs=[build_due_job(lineage), *jobs],
        schedules=[schedule],
        sensors=[
            build_observer(lineage),
            launcher,
            *build_condition_sensors(assets),
            build_reload_sensor(lineage),
            build_failure_sensor(lineage),
        ],
        loggers={"progress": progress},
        executor=executor(),
        resources={**default_resources(lineage), **(resources or {})},
    )


def _training(lineage: Lineage) -> list[dg.AssetsDefinition]:
    """Return the further assets of a study with mixtures."""
    return [
        *build_tokens(lineage),
        *build_mixtures(lineage),
        *build_early(lineage),
        *build_training(lineage),
        *build_evaluation(lineage),
        *build_report(lineage),
        *build_verdicts(lineage),
    ]


def default_resources(lineage: Lineage) -> dict[str, Any]:
    """Return the resources by name."""
    # By its variable, because the web pages show a resource's settings and this one may hold a password.
    uri = dg.EnvVar(TRACKING_URI) if os.environ.get(TRACKING_URI) else None
    return {
        "warehouse": Warehouse(database=str(lineage.paths.warehouse)),
        "rephraser": _rephraser(),
        "trainer": _trainer(lineage),
        "evaluator": Evaluator(),
        "tracking": study_tracking(lineage, uri),
    }


def record_in_mlflow(lineage: Lineage, instance: dg.DagsterInstance, *, log: Callable[[str], None]) -> int:
    """Record the students of a study that exist in MLflow; return their number.

    Raises:
        Unreachable: MLflow does not answer, or refuses what it is sent.
    """
    tracking = study_tracking(lineage)
    with tracking.failures_explained():
        return record_students(tracking, lineage, instance, log)


def _rephraser() -> Rephraser:
    """Return the rephraser; on a cluster that gives engines their own pods, the one that starts them."""
    cluster = cluster_from_environment()
    return PodRephraser() if cluster and cluster.rephrasing == "pipes" else Rephraser()


def _trainer(lineage: Lineage) -> Any:
    """Return the trainer that the study names; environment variables describe the cluster."""
    if lineage.study.trainer == "transformers":
        return StudentTrainer()
    variables = {name: os.environ.get(f"FINEPHRASE_NANOTRON_{name.upper()}") for name in CLUSTER}
    sizes: dict[str, Any] = {name: int(size) for name, size in variables.items() if size}
    return NanotronTrainer(
        python=dg.EnvVar("FINEPHRASE_NANOTRON_PYTHON"),
        source=dg.EnvVar("FINEPHRASE_NANOTRON_SOURCE"),
        rendezvous=os.environ.get("FINEPHRASE_NANOTRON_RENDEZVOUS"),
        **sizes,
    )


gc.disable()  # all these objects stay; looking for garbage among them takes a third of the time of a large study
defs = build_defs(read_lineage(Paths.from_environment()))
defs.get_repository_def()  # Dagster asks for it next, and it is made once
if "duckdb" not in sys.modules:  # which warns at the end of the process if its own objects are frozen
    gc.freeze()  # nor is it looked for among them later, or when the process ends
gc.enable()
