"""`dagster-daemon`, in a hurry: it looks for backfills every two seconds, and leaves the code location as it is."""

from dagster._daemon import controller
from dagster._daemon.cli import main

controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 2
controller.RELOAD_WORKSPACE_INTERVAL = 3600

if __name__ == "__main__":
    main()
