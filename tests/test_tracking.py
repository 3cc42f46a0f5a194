"""MLflow while a student trains: one run, every step once, whatever happens to the training or to the store."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.train.job import LossPoint
