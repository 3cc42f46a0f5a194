"""The `finephrase` command: one file per command, `entry.py` where it begins, `terminal.py` for output."""
