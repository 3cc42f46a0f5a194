"""A plateau: a run up to where its learning rate would decay, for decays on the same or on other data to go on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from finephrase_dagster.train.nanotron.checkpoint import METADATA, read_json, whole
from finephrase_dagster.train.nanotron.config import CONFIG, DATA, DataStage
from finephrase_dagster.train.training import TrainingError

STATE = "state"
"""The folder of a plateau's state, below its output."""
IDENTITY = "fingerprint"
"""A file beside a run's checkpoints and in a plateau's state: what determines the weights, hashed."""


@dataclass(frozen=True, kw_only=True)
class PreDecayCheckpoint:
    """A plateau to go on from: its folder, its step and what determined its weights."""

    folder: Path
    step: int
    identity: str

    @property
    def state(self) -> Path:
        """nanotron's checkpoint."""
        return self.folder / STATE

    @classmethod
    def at(cls, output: Path, step: int) -> PreDecayCheckpoint:
        """The plateau that `train_to_decay` left in `output`.

        Raises:
            TrainingError: it is another step's, or not whole.
        """
        state = output.absolute() / STATE
        found = read_json(state / METADATA).get("metas", {}).get("last_train_step")
        if found is None or not whole(state, found) or not (state / IDENTITY).is_file():
            raise TrainingError(f"{state} is no whole plateau of nanotron's: train the plateau again on the cluster")
        if found != step:
            raise TrainingError(
                f"the plateau {state} ends at step {found}, this run goes on from step {step}: give both mixtures the "
                "same 'tokens'"
            )
        return cls(folder=output.absolute(), step=step, identity=(state / IDENTITY).read_text(encoding="utf-8").strip())

    def stage(self) -> DataStage:
        """The data that it was trained on."""
        stage = yaml.safe_load((self.state / CONFIG).read_text(encoding="utf-8"))["data_stages"][0]
        dataset = stage["data"]["dataset"]
        names = [folder.removeprefix(f"{DATA}/") for folder in dataset["dataset_folder"]]
        return DataStage(
            name=stage["name"],
            start=stage["start_training_step"],
            weights=dict(zip(names, dataset["dataset_weights"], strict=True)),
            seed=stage["data"]["seed"],
        )

    def read(self, sequence: int) -> dict[str, int]:
        """Sequences that it has read of each component."""
        stages = read_json(self.state / METADATA)["metas"]["data_stages"]
        return {
            folder.removeprefix(f"{DATA}/"): tokens // sequence
            for stage in stages
            for folder, tokens in stage["consumed_tokens_per_dataset_folder"].items()
        }
