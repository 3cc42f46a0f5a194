"""`finephrase ui` on an installation, and a headless Chromium that opens its pages."""

from __future__ import annotations

import contextlib
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

from installation import Installation

if TYPE_CHECKING:
    from playwright.sync_api import Page

START_SECONDS = 120
WAIT_SECONDS = 60  # for an element, on a busy machine
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
STILL = """addEventListener("DOMContentLoaded", () => {
  const style = document.createElement("style");
  style.textContent = "*, *::before, *::after { animation: none !important; transition: none !important }";
  document.head.append(style);
})"""
"""Without a GPU, drawing the pages' animations takes more processor time than all else that they do."""


@dataclass(frozen=True)
class Pages:
    """The addresses of both servers."""

    dagster: str
    mlflow: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(installation: Installation, *options: str) -> list[str]:
    """Return the command line of `finephrase ui` on an installation."""
    return [
        sys.executable,
        "-m",
        "finephrase_dagster.commands.main",
        "ui",
        "--study",
        str(installation.study),
        *options,
    ]


def environment(installation: Installation) -> dict[str, str]:
    return {
        **os.environ,
        "FINEPHRASE_DATA": str(installation.paths.data),
        "DAGSTER_HOME": str(installation.root / "dagster_home"),
    }


@contextlib.contextmanager
def served(installation: Installation, pages: Pages) -> Iterator[None]:
    """Run both servers while the block lasts."""
    ports = [pages.dagster.rpartition(":")[2], pages.mlflow.rpartition(":")[2]]
    path = installation.root / "ui.log"
    with path.open("w") as log:
        process = subprocess.Popen(
            command(installation, "--port", ports[0], "--mlflow-port", ports[1]),
            env=environment(installation),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            for url in (f"{pages.dagster}/server_info", f"{pages.mlflow}/health"):
                _wait_for(url, process, path)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)


@contextlib.contextmanager
def opened() -> Iterator[Page]:
    """Open a page in a headless Chromium."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "the tests of the web pages need Chromium: install the package 'chromium'"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000}, reduced_motion="reduce")
        page.add_init_script(STILL)
        page.set_default_timeout(WAIT_SECONDS * 1000)
        yield page
        browser.close()
