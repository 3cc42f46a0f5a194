"""MLflow while a student trains: one run with every step once, whatever happens to the training or the store."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from finephrase_dagster.artifacts.artifact import Artifact
from finephrase_dagster.artifacts.key import CHECKPOINT, PRE_DECAY_CHECKPOINT, ItemKey, Kind
from finephrase_dagster.train.job import LossPoint
from resources.student_record import RunDescription, StudentRecord
from resources.tracking import Tracking
from store import STORE
from test_train import SAVING, Study, killing, study  # noqa: F401

pytestmark = pytest.mark.slow

ABOUT = RunDescription(arm="arm", tags={"finephrase.study": "small"}, params={"layers": 2}, current={"arm", "run"})


def at(root: Path, **settings: Any) -> Tracking:
    given = {"uri": STORE, "seconds": 0.05, "patience": 20.0, **settings}
    return Tracking(experiment=str(root), artifacts=str(root / "artifacts"), web_url="http://here", **given)


def artifact(root: Path, kind: Kind = CHECKPOINT) -> Artifact:
    key = ItemKey(kind=kind, run="run")
    return Artifact(key=key, recipe={"asset": key.asset}, root=root)


def point(step: int) -> LossPoint:
    return LossPoint(step=step, loss=8 / step, learning_rate=step / 1000, tokens=step * 10)


def runs(tracking: Tracking) -> list[Any]:
    """Return the runs of students."""
    client = tracking.client()
    experiment = client.get_experiment_by_name(tracking.experiment)
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return [run for run in found if run.data.tags["finephrase.kind"] == "student"]


def logged(tracking: Tracking, name: str = "loss") -> list[tuple[int, float]]:
    """Return a metric's history in the store's only run, if there is one yet."""
    found = runs(tracking)
    assert len(found) <= 1
    histories = [tracking.client().get_metric_history(run.info.run_id, name) for run in found]
    return [(metric.step, metric.value) for history in histories for metric in history]


def status(tracking: Tracking) -> str:
    (run,) = runs(tracking)
    return str(run.info.status)


def soon(true: Callable[[], bool]) -> bool:
    """Return whether a condition becomes true within two minutes."""
    deadline = time.monotonic() + 120
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def complete(tracking: Tracking, made: Artifact, steps: int) -> str:
    return complete_with(tracking, made, [asdict(point(step)) for step in range(1, steps + 1)])


def test_a_loss_is_in_mlflow_while_the_student_trains(tmp_path: Path) -> None:
    tracking, made = at(tmp_path), artifact(tmp_path)
    with tracking.recording(made, ABOUT, warn=pytest.fail) as follow:
        for step in (1, 2, 3):
            follow(point(step))
        assert soon(lambda: len(logged(tracking)) == 3)
        assert status(tracking) == "RUNNING"
        follow(point(4))
    assert logged(tracking) == [(step, 8 / step) for step in (1, 2, 3, 4)]
    assert status(tracking) == "RUNNING"  # its final metrics are still missing
    run_id = complete(tracking, made, 5)
    assert logged(tracking) == [(step, 8 / step) for step in (1, 2, 3, 4, 5)]
    assert logged(tracking, "learning_rate") == [(step, step / 1000) for step in (1, 2, 3, 4, 5)]
    (run,) = runs(tracking)
    assert (run.info.run_id, run.info.status, run.info.run_name) == (run_id, "FINISHED", "run")
    assert (run.data.params, run.data.metrics["final_loss"]) == ({"layers": "2"}, 1.0)
    assert complete(tracking, made, 5) == run_id
    assert len(logged(tracking)) == 5


@pytest.mark.parametrize(
    ("raised", "expected"), [(RuntimeError("out of memory"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_failed_or_interrupted_training_is_marked_and_resumes_in_the_same_run(
    tmp_path: Path, raised: BaseException, expected: str
) -> None:
    tracking, made = at(tmp_path), artifact(tmp_path)
    with pytest.raises(type(raised)), tracking.recording(made, ABOUT, warn=pytest.fail) as follow:
        follow(point(1))
        follow(point(2))
        raise raised
    assert (status(tracking), len(logged(tracking))) == (expected, 2)
    with tracking.recording(made, ABOUT, warn=pytest.fail) as follow:
        assert soon(lambda: status(tracking) == "RUNNING")
        for step in (2, 3):
            follow(point(step))
    complete(tracking, made, 3)
    assert (status(tracking), logged(tracking)) == ("FINISHED", [(step, 8 / step) for step in (1, 2, 3)])


def test_a_student_that_is_trained_again_gets_a_new_run_and_a_pre_decay_checkpoint_one_of_its_own(
    tmp_path: Path,
) -> None:
    tracking, made = at(tmp_path), artifact(tmp_path)
    first = complete(tracking, made, 3)
    with tracking.recording(made, ABOUT, warn=pytest.fail) as follow:
        follow(point(1))
    second = complete(tracking, made, 3)
    assert second != first
    complete(tracking, artifact(tmp_path, PRE_DECAY_CHECKPOINT), 2)
    named = {run.info.run_name: run for run in runs(tracking)}
    assert named.keys() == {"run", "run (superseded)", "run (pre-decay)"}
    assert named["run (superseded)"].data.tags["finephrase.superseded"] == second
    history = tracking.client().get_metric_history(second, "loss")
    assert [(each.step, each.value) for each in history] == [(step, 8 / step) for step in (1, 2, 3)]


def test_a_missing_store_causes_one_warning_and_gets_every_point_once_it_is_back(tmp_path: Path) -> None:
    tracking, made = at(tmp_path, uri=f"sqlite:///{tmp_path}/mlflow/mlflow.db"), artifact(tmp_path)
    (tmp_path / "mlflow").write_text("a file where the store's folder should be")
    warnings: list[str] = []
    with tracking.recording(made, ABOUT, warn=warnings.append) as follow:
        assert soon(lambda: follow(point(1)) is None and bool(warnings))
        for step in (2, 3):
            follow(point(step))
    assert len(warnings) == 1
    assert "training continues" in warnings[0]
    assert tracking.attempt(made, lambda: complete(tracking, made, 3), warn=warnings.append) is None
    assert "To record it later, run: finephrase results mlflow" in warnings[1]
    (tmp_path / "mlflow").unlink()
    assert tracking.attempt(made, lambda: complete(tracking, made, 3), warn=pytest.fail)
    assert (status(tracking), len(logged(tracking))) == ("FINISHED", 3)


def test_a_server_that_never_answers_does_not_delay_the_training(tmp_path: Path) -> None:
    """The server accepts connections only. Its thread is abandoned, and nothing else is sent at the same time."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracking, made = (
            at(tmp_path, uri=f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.3),
            artifact(tmp_path),
        )
        warnings: list[str] = []
        with tracking.recording(made, ABOUT, warn=warnings.append) as follow:
            for step in range(1, 1000):
                follow(point(step))
        assert (
            tracking.attempt(made, lambda: pytest.fail("two threads send at the same time"), warn=warnings.append)
            is None
        )
    assert [line.count("no answer within 0.3 s") for line in warnings] == [1, 1]
    assert [thread for thread in threading.enumerate() if thread.name == f"mlflow {made.fingerprint}"]


