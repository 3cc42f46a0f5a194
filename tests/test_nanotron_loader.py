"""The YAML file read by nanotron's own loader.

Collected only where NANOTRON_SRC names a checkout of its main branch. The loader runs in an environment of its own:
NANOTRON_PYTHON, else `.venv/bin/python` in the checkout. No GPU is needed, for what insists on one is stubbed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from finephrase_dagster.train.nanotron.config import DATA, DataStage, config, write_config
from finephrase_dagster.train.nanotron.data import link_data
from finephrase_dagster.train.nanotron.order import stage_order
from finephrase_dagster.train.tokens import TokenSet
from test_nanotron_config import PRESETS, cluster, plan, published
from test_nanotron_data import write_tokens

STUBS = """
import importlib.abc, importlib.machinery, json, sys, types
from unittest.mock import MagicMock

class Stub(types.ModuleType):
    __path__ = []
    __version__ = "2.6.3"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return MagicMock(name=name)

class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("flash_attn", "triton", "grouped_gemm"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Stub(spec.name)

    def exec_module(self, module):
        pass

sys.meta_path.insert(0, Stubs())
sys.path.insert(0, sys.argv[1] + "/src")
"""
LOAD = """
from nanotron.config import get_config_from_file
config = get_config_from_file(sys.argv[2])
print(json.dumps({
    "model": type(config.model.model_config).__name__,
    "data": [type(stage.data.dataset).__name__ for stage in config.data_stages],
    "batch": config.global_batch_size_in_tokens,
    "read": config.as_dict(),
}))
"""
RATES = """
import torch
from nanotron.config import LRSchedulerArgs
from nanotron.helpers import lr_scheduler_builder
import nanotron.helpers
nanotron.helpers.log_rank = lambda *given, **named: None
args = json.loads(sys.argv[2])
optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args["learning_rate"])
optimizer.get_base_optimizer = lambda: optimizer
schedule = lr_scheduler_builder(optimizer, LRSchedulerArgs(**args), total_training_steps=int(sys.argv[3]))
rates = []
for _ in range(int(sys.argv[3])):
    rates.append(schedule.get_last_lr()[0])
    optimizer.step()
    schedule.step()
