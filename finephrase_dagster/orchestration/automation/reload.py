"""Reloading: a new prompt file or study entry is picked up, without anybody restarting anything.

Partitions are those of the study that the code location has loaded. When the study on disk says others, the location
is reloaded, through the web server that `FINEPHRASE_DAGSTER_URL` names; the new partitions are missing then, and the
night takes them up. What is wrong on disk is said, and the location goes on with what it has loaded.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

import dagster as dg

from finephrase_dagster.artifacts.fingerprint import SHORT, fingerprint
from finephrase_dagster.artifacts.graph import items
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration.automation.webhook import PAGES
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.study.prompt import PromptError

SECONDS, TIMEOUT_SECONDS = 60, 50  # a sensor may take 60
LOCATION = "finephrase"
BY_HAND = "press 'Reload' beside it on the page Deployment"
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
    """What a code location must be reloaded for: the study in full; prompt texts are read when they are needed."""
    return fingerprint([lineage.study, sorted(item.name for item in items(lineage))])[:SHORT]


def build_reload_sensor(lineage: Lineage) -> dg.SensorDefinition:
    """The sensor `reload_study`, stopped by default."""
    loaded = digest(lineage)

    @dg.sensor(
        name="reload_study",
        minimum_interval_seconds=SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Has the code location reloaded when the study on disk is another than the one loaded, through "
        f"the web server that {PAGES} names.",
    )
    def reload_study(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            found = digest(read_lineage(lineage.paths))
        except (StudyError, PromptError) as error:
            return dg.SkipReason(f"not reloaded, for what is on disk is wrong: {error}")
        if found == loaded:
            return dg.SkipReason("the study on disk is the one loaded")
        pages = os.environ.get(PAGES)
        if not pages:
            return dg.SkipReason(f"the study on disk is another than the one loaded: {BY_HAND}, or set {PAGES}")
        if context.cursor == found:
            return dg.SkipReason(f"the study on disk is another than the one loaded, and was not taken up: {BY_HAND}")
        context.update_cursor(found)  # each state of the study is asked for once
        origin = context.code_location_origin
        try:
            reload(pages, origin.location_name if origin else LOCATION)
        except NotReloaded as error:
            return dg.SkipReason(f"{error}; {BY_HAND}")
        return dg.SkipReason("the study on disk is another than the one loaded: reloaded")

    return reload_study


def reload(pages: str, location: str) -> None:
    """Has a web server reload a code location.

    Raises:
        NotReloaded: it cannot be reached, or the location does not load.
    """
    body = json.dumps({"query": RELOAD, "variables": {"location": location}}).encode()
    headers = {"Content-Type": "application/json"}
    try:
        request = urllib.request.Request(f"{pages.rstrip('/')}/graphql", data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            said: dict[str, Any] = json.loads(answer.read())
    except (OSError, ValueError) as error:
        raise NotReloaded(f"{pages} did not reload {location} ({error})") from error
    done = (said.get("data") or {}).get("reloadRepositoryLocation") or {}
    if done.get("__typename") != "WorkspaceLocationEntry":
        raise NotReloaded(f"{pages} did not reload {location}: {done.get('message') or said.get('errors')}")
    if message := (done.get("locationOrLoadError") or {}).get("message"):
        raise NotReloaded(f"{location} does not load: {message}")
