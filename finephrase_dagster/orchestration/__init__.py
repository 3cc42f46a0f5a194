"""Everything that knows Dagster: partitions, events, jobs, placement, retries, stores and launchers."""
