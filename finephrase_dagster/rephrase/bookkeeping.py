"""Keeps the books of a run in a thread of its own: the accounts of its datasets, and the progress in the README."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping

from finephrase_dagster.artifacts.folder import FolderUnusable
from finephrase_dagster.rephrase.account import SAVE_SECONDS, Account, load_account, save_account
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.rephrase.readme import write_readme
from finephrase_dagster.rephrase.statistics import RunStatistics

README_WRITES = 3  # every third time that the accounts are written


class Books:
    """Writes accounts every `SAVE_SECONDS` within a block; at its end they are closed.

    Attributes:
        accounts: at the end of the block, where the time of all runs went, by prompt.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        statistics: RunStatistics,
        *,
        output: str | None,
        read_counters: Callable[[], Mapping[str, float]],
    ) -> None:
        """Load the accounts of earlier runs.

        Args:
            output: the folder whose README shows the progress; None: no README.
            read_counters: returns what the engines have counted; nothing if that is not known.
        """
        self._datasets = datasets
        self._statistics = statistics
        self._output = output
        self._read_counters = read_counters
        self._counting = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="bookkeeping", daemon=True)
        for name, dataset in datasets.items():
            statistics.prompts[name].before = load_account(dataset.folder, dataset.fingerprint)

    def __enter__(self) -> Books:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self.accounts = self._write(is_open=False)
        self._show_progress()

    def count(self) -> None:
        """Record what the engines have counted; called at the beginning and at the end, too."""
        with self._counting:
            if counted := self._read_counters():
                self._statistics.record_engine_counters(counted)

    def _keep(self) -> None:
        writes = 0
        while True:
            self._write(is_open=True)
            if writes % README_WRITES == 0:
                self._show_progress()
            writes += 1
            if self._over.wait(SAVE_SECONDS):
                return
            self.count()

    def _write(self, *, is_open: bool) -> dict[str, Account]:
        accounts = self._statistics.accounts()
        engines = max(1, len(self._statistics.clocks)) / len(accounts)
        for name, dataset in self._datasets.items():
            with contextlib.suppress(OSError, FolderUnusable):  # the ledger notices, too, and says so
                save_account(dataset.folder, dataset.fingerprint, accounts[name], engines=engines, is_open=is_open)
        return accounts

    def _show_progress(self) -> None:
        if self._output is not None:
            with contextlib.suppress(OSError, FolderUnusable):
                write_readme(folder_at(self._output), self._statistics)
