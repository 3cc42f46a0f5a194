"""The `finephrase` command: one file per command."""
