"""The `finephrase` command: one file per command, `main.py` with the entry point, `terminal.py` for output."""
