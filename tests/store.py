"""An MLflow store for all tests of a process: creating its tables takes seconds. Each test has its own experiment."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

FOLDER = os.environ.get("FINEPHRASE_TEST_STORE") or tempfile.mkdtemp(prefix="finephrase-mlflow-")
if "FINEPHRASE_TEST_STORE" not in os.environ:  # processes that a test starts use the same store
    os.environ["FINEPHRASE_TEST_STORE"] = FOLDER
    atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
STORE = f"sqlite:///{FOLDER}/mlflow.db"