def train(tracking: Tracking, made: Artifact, study: Study, **given: Any) -> tuple[LossPoint, ...]:  # noqa: F811
    torch.set_num_threads(1)
    with tracking.recording(made, ABOUT, warn=pytest.fail) as follow:
        return study.train(made.root, on_loss=follow, execution=SAVING, **given).curve


def train_and_die(root: Path, study: Study) -> None:  # noqa: F811
    """Train in another process, which is killed in step 24 after MLflow has received step 21."""
    tracking = at(root)
    kill = killing(24)

    def log(message: str) -> None:
        if message.startswith("step 24 "):
            assert soon(lambda: len(logged(tracking)) >= 21)
        kill(message)

    train(tracking, artifact(root), study, log=log)


def test_a_killed_training_resumes_in_the_same_run_with_every_step_once(study: Study, tmp_path: Path) -> None:  # noqa: F811
    process = multiprocessing.get_context("spawn").Process(target=train_and_die, args=(tmp_path, study))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL
    tracking, made = at(tmp_path), artifact(tmp_path)
    (killed,) = runs(tracking)
    assert killed.info.status == "RUNNING"
    curve = train(tracking, made, study)
    points = [asdict(each) for each in curve]
    assert complete_with(tracking, made, points) == killed.info.run_id
    assert logged(tracking) == [(each.step, each.loss) for each in curve]
    assert logged(tracking, "learning_rate") == [(each.step, each.learning_rate) for each in curve]
    assert [each.step for each in curve] == list(range(1, 41))


def complete_with(tracking: Tracking, made: Artifact, curve: list[dict[str, Any]]) -> str:
    points = [(name, each["step"], each[name]) for name in ("loss", "learning_rate") for each in curve]
    points.append(("final_loss", len(curve), 1.0))
    record = StudentRecord(artifact=made, about=ABOUT, points=points, files={"a.json": "{}"}, seconds=3)
    (run_id,) = tracking.complete([record])
    return run_id
