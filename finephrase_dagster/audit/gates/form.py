"""Completions in the form that the prompt asks for; the forms are in `audit/forms.py`."""

from finephrase_dagster.audit.forms import form_flaw
from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    return form_flaw(str(dataset.check), row.text)


GATE = row_gate(
    name="form",
    sentence="the share of completions that have the form the prompt asks for",
    bound="at least",
    defaults={"threshold": 0.8},
    reason="Below four in five, a dataset is no longer what the name of its prompt promises.",
    remedy="Read the most common flaw. Say in the prompt what is wrong, generate with `guided: true`, or take a "
    "stronger generator.",
    find_flaw=_flaw,
    needs=("check",),
    version=2,
)
