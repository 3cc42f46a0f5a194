"""Admission: a dataset is tokenized and mixed only if its audit passed, or if a mixture says why it is used anyway."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finephrase_dagster.artifacts.artifact import ArtifactMissing
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.artifacts.recorded import failed_gates
from finephrase_dagster.corpora.ids import IdSet, id_hash
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.component import Component
from finephrase_dagster.study.spec import Study

DROPPED = "dropped.parquet"
"""The file of an audit with the ids of the rows that are not trained on."""
IDS = pa.schema([("id", pa.string())])
CHUNK_ROWS = 100_000
REMEDY = (
    "look at {folder}/failing.parquet; then {rows}improve the prompt or the generator, move the gate ('gates'), or use "
    "the dataset anyway for a reason that you state (the mixture's 'despite_audits: \"...\"')"
)
ROW_REMEDY = (
    "leave out the rows that fail {gates} (the cell's 'on_failure: drop_rows') or draw them again ('on_failure: "
    "regenerate'), "
)


class AuditNotPassed(FinephraseError):
    """A dataset did not pass its audit; the message names the gates and what to do."""


def is_overridden(study: Study, dataset: str) -> bool:
    """Return whether all mixtures that contain a dataset, and the release, use it whatever its audit says."""
    reasons = [mixture.despite_audits for mixture in study.mixtures.values() if dataset in mixture.components]
    if study.release and any(dataset == one.name for some in study.released.values() for one in some):
        reasons.append(study.release.despite_audits.get(dataset))
    return bool(reasons) and all(reasons)


def refusal(lineage: Lineage, component: Component) -> str | None:
    """Return why a dataset may not be used, with the next action; None for a corpus, or if its audit passed.

    Raises:
        AuditNotPassed: it has not been audited.
    """
    audit = lineage.component_audit(component)
    if audit is None:
        return None
    try:
        manifest = audit.manifest()
    except ArtifactMissing as error:
        raise AuditNotPassed(f"{component.name} has no audit; materialize {audit.name} first") from error
    if manifest["passed"]:
        return None
    failed = failed_gates(manifest)
    by_row = [name for name in failed if audit.recipe["gates"][name]["by_row"]]
    rows = ROW_REMEDY.format(gates=" or ".join(by_row)) if by_row else ""
    remedy = REMEDY.format(folder=audit.folder, rows=rows)
    return f"{component.name} did not pass its audit ({'; '.join(failed.values())}): {remedy}"


def write_dropped(failing: Path, drops: Sequence[str], output: Path) -> dict[str, Any]:
    """Write the ids of the rows that fail some gates, each once; return their number and the hash of the file.

    Args:
        failing: the Parquet file with `id`, `gate` and `reason` of all failing rows.
        drops: the gates that count.
    """
    import duckdb

    chosen = "SELECT DISTINCT id FROM read_parquet(?) WHERE list_contains(?, gate) ORDER BY id"
    rows, digest = 0, hashlib.sha256()
    with duckdb.connect() as connection, pq.ParquetWriter(output, IDS, compression="zstd") as writer:
        connection.execute(chosen, [str(failing), list(drops)])
        while chunk := [name for (name,) in connection.fetchmany(CHUNK_ROWS)]:
            rows += len(chunk)
            digest.update("".join(f"{name}\0" for name in chunk).encode("utf-8", "surrogatepass"))
            writer.write_table(pa.table([chunk], schema=IDS))
    return {"rows": rows, "sha256": digest.hexdigest()}


def dropped_rows(lineage: Lineage, component: Component) -> IdSet:
    """Return the ids of the rows that are left out of a dataset's tokens."""
    ids, audit = IdSet(), lineage.component_audit(component)
    if audit is not None and "drops" in audit.recipe:
        with pq.ParquetFile(audit.folder / DROPPED) as file:
            for batch in file.iter_batches(columns=["id"]):
                for name in batch["id"].to_pylist():
                    ids.add(id_hash(name))
    return ids


def check_dataset(lineage: Lineage, component: Component) -> None:
    """Raise AuditNotPassed unless a dataset passed its audit, or a mixture uses it anyway."""
    study = lineage.study
    if any(component.name in mixture.components and mixture.despite_audits for mixture in study.mixtures.values()):
        return
    if reason := refusal(lineage, component):
        raise AuditNotPassed(reason)


def check_mixture(lineage: Lineage, name: str, log: Callable[[str], None]) -> dict[str, list[str]]:
    """Return the gates that datasets of a mixture failed, by dataset, if it says why it uses them anyway.

    A blocking check in Dagster stops only what is downstream in the same run, so the mixture checks for itself.

    Raises:
        AuditNotPassed: an audit is missing, or did not pass and the mixture gives no reason.
    """
    mixture, used = lineage.study.mixtures[name], {}
    for dataset, component in lineage.study.components(name).items():
        if (reason := refusal(lineage, component)) is None:
            continue
        if not mixture.despite_audits:
            raise AuditNotPassed(f"mixture {name}: {reason}")
        audit = lineage.component_audit(component)
        assert audit is not None
        used[dataset] = [*failed_gates(audit.manifest()).values()]
        log(f"mixture {name}: uses {dataset} despite its audit ({'; '.join(used[dataset])}): {mixture.despite_audits}")
    return used
