"""Typed Dagster resources: where and how the stages run. None of their settings is identity."""
