"""The code location as Dagster names it, for runs that are started outside of it."""

from __future__ import annotations

from typing import Any

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

LOCATION, MODULE = "finephrase", "finephrase_dagster.definitions"
"""As `workspace.yaml` has them."""


def show_runs_in_location(instance: dg.DagsterInstance) -> None:
    """Make the runs that this process creates runs of the code location: Overview and Jobs show only such runs."""
    target = LoadableTargetOrigin(module_name=MODULE)
    origin = RemoteRepositoryOrigin(ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION), SINGLETON_REPOSITORY_NAME)
    create = instance.create_run_for_job

    def create_in_location(job_def: dg.JobDefinition, **fields: Any) -> dg.DagsterRun:
        return create(job_def, **{**fields, "remote_job_origin": origin.get_job_origin(job_def.name)})

    instance.create_run_for_job = create_in_location  # type: ignore[method-assign,assignment]
