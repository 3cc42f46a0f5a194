"""MLflow while a student trains: one run, every step once, whatever happens to the training or to the store."""

from __future__ import annotations
