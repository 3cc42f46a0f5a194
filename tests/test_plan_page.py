"""The page of `study/plan`: a cost that is partly unknown is left out instead of being shown as zero."""

from pathlib import Path

import dagster as dg
import pytest
import yaml

from assets.plan import COSTS, build_plan
from finephrase_dagster.catalogue import read_lineage
from finephrase_dagster.study.paths import REPOSITORY, Paths
from installation import small_study


@pytest.mark.parametrize("throughput", [None, {"tokens_per_second": 200, "basis": "a guess"}])
def test_the_plans_page_shows_costs_only_if_all_of_them_are_known(
    throughput: dict[str, object] | None, tmp_path: Path
) -> None:
    fields = small_study()
    fields["generators"]["rephraser"] |= {
        "model": "org/unmeasured@main",
        **({"throughput": throughput} if throughput else {}),
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(fields))
    paths = Paths(data=tmp_path / "data", study=tmp_path / "study.yaml", prompts=REPOSITORY / "prompts")
    result = dg.materialize(build_plan(read_lineage(paths)), instance=dg.DagsterInstance.ephemeral())
    page = result.asset_materializations_for_node("study__plan")[0].metadata
    priced = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}["priced"]
    assert {name for name in COSTS if name in page} == (set(COSTS) if priced else set())
    assert priced == (throughput is not None)
