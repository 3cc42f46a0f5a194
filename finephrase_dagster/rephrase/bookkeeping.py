"""Keeps the books of a run in a thread of its own: the accounts of its datasets, and the progress in the README."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

from finephrase_dagster.artifacts.folder import FolderUnusable
from finephrase_dagster.rephrase.account import (
    ACCOUNT,
    ACCOUNTS,
    SAVE_SECONDS,
    Account,
    Spent,
    load_spent,
    save_account,
)
from finephrase_dagster.rephrase.dataset import Dataset
from finephrase_dagster.rephrase.location import folder_at
from finephrase_dagster.rephrase.readme import write_readme
from finephrase_dagster.rephrase.statistics import RunStatistics

README_WRITES = 3  # every third time that the accounts are written


class Books:
    """Writes accounts every so many seconds within a block; at its end they are closed.

    Attributes:
        accounts: at the end of the block, where the time of all runs went, by prompt; of a worker, of its own run.
        spent: what earlier runs, and all workers, wrote down, by prompt.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        statistics: RunStatistics,
        *,
        output: str | None,
        read_counters: Callable[[], Mapping[str, float]],
        worker: str | None = None,
        seconds: float = SAVE_SECONDS,
    ) -> None:
        """Load the accounts of earlier runs.

        Args:
            output: the folder whose README shows the progress; None: no README.
            read_counters: returns what the engines have counted; nothing if that is not known.
            worker: the name of this worker, if it is one of several; then only its own account is kept.
            seconds: time between two writes.
        """
        self._datasets = datasets
        self._statistics = statistics
        self._output = output
        self._read_counters = read_counters
        self._counting = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="bookkeeping", daemon=True)
        self._name = f"{ACCOUNTS}/{worker}.json" if worker else ACCOUNT
        self._seconds = seconds
        self.spent: dict[str, Spent] = {}
        for name, dataset in () if worker else datasets.items():
            self.spent[name] = load_spent(dataset.folder, dataset.fingerprint)
            statistics.prompts[name].before = self.spent[name].account

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
            if self._over.wait(self._seconds):
                return
            self.count()

    def _write(self, *, is_open: bool) -> dict[str, Account]:
        accounts = self._statistics.accounts()
        engines = max(1, len(self._statistics.clocks)) / len(accounts)
        for name, dataset in self._datasets.items():
            with contextlib.suppress(OSError, FolderUnusable):  # the ledger notices, too, and says so
                save_account(
                    dataset.folder,
                    dataset.fingerprint,
                    accounts[name],
                    engines=engines,
                    is_open=is_open,
                    name=self._name,
                    **self._facts(name),
                )
        return accounts

    def _facts(self, prompt: str) -> dict[str, Any]:
        if self._name == ACCOUNT:
            return {"workers": sorted(self.spent[prompt].workers)}
        done = self._statistics.prompts[prompt]
        rows = {name: getattr(done, name) for name in ("completed", "skipped", "failed", "tokens")}
        return {"seconds": self._seconds, "run": {**self._statistics.cost(), "rows": rows}}

    def _show_progress(self) -> None:
        if self._output is not None:
            with contextlib.suppress(OSError, FolderUnusable):
                write_readme(folder_at(self._output), self._statistics)
