"""Artifacts: what exists, by which recipe, and what it was made from."""
