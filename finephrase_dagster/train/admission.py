"""Admission: a mixture takes only datasets whose audit passed."""

from __future__ import annotations

from collections.abc import Callable

from finephrase_dagster.artifacts.artifact import ArtifactMissing
from finephrase_dagster.artifacts.lineage import Lineage
from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.study.spec import Study


class AuditNotPassed(FinephraseError):
    """A mixture contains a dataset that did not pass its audit; the message names the gates."""


def is_overridden(study: Study, dataset: str) -> bool:
    """Return whether all mixtures that contain a dataset use it whatever its audit says."""
    users = [mixture for mixture in study.mixtures.values() if dataset in mixture.components]
    return bool(users) and all(mixture.despite_audits for mixture in users)


def check_audits(lineage: Lineage, mixture: str, log: Callable[[str], None]) -> None:
    """Check that every synthetic dataset of a mixture passed its audit, unless the mixture sets `despite_audits`.

    A blocking check in Dagster stops only what is downstream in the same run, so the mixture checks for itself.

    Raises:
        AuditNotPassed: an audit is missing or did not pass.
    """
    for name, component in lineage.study.components(mixture).items():
        audit = lineage.component_audit(component)
        if audit is None:
            continue
        try:
            manifest = audit.manifest()
        except ArtifactMissing as error:
            raise AuditNotPassed(f"mixture {mixture}: {name} has no audit; materialize {audit.name} first") from error
        if not manifest["passed"]:
            failed = ", ".join(
                f"{gate['name']} is {gate['value']:.3g}, required is {gate['bound']} {gate['threshold']:.3g}"
                for gate in manifest["gates"]
                if gate["blocking"] and not gate["passed"]
            )
            if lineage.study.mixtures[mixture].despite_audits:
                log(f"mixture {mixture}: uses {name} although it did not pass its audit ({failed})")
                continue
            raise AuditNotPassed(
                f"mixture {mixture}: {name} did not pass its audit ({failed}); improve the prompt or the generator, "
                "remove the dataset from the mixture, or set its field despite_audits"
            )
