"""The web pages in a headless browser, on a finished study."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from installation import CELL, Installation

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

START_SECONDS = 120
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@dataclass(frozen=True)
class Pages:
    dagster: str
    mlflow: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(installation: Installation, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "finephrase_dagster.cli", "ui", "--study", str(installation.study), *options],
        env={
            **os.environ,
            "FINEPHRASE_DATA": str(installation.places.data),
            "DAGSTER_HOME": str(installation.root / "dagster_home"),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def pages(finished: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """`finephrase ui` on a copy of the finished study."""
    installation = finished.copy(tmp_path_factory.mktemp("pages") / "installation")
    ports = free_port(), free_port()
    log = (installation.root / "ui.log").open("w")
    process = subprocess.Popen(
        [
            *[sys.executable, "-m", "finephrase_dagster.cli", "ui", "--study", str(installation.study)],
            *["--port", str(ports[0]), "--mlflow-port", str(ports[1])],
        ],
        env={
            **os.environ,
            "FINEPHRASE_DATA": str(installation.places.data),
            "DAGSTER_HOME": str(installation.root / "dagster_home"),
        },
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    found = Pages(*(f"http://127.0.0.1:{port}" for port in ports))
    try:
        deadline = time.monotonic() + START_SECONDS
        for url in (f"{found.dagster}/server_info", f"{found.mlflow}/health"):
            while True:
                try:
                    urllib.request.urlopen(url, timeout=5)
                    break
                except OSError:
                    assert process.poll() is None, Path(log.name).read_text()
                    assert time.monotonic() < deadline, Path(log.name).read_text()
                    time.sleep(0.5)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium")
    assert browser_path, "the tests of the web pages need Chromium: install the package 'chromium'"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(60_000)
        yield opened
        browser.close()


def test_the_lineage_page_shows_every_group(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/asset-groups")
    for group in ("prompts", "sources", "generators", "synthetic", "mixtures", "training", "evaluation"):
        page.get_by_text(group, exact=True).first.wait_for()


def test_a_cells_page_shows_its_partitions_materialised(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/assets/synthetic/{CELL}?view=partitions")
    for partition in ("faq", "table"):
        page.get_by_text(partition, exact=True).first.wait_for()
    page.get_by_text("Materialized", exact=False).first.wait_for()


def test_an_audits_page_lists_its_checks(pages: Pages, page: Page) -> None:
    page.goto(f"{pages.dagster}/assets/audits/{CELL}_audit?view=checks")
    for check in ("accounting", "completed", "empty", "truncated", "form", "common_opening"):
        page.get_by_text(check, exact=True).first.wait_for()


def test_mlflow_lists_every_checkpoint_with_its_scores(pages: Pages, page: Page, finished: Installation) -> None:
    page.goto(f"{pages.mlflow}/#/experiments/1/runs?workflowType=machine_learning")
    page.get_by_text("finephrase/small").first.wait_for()
    for run in finished.lineage.study.student_runs:
        page.get_by_text(run).first.wait_for()
    page.get_by_text("faq_and_raw__nano__data0_model0").first.click()
    for score in ("macro", "micro", "gsm8k"):
        page.get_by_text(score, exact=True).first.wait_for()


def test_a_port_in_use_is_named_with_the_way_out(finished: Installation) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = command(finished, "--port", str(port))
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"port {port} on 127.0.0.1 is in use" in said
    assert "--port" in said
    assert "Traceback" not in said
