"""Schedules and sensors: nightly budget runs, automatic stages, reloading, reporting failures, observing prompts."""