print(json.dumps(rates))
"""

READ = """
import os, types
os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=sys.argv[3])
import torch
torch.distributed.init_process_group("gloo")
from nanotron.config import NanosetDatasetsArgs
from nanotron.data.tokenized_bytes import get_tb_datasets
given = json.loads(sys.argv[2])
data, _ = get_tb_datasets(
    config=NanosetDatasetsArgs(**given["dataset"]), sequence_length=9, global_batch_size=4, train_steps=50,
    current_iteration=0, parallel_context=types.SimpleNamespace(world_pg=torch.distributed.group.WORLD),
    eos_token_id=5, consumed_tokens_per_dataset_folder={}, last_stages_consumed_tokens_per_dataset_folder=given["read"],
)
lengths = sorted({len(data[index]["input_ids"]) for index in range(len(data))})
tokens = [data[index]["input_ids"].tolist() for index in range(len(data))]
data.update_consumption_metrics(0, len(data), 9)
print(json.dumps({"sequences": len(data), "lengths": lengths, "told": data.get_consumption_stats(), "tokens": tokens}))
"""


def in_nanotron(source: str, code: str, *arguments: str, cwd: Path) -> Any:
    """Run a script in nanotron's environment and return its last line, read as JSON."""
    python = os.environ.get("NANOTRON_PYTHON") or str(Path(source) / ".venv" / "bin" / "python")
    told = subprocess.run(
        [python, "-c", STUBS + code, source, *arguments],
        cwd=cwd,
        env={**os.environ, "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    return json.loads(told.stdout.splitlines()[-1])


def contained(part: Any, whole: Any) -> bool:
    """Return whether nanotron read every written value unchanged; it adds its own defaults."""
    if isinstance(part, dict):
        return all(contained(value, whole[name]) for name, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(contained, part, whole))
    return bool(part == whole)


if source := os.environ.get("NANOTRON_SRC"):

    @pytest.mark.slow
    @pytest.mark.parametrize("name", PRESETS)
    def test_nanotron_reads_each_preset_as_it_was_written(name: str, tmp_path: Path) -> None:
        hidden, ffn, tensor, micro, _ = PRESETS[name]
        path = write_config(tmp_path, plan(published(hidden, ffn), micro_batch=micro), cluster(tensor=tensor))
        found = in_nanotron(source, LOAD, str(path), cwd=tmp_path)
        assert (found["model"], found["data"]) == ("Qwen2Config", ["NanosetDatasetsArgs"])
        assert found["batch"] == 2_097_152
        written = yaml.safe_load(path.read_text())
        assert contained(written, found["read"])

    @pytest.mark.slow
    def test_nanotron_reads_a_decay_variant(tmp_path: Path) -> None:
        stages = (
            DataStage(name="mixture", start=1, weights={"web": 1.0}, seed=1),
            DataStage(name="decay", start=9001, weights={"web": 0.5, "small__web/faq": 0.5}, seed=1),
        )
        variant = plan(published(2048, 6144), stages=stages, micro_batch=2, resume="/pre_decay/state")
        found = in_nanotron(source, LOAD, str(write_config(tmp_path, variant, cluster())), cwd=tmp_path)
        assert found["data"] == ["NanosetDatasetsArgs", "NanosetDatasetsArgs"]
        assert found["read"]["checkpoints"]["resume_checkpoint_path"] == "/pre_decay/state"

    @pytest.mark.slow
    @pytest.mark.parametrize(("warmup", "decay"), [(0.01, 0.1), (0.0, 0.0), (0.0, 0.2), (0.1, 0.0)])
    def test_nanotron_s_learning_rate_is_the_study_s(warmup: float, decay: float, tmp_path: Path) -> None:
        student = published(1024, 3072).model_copy(update={"warmup_fraction": warmup, "decay_fraction": decay})
        written = config(plan(student, micro_batch=4, steps=1000, end=1000), cluster())
        schedule = written["optimizer"]["learning_rate_scheduler"]
        rates = in_nanotron(source, RATES, json.dumps(schedule), "1000", cwd=tmp_path)
        pre_decay, begin = round(1000 * (1 - decay)), round(1000 * warmup)
        assert rates[0] == (0.0 if warmup else pytest.approx(5e-4))
        assert rates[begin:pre_decay] == pytest.approx([5e-4] * (pre_decay - begin))
        assert rates[-1] == pytest.approx(5e-5 if decay else 5e-4, rel=0.1)

    @pytest.mark.slow
    def test_nanotron_reads_what_the_order_lists_through_all_epochs_and_behind_an_earlier_stage(tmp_path: Path) -> None:
        sizes = {"web": [100, 37, 55, 9], "small__web/faq": [500, 21], "third": [70]}
        components = {name: write_tokens(tmp_path / name.replace("/", "-"), each) for name, each in sizes.items()}
        for number, folder in enumerate(components.values()):
            for file in folder.glob("*.ds"):  # no token stands twice
                part = np.fromfile(file, "<u2")
                (part + 10_000 * number + 1000 * int(file.stem)).astype("<u2").tofile(file)
        weights = {"web": 0.6, "small__web/faq": 0.3, "third": 0.1}
        asked: dict[str, Any] = {"weights": weights, "read_before": {"web": 5}, "sequence": 9, "seed": 1}
        link_data(tmp_path / DATA, components=components, sequences=200, **asked)
        stage = DataStage(name="mixture", start=1, weights=weights, seed=1)
        written = config(plan(published(1024, 3072), micro_batch=4, stages=(stage,), token_bytes=2), cluster())
        given = {"dataset": written["data_stages"][0]["data"]["dataset"], "read": {f"{DATA}/web": 45}}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        found = in_nanotron(source, READ, json.dumps(given), port, cwd=tmp_path)
        assert (found["sequences"], found["lengths"]) == (200, [10])
        told = {f"{DATA}/web": 1080, f"{DATA}/small__web/faq": 540, f"{DATA}/third": 180}
        assert found["told"] == {folder: {"tokens": tokens} for folder, tokens in told.items()}
        sets = {name: TokenSet(folder) for name, folder in components.items()}
        rows = stage_order(components=components, paths=200, **asked).to_pylist()
        assert found["tokens"] == [sets[row["component"]].window(row["start"], 10).tolist() for row in rows]
