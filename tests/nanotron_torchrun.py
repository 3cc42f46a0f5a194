"""Stands in for torchrun and nanotron where no GPU is: reads the YAML, says nanotron's lines, saves checkpoints.

The launcher starts its worker in a session of its own, as torchrun does, and ends it on SIGTERM. `behaviour.json`
beside the training script says what goes wrong: `fail_at` and `diverge_at` name steps, `tear_at` a checkpoint that
is left half-written, `seconds` what a step takes. Of several nodes the first does the work, the others wait for it.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import psutil
import yaml


def say(text: str, to: TextIO = sys.stdout) -> None:
    to.write(f"{text}\n")
    to.flush()


def launch(arguments: list[str]) -> int:
    script, config = arguments[-3], arguments[-1]
    node = arguments[arguments.index("--node-rank") + 1] if "--node-rank" in arguments else "0"
    if node != "0":
        return wait_for_first_node()
    Path("done").unlink(missing_ok=True)
    command = [sys.executable, __file__, "worker", str(Path(script).parent), config]
    worker = subprocess.Popen(command, start_new_session=True)

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    Path("worker.pid").write_text(f"{worker.pid}")
    try:
        return worker.wait()
    finally:
        worker.kill()
        Path("done").touch()


def wait_for_first_node() -> int:
    began = psutil.Process().create_time()  # the first node may be done before this line is reached
    done = Path("done")
    while not (done.exists() and done.stat().st_mtime > began):
        time.sleep(0.05)
    return 0


def work(source: Path, config_file: Path) -> None:
    config = yaml.safe_load(config_file.read_text())
    behaviour = json.loads((source / "behaviour.json").read_text())
    tokens, checkpoints = config["tokens"], config["checkpoints"]
    batch = tokens["micro_batch_size"] * tokens["batch_accumulation_per_replica"] * config["parallelism"]["dp"]
    stages = [{"consumed_tokens_per_dataset_folder": {}} for _ in config["data_stages"]]
    begin = 0
    if checkpoints["resume_checkpoint_path"]:
        saved = json.loads((Path(checkpoints["resume_checkpoint_path"]) / "checkpoint_metadata.json").read_text())
        begin = saved["metas"]["last_train_step"]
        for stage, before in zip(stages, saved["metas"]["data_stages"], strict=False):
            stage.update(before)
    say("some other line\nmbs: 1 | grad_accum: 2 | iteration: none")
    for step in range(begin + 1, tokens["train_steps"] + 1):
        time.sleep(behaviour.get("seconds", 0))
        if step == behaviour.get("fail_at"):
            say("Traceback: CUDA error: an illegal memory access", sys.stderr)
            sys.exit(1)
        consume(stages[-1], config["data_stages"][-1], batch * tokens["sequence_length"])
        say(line(step, config, batch, math.nan if step == behaviour.get("diverge_at") else None))
        last = step == tokens["train_steps"]
        if step % checkpoints["checkpoint_interval"] == 0 or (last and checkpoints["save_final_state"]):
            save(Path(checkpoints["checkpoints_path"]) / str(step), source, config_file, stages, step, behaviour)


def consume(done: dict[str, Any], stage: dict[str, Any], step_tokens: int) -> None:
    dataset = stage["data"]["dataset"]
    for folder, weight in zip(dataset["dataset_folder"], dataset["dataset_weights"], strict=True):
        assert list(Path(folder).glob("*.ds")), f"no tokens in {folder}"
        read = done["consumed_tokens_per_dataset_folder"]
        read[folder] = read.get(folder, 0) + round(step_tokens * weight)


def line(step: int, config: dict[str, Any], batch: int, loss: float | None) -> str:
    stage = config["data_stages"][-1]["name"]
    loss = 8 / (1 + step / 10) + (stage == "decay") if loss is None else loss
    said = {
        "consumed_tokens": f"{step * batch / 1000:.3g}K",
        "time_per_iteration_ms": "3.2K",
        "tokens_per_sec": "655K",
        "tokens_per_sec_per_gpu": "10.2K",
        "global_batch_size": "2.1M",
        "grad_norm": "0.41",
        "lm_loss": f"{loss:.3g}",
        "lr": f"{rate(step, config):.3g}",
        "model_tflops_per_gpu": "400",
        "eta": "1 day, 2:03:04",
    }
    entries = " | ".join(f"{name}: {value}" for name, value in said.items())
    steps = config["tokens"]["train_steps"]
    return f"\x1b[2;3m11/21 07:38:00 [INFO|DP=0]\x1b[0m: iteration: {step} / {steps} | {entries}"


def rate(done: int, config: dict[str, Any]) -> float:
    """The learning rate of the step after so many, by nanotron's rule."""
    schedule = config["optimizer"]["learning_rate_scheduler"]
    high, low = schedule["learning_rate"], schedule["min_decay_lr"]
    behind = done - schedule["lr_decay_starting_step"]
    if done < schedule["lr_warmup_steps"]:
        return high * done / schedule["lr_warmup_steps"]
    return high - (high - low) * min(1.0, max(0, behind) / schedule["lr_decay_steps"])


def save(
    folder: Path, source: Path, config: Path, stages: list[dict[str, Any]], step: int, behaviour: dict[str, Any]
) -> None:
    """In nanotron's order: what says that all is there comes last."""
    say(f"\x1b[1;33m11/21 [WARNING]\x1b[0m: Saving checkpoint at {folder}")
    for name in ("model", "optimizer", "lr_scheduler"):
        shutil.copytree(source / "template" / name, folder / name, dirs_exist_ok=True)
    shutil.copyfile(config, folder / "config.yaml")
    if step == behaviour.get("tear_at"):
        say("killed while saving", sys.stderr)
        sys.exit(1)
    metas = {"last_train_step": step, "data_stages": stages}
    (folder / "checkpoint_metadata.json").write_text(json.dumps({"version": "1.5", "tp": 1, "dp": 2, "metas": metas}))
    (folder.parent / "latest.txt").write_text(str(step))
    shutil.copyfile(source / "template" / "model_config.json", folder / "model_config.json")


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        work(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(launch(sys.argv[1:]))
