"""A dataset that fails its audit: what is shown, what is not made, and how a reason changes that."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from assets.tracking import override_tags
from finephrase_dagster.artifacts.graph import items, state
from finephrase_dagster.artifacts.recorded import failed_gates
from finephrase_dagster.definitions import build_defs
from finephrase_dagster.orchestration.jobs import job_of
from finephrase_dagster.train.admission import refusal
from installation import CELL, Installation, install, small_study
from rephrase_parts import Answer, local_server

pytestmark = pytest.mark.slow

AUDIT = f"audits/{CELL}_audit/faq"
TOKENS = f"tokens/{CELL}_tokens"
REASON = "shows what rows without a form cost"


def answer(request: dict[str, Any]) -> Answer:
    """Write questions and answers for some documents, and a single sentence for others."""
    digest = hashlib.sha256(str(request["messages"]).encode()).hexdigest()
    sound = f"Q: What is {digest[:5]}?\nA: A name.\n\nQ: Who gave it to {digest[5:9]}?\nA: Its author did."
    text = sound if int(digest, 16) % 2 else f"Nothing is asked about {digest[:9]} here."
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": {}}


def run(own: Installation, asset: str, partition: str) -> dict[str, Any]:
    """Materialize one partition in Dagster; return the evaluations of its checks by name."""
    job = build_defs(own.lineage).resolve_job_def(job_of(asset))
    with own.instance() as instance:
        result = job.execute_in_process(instance=instance, partition_key=partition, raise_on_error=False)
        return {check.check_name: check for check in result.get_asset_check_evaluations()}


def test_a_refused_dataset_is_explained_and_used_for_a_reason_alone(tmp_path: Path) -> None:
    own, fields = install(tmp_path / "own"), small_study()
    del fields["mixtures"]["raw"], fields["runs"]
    fields["gates"]["faq"] = {"form": 0.95}
    with local_server() as server:
        server.answer = answer
        (own.root / "endpoints").write_text(server.url)
        own.write(fields)
        outcome, _ = own.materialize()

    assert set(outcome.failed) == {AUDIT, "mixtures/mixture/faq_and_raw"}, outcome.failed
    folder = own.lineage.audit(own.lineage.study.cells[0], "faq").folder
    for message in outcome.failed.values():
        assert "form is 0." in message
        assert "required is at least 0.95" in message
        assert str(folder / "failing.parquet") in message
        assert "despite_audits" in message
    assert f"{TOKENS}/faq" in outcome.waiting
    assert f"{TOKENS}/table" in outcome.made  # for its prompt the study accepts any form

    failing = pq.read_table(folder / "failing.parquet").to_pylist()
    assert all(row["reason"] for row in failing)
    assert {"form"} <= {row["gate"] for row in failing}
    assert "<html" in (folder / "audit.html").read_text()
    with own.instance() as instance:
        key = dg.AssetKey(["audits", f"{CELL}_audit"])
        chosen = dg.AssetRecordsFilter(key, asset_partitions=["faq"])
        event = instance.fetch_materializations(chosen, limit=1).records[0].asset_materialization
        assert event is not None
        shown = str(event.metadata["failing_rows"].value)
        assert "Nothing is asked about" in shown
        assert len(shown) < 100_000

    again, _ = own.materialize()
    assert set(again.failed) == set(outcome.failed)
    assert not again.made

    fields["cells"][0] |= {"on_failure": "drop_rows", "gates": {"left_out": {"threshold": 0.1, "blocking": True}}}
    own.write(fields)
    checks = run(own, f"audits/{CELL}_audit", "faq")
    component = own.lineage.study.cells[0].component("faq")
    reason = refusal(own.lineage, component)
    assert reason is not None
    assert re.search(r"\(left_out is 0\.\d+ \(\d+ of \d+ rows\), required is at most 0\.1\): look at ", reason)
    assert [name for name, check in checks.items() if not check.passed and check.blocking] == ["left_out"]
    assert checks["form"].passed
    assert str(checks["form"].description).endswith("; rows that fail are left out of training")

    fields["cells"][0] |= {"on_failure": "refuse"}
    own.write(fields)
    audit_item = next(item for item in items(own.lineage) if item.name == AUDIT)
    assert state(audit_item).reasons == (
        'rows that fail these gates are dropped: ["empty","form","truncated"] -> null',
    )
    fields["cells"][0] |= {"on_failure": "drop_rows", "gates": {"left_out": 0.9}}
    own.write(fields)
    run(own, f"audits/{CELL}_audit", "faq")
    run(own, TOKENS, "faq")
    audit = own.lineage.audit(own.lineage.study.cells[0], "faq").manifest()
    tokens = own.lineage.tokens(own.lineage.study.datasets[f"{CELL}/faq"])
    kept = {row["id"] for row in pq.read_table(sorted(tokens.folder.glob("*.documents.parquet"))[0]).to_pylist()}
    wrong = {row["id"] for row in failing if row["gate"] == "form"}
    assert audit["passed"]
    page = own.lineage.audit(own.lineage.study.cells[0], "faq").folder / "audit.html"
    assert f"{audit['dropped']['rows']} of them left out of training" in page.read_text()
    assert failed_gates(audit, blocking=False)["form"].startswith(f"form left out {len(wrong)} of ")
    assert tokens.manifest()["dropped"] == audit["dropped"]["rows"] >= len(wrong) > 0
    assert kept
    assert not wrong & kept
    run(own, "mixtures/mixture", "faq_and_raw")
    assert own.lineage.mixture_manifest("faq_and_raw")["despite_audits"] is None

    del fields["cells"][0]["on_failure"], fields["cells"][0]["gates"]
    fields["mixtures"]["faq_and_raw"]["despite_audits"] = REASON
    own.write(fields)
    run(own, TOKENS, "faq")
    run(own, "mixtures/mixture", "faq_and_raw")
    manifest = own.lineage.mixture_manifest("faq_and_raw")
    assert manifest["despite_audits"]["reason"] == REASON
    (gates,) = manifest["despite_audits"]["failed"].values()
    assert gates[0].startswith("form is 0.")
    tags = override_tags(manifest["despite_audits"])
    assert tags["finephrase.despite_audits"] == REASON
    assert f"{CELL}/faq: form is" in tags["finephrase.failed_audits"]

    mixture = own.lineage.mixture("faq_and_raw")
    del fields["mixtures"]["faq_and_raw"]["despite_audits"]
    own.write(fields)
    assert own.lineage.mixture("faq_and_raw").fingerprint != mixture.fingerprint  # it is refused again
