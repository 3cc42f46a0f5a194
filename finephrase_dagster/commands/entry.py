"""Where the `finephrase` command begins: with the signals, because its modules take a second to load."""

from __future__ import annotations

from finephrase_dagster.commands import interruption


def run() -> None:
    """Run the command; a signal ends it with one line also while its modules are loaded."""
    interruption.end_at_once()
    from finephrase_dagster.commands.main import main

    main()
