"""The `finephrase` command: one file per command, `main.py` with the application, `terminal.py` for output."""


def run() -> None:
    """Run the command; a signal ends it with one line also while its modules are loaded."""
    from finephrase_dagster.commands import interruption

    interruption.end_at_once()
    from finephrase_dagster.commands.main import main

    main()
