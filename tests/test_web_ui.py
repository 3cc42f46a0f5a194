"""The web UI in a headless browser on a finished study: what a person opens, clicks and waits for."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from browser import Pages, command, environment, free_port, opened, served
from finephrase_dagster.orchestration.mlflow_links import link
from installation import CELL, Installation

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.slow

RUN_SECONDS = 300  # for runs that the daemon starts
STATUSES = """{ runs: runsOrError { ... on Runs { results { status } } }
  backfills: partitionBackfillsOrError { ... on PartitionBackfills { results { status } } } }"""
UNFINISHED = {"QUEUED", "NOT_STARTED", "STARTING", "STARTED", "REQUESTED"}
UNREAD = {
    f"piece_{limit}": {"kind": "embedded", "corpus": "language_reference", "limit": limit} for limit in range(5, 9)
}
"""Four corpora that are not materialized yet."""


@pytest.fixture(scope="module")
def served_study(finished: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A copy of the finished study with four more corpora."""
    installation = finished.copy(tmp_path_factory.mktemp("pages") / "installation")
    fields: dict[str, Any] = yaml.safe_load(installation.study.read_text(encoding="utf-8"))
    installation.write(fields | {"sources": fields["sources"] | UNREAD})
    return installation


@pytest.fixture(scope="module")
def pages(served_study: Installation) -> Iterator[Pages]:
    """Run `finephrase ui` on the study."""
    found = Pages(*(f"http://127.0.0.1:{free_port()}" for _ in range(2)))
    with served(served_study, found):
        yield found


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with opened() as found:
        yield found


def shown(page: Page, text: str) -> Locator:
    """Return the visible element with a text; the pages have invisible copies to measure them."""
    return page.get_by_text(text, exact=True).locator("visible=true").first


def select(page: Page, selection: str) -> None:
    """Type into the field that filters assets."""
    page.locator(".CodeMirror").first.click()
    page.keyboard.type(selection)
    page.keyboard.press("Escape")  # closes the suggestions, which would cover the page
    page.keyboard.press("Enter")


def wait_for_runs(pages: Pages, page: Page) -> None:
    """Wait until all runs and backfills have ended; meanwhile the browser shows nothing, which costs nothing."""
    page.goto("about:blank")
    deadline = time.monotonic() + RUN_SECONDS
    while any(result["status"] in UNFINISHED for found in ask(pages, STATUSES).values() for result in found["results"]):
        assert time.monotonic() < deadline, f"runs have not ended within {RUN_SECONDS} s"
        time.sleep(1)


def expand_all_groups(page: Page) -> None:
    page.get_by_text("synthetic", exact=True).last.wait_for()
    page.mouse.click(1300, 800, button="right")
    page.get_by_role("menuitem", name="Expand all groups").click()


