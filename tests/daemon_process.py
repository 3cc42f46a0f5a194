"""`dagster-daemon` that looks for backfills every two seconds."""

from dagster._daemon import controller
from dagster._daemon.cli import main

controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2

if __name__ == "__main__":
    main()
