"""Retries: infrastructure failures are retried, invalid input never."""

import sqlite3
from collections.abc import Callable, Iterator

import dagster as dg
import pytest
import requests

from finephrase_dagster.orchestration.devices import DevicesBusy, InvalidDevices
from finephrase_dagster.orchestration.retries import ONCE_TAG, RETRIES, is_infrastructure, retried, wait_seconds
from finephrase_dagster.rephrase.dataset import RecipeChanged
from finephrase_dagster.rephrase.engine import EngineFailed
from finephrase_dagster.study.file import StudyError
from finephrase_dagster.train.job import TrainingDiverged, TrainingError


def caused(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    "error",
    [
        EngineFailed("engine tiny has ended"),
        ConnectionResetError("reset by peer"),
        TimeoutError("timed out"),
        requests.ConnectionError("no route"),
        DevicesBusy("0 is held"),
        sqlite3.OperationalError("database is locked"),
        caused(RuntimeError("API request to the tracking server failed"), requests.ConnectionError("refused")),
    ],
)
def test_infrastructure_failures_are_recognized_by_their_class_or_their_cause(error: Exception) -> None:
    assert is_infrastructure(error)


@pytest.mark.parametrize(
    "error",
    [
        StudyError("study.yaml is wrong"),
        RecipeChanged("holds rows of another recipe"),
        TrainingError("the mixture does not fill one batch"),
        TrainingDiverged("the loss is no number"),
        InvalidDevices("needs 4 GPUs"),
        KeyError("a mistake of ours"),
        OSError(28, "No space left on device"),
        sqlite3.OperationalError("database or disk is full"),
        caused(EngineFailed("its log cannot be written"), OSError(28, "No space left on device")),
    ],
)
def test_invalid_input_a_full_disk_and_bugs_are_no_infrastructure_failures(error: Exception) -> None:
    assert not is_infrastructure(error)


def test_each_delay_is_twice_as_long_as_the_one_before() -> None:
    assert [wait_seconds(attempt) for attempt in range(3)] == [15, 30, 60]


class Attempts:
    """A callable that raises the given errors one after another, and counts its calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    def __call__(self) -> None:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)


def yielding(attempt: Attempts) -> dg.AssetsDefinition:
    @dg.multi_asset(specs=[dg.AssetSpec("made")])
    @retried
    def body(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
        attempt()
        yield dg.MaterializeResult(metadata={"attempt": context.retry_number})

    return body


def returning(attempt: Attempts) -> dg.AssetsDefinition:
    @dg.multi_asset(specs=[dg.AssetSpec("made")])
    @retried
    def body() -> dg.MaterializeResult:
        attempt()
        return dg.MaterializeResult()

    return body


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finephrase_dagster.orchestration.retries.FIRST_WAIT_SECONDS", 0)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("asset", [yielding, returning])
def test_a_step_succeeds_once_the_infrastructure_failure_is_over(
    asset: Callable[[Attempts], dg.AssetsDefinition],
) -> None:
    attempt = Attempts(EngineFailed("it has ended"), ConnectionResetError("reset"))
    assert dg.materialize([asset(attempt)]).success
    assert attempt.count == 3


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("asset", [yielding, returning])
def test_invalid_input_fails_the_step_at_its_first_attempt_with_its_own_message(
    asset: Callable[[Attempts], dg.AssetsDefinition],
) -> None:
    attempt = Attempts(StudyError("study.yaml is wrong"))
    result = dg.materialize([asset(attempt)], raise_on_error=False)
    assert not result.success
    assert attempt.count == 1
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "study.yaml is wrong" in str(failure.step_failure_data.error)


@pytest.mark.usefixtures("at_once")
def test_after_the_last_attempt_the_step_fails_with_the_message_of_the_failure() -> None:
    attempt = Attempts(*(EngineFailed("it has ended") for _ in range(9)))
    result = dg.materialize([returning(attempt)], raise_on_error=False)
    assert not result.success
    assert attempt.count == RETRIES + 1
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "it has ended" in str(failure.step_failure_data.error)


@pytest.mark.usefixtures("at_once")
def test_steps_of_a_run_that_a_person_waits_for_are_not_retried() -> None:
    attempt = Attempts(EngineFailed("it has ended"))
    assert not dg.materialize([returning(attempt)], raise_on_error=False, tags={ONCE_TAG: "true"}).success
    assert attempt.count == 1


@pytest.mark.usefixtures("at_once")
def test_a_failed_audit_is_not_retried() -> None:
    attempt = Attempts()

    @dg.multi_asset(specs=[dg.AssetSpec("made")], check_specs=[dg.AssetCheckSpec("form", asset="made", blocking=True)])
    @retried
    def audit() -> dg.MaterializeResult:
        attempt()
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(check_name="form", passed=False)])

    assert not dg.materialize([audit], raise_on_error=False).success
    assert attempt.count == 1