def test_the_lineage_page_shows_every_group_and_expands_to_every_asset(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/asset-groups")
    for group in ("prompts", "sources", "generators", "synthetic", "mixtures", "training", "evaluation", "study"):
        page.get_by_text(group, exact=True).first.wait_for()
    expand_all_groups(page)
    for asset in ("corpus", "template", "model", "tokenizer", "mixture", "checkpoint", "benchmark_scores", "plan"):
        shown(page, asset).wait_for()


def test_the_catalogue_is_filtered_by_the_format_of_a_prompt(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/assets")
    page.get_by_role("link", name="sources / corpus").wait_for()
    select(page, 'tag:"format/faq"')
    page.get_by_role("link", name="sources / corpus").wait_for(state="hidden")
    links = page.get_by_role("link").filter(has_text=" / ").all_inner_texts()
    assert {link.split(" / ")[0] for link in links} == {"audits", "synthetic", "tokens"}


def test_a_cells_page_names_its_generator_source_and_prompts(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/assets/synthetic/{CELL}")
    for text in (
        "text that every installation has",
        "finephrase-tiny-model",
        "what it asks for",
        "the completion, cleaned",
    ):
        page.get_by_text(text).first.wait_for()
    for tag in ("finephrase/generator: rephraser", "finephrase/source: package_readmes", "format/faq", "family/own"):
        shown(page, tag).wait_for()


def test_a_partitions_page_shows_its_figures_and_a_row_before_its_recipe(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/assets/synthetic/{CELL}?view=partitions&partition=faq")
    shown(page, "Materialized").wait_for()
    names = ("share_completed", "tokens_per_second", "preview", "prompt", "recipe")
    heights = []
    for name in names:
        box = shown(page, name).bounding_box()
        assert box is not None, name
        heights.append(box["y"])
    assert heights == sorted(heights)
    page.get_by_text("was rephrased as", exact=True).first.wait_for()


def test_an_audits_page_lists_its_checks_with_thresholds_in_words(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/assets/audits/{CELL}_audit?view=checks")
    for check in ("accounting", "completed", "empty", "truncated", "form", "common_opening"):
        shown(page, check).wait_for()
    shown(page, "completed").click()
    shown(page, "at least 0.95").wait_for()


def test_a_score_leads_to_its_run_in_mlflow(pages: Pages, page: Page, finished: Installation) -> None:
    run = next(iter(finished.lineage.study.student_runs))
    page.goto(f"{pages.dagster}/assets/evaluation/benchmark_scores?view=partitions&partition={run}")
    shown(page, "macro").wait_for()
    link = page.get_by_role("link").filter(has_text="/finephrase/mlflow?").first.get_attribute("href")
    assert link is not None
    page.goto(f"{pages.dagster}{link}")
    assert page.url.startswith(f"{pages.mlflow}/#/experiments/")
    page.get_by_text(run).first.wait_for()
    page.get_by_text("package_readmes").first.wait_for()
    for score in ("macro", "micro", "gsm8k"):
        page.get_by_text(score, exact=True).first.wait_for()


def test_the_printed_link_shows_one_current_run_per_student_as_trainings(
    pages: Pages, page: Page, finished: Installation
) -> None:
    page.goto(pages.dagster + link("finephrase/small"))
    assert page.url.startswith(f"{pages.mlflow}/#/experiments/")
    runs = finished.lineage.study.student_runs
    for run in runs:
        page.get_by_text(run, exact=True).first.wait_for()
    shown(page, f"{len(runs)} matching runs").wait_for()
    page.get_by_text("Model training", exact=True).first.wait_for()
    page.get_by_text(finished.lineage.study.description).first.wait_for()
    for column in ("macro", "final_loss", "data_seed", "finephrase.mixture"):
        page.get_by_role("columnheader", name=column).first.wait_for()
    page.goto(page.url.replace("/runs?", "/runs?compareRunsMode=CHART&"))
    page.get_by_test_id("experiment-view-compare-runs-card").first.wait_for()
    charts = page.get_by_test_id("experiment-view-compare-runs-card").all_inner_texts()
    assert [chart.split()[0] for chart in charts[:3]] == ["loss", "macro", "micro"]


def test_mlflows_start_page_and_the_experiment_there_show_trainings(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.mlflow}/")
    page.get_by_role("link", name="finephrase/small").first.click()
    page.wait_for_url(re.compile("/runs[?].*workflowType=machine_learning"))
    page.get_by_text("matching runs").wait_for()
    assert page.get_by_text("AI Gateway", exact=True).count() == 0  # of the view of chat traces
    assert page.get_by_text("Ask a question").count() == 0


def test_the_launchpad_describes_its_configuration_and_refuses_an_invalid_one(pages: Pages, page: Page) -> None:
    job = f"make__synthetic__{CELL}"
    page.goto(f"{pages.dagster}/locations/finephrase/jobs/{job}/playground")
    page.get_by_text("No errors").wait_for()
    page.locator(".CodeMirror").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("resources: {rephraser: {config: {concurrency: many}}}")
    page.get_by_text("is not valid for expected type").first.wait_for()
    page.keyboard.press("Control+A")
    page.keyboard.type("resources: {rephraser: {config: {concurency: 8}}}")
    page.get_by_text('Received unexpected config entry "concurency"').first.wait_for()


def test_a_partition_can_be_materialized_by_clicking(pages: Pages, page: Page) -> None:
    audit = f"{pages.dagster}/assets/audits/{CELL}_audit"
    page.goto(f"{audit}?view=partitions&partition=table")
    events = page.get_by_text(re.compile(r"View all historical events \([1-9]"))
    before = int(re.sub(r"\D", "", events.inner_text()))
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Launch 1 run").click()
    page.get_by_text("Launched run").first.wait_for()
    wait_for_runs(pages, page)
    page.goto(f"{audit}?view=partitions&partition=table")
    page.get_by_text(f"View all historical events ({before + 1})").wait_for()


def test_a_backfill_of_four_partitions_can_be_launched_by_clicking(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/assets/sources/corpus")
    page.get_by_role("button", name="Materialize").first.click()
    page.get_by_role("button", name="Missing", exact=True).click()
    page.get_by_text("4 partitions").first.wait_for()
    page.get_by_role("button", name="Launch").last.click()
    page.get_by_text("Created backfill").wait_for()
    wait_for_runs(pages, page)
    page.goto(f"{pages.dagster}/assets/sources/corpus?view=partitions")
    page.get_by_text("Materialized (6)").wait_for()
    page.goto(f"{pages.dagster}/runs?view=backfills")
    shown(page, "Success").wait_for()


STATES = """query($keys: [AssetKeyInput!], $partition: String!) {
  assetNodes(assetKeys: $keys) { assetKey { path } staleStatus(partition: $partition) } }"""
RELOAD = """mutation { reloadRepositoryLocation(repositoryLocationName: "finephrase") { __typename } }"""
OF_CELL = {f"synthetic/{CELL}", f"audits/{CELL}_audit", f"tokens/{CELL}_tokens"}
PARTITIONS = {
    "package_readmes": ["sources/corpus"],
    "faq": [*OF_CELL, "prompts/template"],
    "raw": ["mixtures/mixture"],
    "raw__nano__data0_model0": ["training/checkpoint", "evaluation/benchmark_scores"],
}


def ask(pages: Pages, query: str, **variables: Any) -> dict[str, Any]:
    """Return what Dagster's GraphQL answers."""
    request = urllib.request.Request(
        f"{pages.dagster}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    answer = json.load(urllib.request.urlopen(request, timeout=120))
    assert "errors" not in answer, answer["errors"]
    return answer["data"]


def stale(pages: Pages) -> set[str]:
    """Return the assets whose partition Dagster shows as stale after it has loaded the study again."""
    assert ask(pages, RELOAD)["reloadRepositoryLocation"]["__typename"] == "WorkspaceLocationEntry"
    found = set()
    for partition, names in PARTITIONS.items():
        keys = [{"path": name.split("/")} for name in names]
        nodes = ask(pages, STATES, keys=keys, partition=partition)["assetNodes"]
        assert len(nodes) == len(names)
        found |= {"/".join(node["assetKey"]["path"]) for node in nodes if node["staleStatus"] == "STALE"}
    return found


def test_dagster_shows_what_an_edit_of_the_study_makes_stale_and_nothing_else(
    pages: Pages, served_study: Installation
) -> None:
    before = served_study.study.read_text(encoding="utf-8")
    fields: dict[str, Any] = yaml.safe_load(before)
    try:
        fields |= {"name": "renamed", "description": "Another description."}
        fields["generators"]["rephraser"] |= {"license": "other", "parameters": 3.0}
        served_study.write(fields)
        assert stale(pages) == set()
        fields["generators"]["rephraser"]["sampling"] = {"temperature": 0.31}
        served_study.write(fields)
        assert stale(pages) == OF_CELL
    finally:
        served_study.study.write_text(before, encoding="utf-8")


def test_a_port_in_use_is_named_with_the_option_that_chooses_another(finished: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            command(finished, "--port", str(port)),
            env=environment(finished),
            capture_output=True,
            text=True,
            timeout=60,
        )
    output = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in output
    assert "--port" in output
    assert "Traceback" not in output
