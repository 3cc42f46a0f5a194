"""The code location of a test's installation, which the environment names; completions come from endpoints."""

import os
from pathlib import Path

from finephrase_dagster.definitions import build_defs
from installation import Installation
from resources.rephraser import Rephraser

installation = Installation(Path(os.environ["INSTALLATION"]))
concurrency = int(os.environ.get("CONCURRENCY", "128"))
defs = build_defs(installation.lineage, resources={"rephraser": Rephraser(concurrency=concurrency)})
