"""Take the screenshots of docs/web-ui.md and README.md again, from a running instance of the demo.

make demo && make ui
python docs/screenshots.py [--url http://127.0.0.1:3000]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
CELL = "rephraser__package_readmes"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SETTLE_MILLISECONDS = 1500  # until animations of a page have ended
ELSEWHERE = """([here, there]) => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(here, there);
}"""
"""Replaces the path of this repository in all texts of a page."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    url = parser.parse_args().url
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("this needs Chromium: install the package 'chromium'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        page.set_default_timeout(60_000)
        lineage(page, url)
        page.set_viewport_size({"width": 1400, "height": 900})
        take(page, f"{url}/assets/synthetic/{CELL}", "what it asks for", "cell.png")
        take(page, f"{url}/assets/audits/{CELL}_audit?view=checks&checkDetail=form", "at least 0.9", "checks.png")
        job = f"{url}/locations/finephrase/jobs/make__synthetic__{CELL}/playground"
        take(page, job, "No errors", "launchpad.png")
        browser.close()


def lineage(page: Page, url: str) -> None:
    """Take a screenshot of the lineage graph with all groups expanded, without the rest of the page."""
    page.set_viewport_size({"width": 1800, "height": 1900})
    page.goto(f"{url}/asset-groups")
    page.get_by_text("synthetic", exact=True).last.wait_for()
    page.mouse.click(1300, 700, button="right")
    page.get_by_role("menuitem", name="Expand all groups").click()
    page.get_by_text("checkpoint", exact=True).locator("visible=true").first.wait_for()
    page.wait_for_timeout(4 * SETTLE_MILLISECONDS)
    page.screenshot(path=FOLDER / "lineage.png", clip={"x": 553, "y": 280, "width": 1222, "height": 1350})


def take(page: Page, address: str, words: str, name: str) -> None:
    """Take a screenshot of a page as soon as it shows the given words."""
    page.goto(address)
    page.get_by_text(words).locator("visible=true").first.wait_for()
    page.wait_for_timeout(SETTLE_MILLISECONDS)
    page.evaluate(ELSEWHERE, [str(FOLDER.parent), "/finephrase"])
    page.screenshot(path=FOLDER / name)


if __name__ == "__main__":
    main()
