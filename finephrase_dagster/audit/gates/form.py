"""Completions in the form that the prompt asks for; the forms are in `audit/forms.py`."""

from finephrase_dagster.audit.forms import form_flaw
from finephrase_dagster.audit.gate import row_gate

GATE = row_gate(
    name="form",
    sentence="the share of completions that have the form the prompt asks for",
    bound="at least",
    defaults={"threshold": 0.8},
    find_flaw=lambda row, dataset, settings: form_flaw(str(dataset.check), row.text),
    needs=("check",),
)
