"""The output of an earlier nanotron run that stopped early, for another run to continue from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from finephrase_dagster.train.job import StartingCheckpoint
from finephrase_dagster.train.nanotron.checkpoint import METADATA, is_complete, read_json
from finephrase_dagster.train.nanotron.config import CONFIG, DATA, DataStage
from finephrase_dagster.train.output import STATE, check_start

IDENTITY = "fingerprint"
"""A file in a run's folder and in the state it leaves: the hash of what determines the weights."""


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """An earlier run: its output, the step at which it stopped, and the hash of what determined its weights."""

    folder: Path
    step: int
    identity: str

    @property
    def state(self) -> Path:
        """Its last checkpoint, in nanotron's format."""
        return self.folder / STATE

    @classmethod
    def at(cls, start: StartingCheckpoint, step: int) -> EarlierRun:
        """Read what an earlier run left.

        Args:
            step: the step at which it must have stopped.

        Raises:
            TrainingError: it stopped at another step, or is incomplete.
        """
        folder = start.folder.absolute()
        state = folder / STATE
        last = read_json(state / METADATA).get("metas", {}).get("last_train_step")
        complete = last is not None and is_complete(state, last) and (state / IDENTITY).is_file()
        check_start(state, last if complete else None, step)
        return cls(folder=folder, step=step, identity=(state / IDENTITY).read_text(encoding="utf-8").strip())

    def stage(self) -> DataStage:
        """Return the data that it was trained on."""
        stage = yaml.safe_load((self.state / CONFIG).read_text(encoding="utf-8"))["data_stages"][0]
        dataset = stage["data"]["dataset"]
        names = [folder.removeprefix(f"{DATA}/") for folder in dataset["dataset_folder"]]
        return DataStage(
            name=stage["name"],
            start=stage["start_training_step"],
            weights=dict(zip(names, dataset["dataset_weights"], strict=True)),
            seed=stage["data"]["seed"],
        )

    def sequences_read(self, sequence: int) -> dict[str, int]:
        """Return how many sequences of so many tokens it has read of each component."""
        stages = read_json(self.state / METADATA)["metas"]["data_stages"]
        return {
            folder.removeprefix(f"{DATA}/"): tokens // sequence
            for stage in stages
            for folder, tokens in stage["consumed_tokens_per_dataset_folder"].items()
        }
