"""Reload sensor: load new prompt files and study entries without a restart.

The partitions in Dagster are those of the study that the code location has loaded. When the study on disk differs, the
sensor reloads the code location through the web server that `FINEPHRASE_DAGSTER_URL` names. New partitions then show as
missing, and the nightly budget run materializes them. An invalid study on disk is reported and not loaded.
"""

from __future__ import annotations

import json
import os
from functools import cache
from typing import Any

import dagster as dg

from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.automation.webhook import PAGES
from finephrase_dagster.orchestration.run_origin import LOCATION
from finephrase_dagster.rephrase.connection import fetch
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.prompt import PromptError

SECONDS, TIMEOUT_SECONDS = 60, 50  # Dagster ends a sensor after 60
BY_HAND = "press 'Reload' next to the code location on the page Deployment"
RELOAD = """
mutation Reload($location: String!) {
  reloadRepositoryLocation(repositoryLocationName: $location) {
    __typename
    ... on WorkspaceLocationEntry { loadStatus locationOrLoadError { ... on PythonError { message } } }
    ... on PythonError { message }
  }
}
"""


class NotReloaded(FinephraseError):
    """The web server did not reload the code location; the message says why."""


def digest(lineage: Lineage) -> str:
    """Return a hash of what a code location has loaded: the study and its items. Prompt texts are not loaded."""
    return fingerprint([lineage.study, sorted(item.name for item in items(lineage))])[:SHORT]


def build_reload_sensor(lineage: Lineage) -> dg.SensorDefinition:
    """Return the sensor `reload_study`, stopped by default."""
    loaded = cache(lambda: digest(lineage))  # of the study in memory, so it is the same whenever it is computed

    @dg.sensor(
        name="reload_study",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Reloads the code location when the study on disk differs from the loaded one, through the web "
        f"server that {PAGES} names.",
    )
    def reload_study(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            on_disk = digest(read_lineage(lineage.paths))
        except (StudyError, PromptError) as error:
            return dg.SkipReason(f"not reloaded, because the study on disk is invalid: {error}")
        if on_disk == loaded():
            return dg.SkipReason("the study on disk is loaded")
        pages = os.environ.get(PAGES)
        if not pages:
            return dg.SkipReason(f"the study on disk differs from the loaded one: {BY_HAND}, or set {PAGES}")
        if context.cursor == on_disk:
            return dg.SkipReason(f"the study on disk differs from the loaded one and could not be loaded: {BY_HAND}")
        context.update_cursor(on_disk)  # one attempt for each version of the study
        origin = context.code_location_origin
        try:
            reload(pages, origin.location_name if origin else LOCATION)
        except NotReloaded as error:
            return dg.SkipReason(f"{error}; {BY_HAND}")
        return dg.SkipReason("reloaded, because the study on disk differed from the loaded one")

    return reload_study


def reload(pages: str, location: str) -> None:
    """Ask a web server to reload a code location.

    Raises:
        NotReloaded: the server does not answer, or the code location does not load.
    """
    body = json.dumps({"query": RELOAD, "variables": {"location": location}}).encode()
    try:
        answer = fetch(f"{pages.rstrip('/')}/graphql", TIMEOUT_SECONDS, body)
        if answer.status != 200:
            raise OSError(f"HTTP {answer.status}")
        response: dict[str, Any] = json.loads(answer.body)
    except (OSError, TimeoutError, ValueError) as error:
        raise NotReloaded(f"{pages} did not reload {location} ({error})") from error
    done = (response.get("data") or {}).get("reloadRepositoryLocation") or {}
    if done.get("__typename") != "WorkspaceLocationEntry":
        raise NotReloaded(f"{pages} did not reload {location}: {done.get('message') or response.get('errors')}")
    if message := (done.get("locationOrLoadError") or {}).get("message"):
        raise NotReloaded(f"{location} does not load: {message}")
