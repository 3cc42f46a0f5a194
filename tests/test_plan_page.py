"""The page of `study/plan`: up to date without a run, and without a figure for a cost that is unknown in part."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets.plan import build_plan
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.orchestration.automation.observer import build_observer
from finephrase_dagster.study.paths import REPOSITORY, Paths
from installation import small_study

COSTS = {"gpu_hours", "dollars", "wall_time"}


@pytest.fixture
def lineage_of(tmp_path: Path) -> Callable[..., Lineage]:
    def lineage(**generator: Any) -> Lineage:
        fields = small_study()
        fields["generators"]["rephraser"] |= generator
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields))
        paths = Paths(data=tmp_path / "data", study=tmp_path / "study.yaml", prompts=REPOSITORY / "prompts")
        return read_lineage(paths)

    return lineage


@pytest.mark.parametrize("throughput", [None, {"tokens_per_second": 200, "basis": "a guess"}])
def test_the_plans_page_shows_costs_only_if_all_of_them_are_known(
    throughput: dict[str, object] | None, lineage_of: Callable[..., Lineage]
) -> None:
    lineage = lineage_of(model="org/unmeasured@main", **({"throughput": throughput} if throughput else {}))
    result = dg.materialize(build_plan(lineage), instance=dg.DagsterInstance.ephemeral())
    page = result.asset_materializations_for_node("study__plan")[0].metadata
    priced = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}["priced"]
    assert COSTS & set(page) == (COSTS if priced else set())
    assert priced == (throughput is not None)


@pytest.mark.slow
def test_the_observer_shows_the_plan_on_its_page_and_is_silent_until_the_plan_changes(
    lineage_of: Callable[..., Lineage],
) -> None:
    lineage = lineage_of()
    observer, instance = build_observer(lineage), dg.DagsterInstance.ephemeral()

    def tick(cursor: str | None) -> dg.SensorResult | dg.SkipReason:
        result = observer(dg.build_sensor_context(instance=instance, cursor=cursor))
        assert isinstance(result, dg.SensorResult | dg.SkipReason)
        for event in result.asset_events if isinstance(result, dg.SensorResult) else ():
            instance.report_runless_asset_event(event)
        return result

    first = tick(None)
    assert isinstance(first, dg.SensorResult)
    event = instance.get_latest_materialization_event(dg.AssetKey(["study", "plan"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert {"to_do", "plan", "stale", "sampling"} <= set(event.asset_materialization.metadata)
    assert isinstance(tick(first.cursor), dg.SkipReason)
    assert isinstance(tick("an earlier plan"), dg.SensorResult)
    study = yaml.safe_load(lineage.paths.study.read_text())
    study["generators"]["rephraser"]["sampling"] = {"temperature": 0.123, "seed": 1}
    lineage.paths.study.write_text(yaml.safe_dump(study))
    changed = tick(first.cursor)
    assert isinstance(changed, dg.SensorResult), "a change is shown before the code location is loaded again"
    event = instance.get_latest_materialization_event(dg.AssetKey(["study", "plan"]))
    assert event is not None
    assert event.asset_materialization is not None
    assert "0.123" in str(event.asset_materialization.metadata["sampling"].value)
    lineage.paths.study.write_text("cells: [")
    assert isinstance(tick(changed.cursor), dg.SkipReason)
