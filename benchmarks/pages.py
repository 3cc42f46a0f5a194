"""Measure the web UI with 1,000 materialized partitions: the server's answers, and the time until a browser shows them.

The study has 125 cells with eight prompts each. Every partition of the cells, their audits and their tokens is recorded
as materialized, with metadata of realistic size. Then `dagster dev` serves the study and Chromium opens

    lineage      the graph with its groups
    catalogue    the list of all assets
    partitions   the partitions of a cell
    partition    one partition with its metadata

Each figure is the median over the rounds. `*_answers_seconds` is the slowest answer to a query of the page, from
request to last byte; `*_first_answers_seconds` is the same at the first visit, with an empty browser cache;
`*_shown_seconds` is the time from opening the address to the text on the page, including the loading of Dagster's
program.

    python benchmarks/pages.py [--cells 125] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import dagster as dg
import yaml
from playwright.sync_api import Page, Response, sync_playwright

from finephrase_dagster.artifacts.key import AUDIT, DATASET, DATASET_TOKENS
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.processes import end
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.orchestration.events import prompt_text
from finephrase_dagster.orchestration.partitions import asset_key
from finephrase_dagster.study.paths import REPOSITORY, Paths

PROMPTS = ["article", "commentary", "discussion", "explanation", "faq", "math", "table", "tutorial"]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
START_SECONDS = 180
PREVIEW = "**a document**\n\n" + "some words of a real row, as long as they usually are\n" * 15


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=125)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name:
        root = Path(name)
        lineage = study_of(root, arguments.cells)
        events = materialize(root, lineage)
        port = free_port()
        server = serve(root, lineage.paths, port)
        try:
            figures = look(f"http://127.0.0.1:{port}", lineage, arguments.rounds)
        finally:
            end(server, first=signal.SIGINT, grace_seconds=30)
    cells = arguments.cells
    print(
        json.dumps({**figures, "materialised_partitions": cells * len(PROMPTS), "events": events, "assets": 3 * cells})
    )


def study_of(root: Path, cells: int) -> Lineage:
    """Return the demo with one generator per cell on its first source."""
    fields = yaml.safe_load((REPOSITORY / "studies" / "demo.yaml").read_text(encoding="utf-8"))
    generator = fields["generators"]["rephraser"]
    names = [f"generator_{number}" for number in range(cells)]
    fields["prompts"] = PROMPTS
    fields["generators"] = dict.fromkeys(names, generator)
    fields["cells"] = [{"generator": name, "source": "package_readmes"} for name in names]
    fields["mixtures"] = {"raw": {"components": {"package_readmes": 1}, "tokens": 160_000, "seed": 0}}
    study = root / "study.yaml"
    study.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return read_lineage(Paths(data=root / "data", study=study))


def materialize(root: Path, lineage: Lineage) -> int:
    """Record every partition of all cells, audits and tokens as materialized; return the number of events."""
    home = root / "dagster_home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    figures = {"share_completed": 1.0, "rows_in": 20_145_723, "completed": 20_145_723, "tokens_per_second": 16_762.0}
    events = 0
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for cell in lineage.study.cells:
            for prompt in lineage.study.prompts_of(cell):
                metadata: dict[str, Any] = {
                    **figures,
                    "preview": dg.MetadataValue.md(PREVIEW),
                    "more_rows": dg.MetadataValue.md(PREVIEW * 4),
                    "prompt": prompt_text(lineage.prompts[prompt]),
                    "recipe": dg.MetadataValue.json({"prompt": lineage.prompts[prompt].model_dump()}),
                }
                for key in (asset_key(DATASET, cell), asset_key(AUDIT, cell), asset_key(DATASET_TOKENS, cell)):
                    instance.report_runless_asset_event(
                        dg.AssetMaterialization(key, partition=prompt, metadata=metadata)
                    )
                    events += 1
    return events


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(root: Path, paths: Paths, port: int) -> subprocess.Popen[bytes]:
    """Start Dagster's web server with its daemon as `finephrase ui` does; return when it answers."""
    workspace = ["-w", str(REPOSITORY / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)]
    with (root / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "dagster", "dev", *workspace],
            cwd=REPOSITORY,
            env={
                **os.environ,
                "FINEPHRASE_STUDY": str(paths.study),
                "FINEPHRASE_DATA": str(paths.data),
                "DAGSTER_HOME": str(root / "dagster_home"),
                "DAGSTER_DISABLE_TELEMETRY": "1",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5)
            return server
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start:\n{(root / 'server.log').read_text()}") from None
            time.sleep(0.2)


def look(base: str, lineage: Lineage, rounds: int) -> dict[str, float]:
    """Open each page once, and then `rounds` times; return the medians of the rounds."""
    key = "/".join(asset_key(DATASET, lineage.study.cells[-1]).path)
    last = PROMPTS[-1]
    addresses = {
        "lineage": ("/asset-groups", "text='evaluation' >> visible=true"),
        "catalogue": ("/assets", "a[href*='/assets/audits/'] >> visible=true"),
        "partitions": (f"/assets/{key}?view=partitions", f"text='Materialized ({len(PROMPTS)})' >> visible=true"),
        "partition": (f"/assets/{key}?view=partitions&partition={last}", "text='share_completed' >> visible=true"),
    }
    figures: dict[str, float] = {}
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("this needs Chromium: install the package 'chromium'")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        for name, (address, selector) in addresses.items():
            first, *taken = [opened(page, base + address, selector) for _ in range(rounds + 1)]
            figures[f"{name}_first_answers_seconds"] = round(first[1], 2)
            figures[f"{name}_shown_seconds"] = round(statistics.median(shown for shown, _ in taken), 2)
            figures[f"{name}_answers_seconds"] = round(statistics.median(answer for _, answer in taken), 2)
        browser.close()
    return figures


def opened(page: Page, address: str, selector: str) -> tuple[float, float]:
    """Return the seconds until an element is visible, and those of the slowest answer to a query until then."""
    answers: list[Response] = []

    def note(response: Response) -> None:
        if response.url.endswith("/graphql") or response.request.resource_type == "document":
            answers.append(response)

    page.goto("about:blank")
    page.on("response", note)
    started = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator(selector).first.wait_for(timeout=60_000)
    shown = time.perf_counter() - started
    page.remove_listener("response", note)
    for response in answers:
        response.finished()
    return shown, max(response.request.timing["responseEnd"] for response in answers) / 1000


if __name__ == "__main__":
    main()
