"""What Dagster does by itself: nights, carrying on, reloading, telling of failures, observing prompts."""
