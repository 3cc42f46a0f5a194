"""Completions in which the model refuses, or asks for a text that it was given."""

import re

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_BEGINNING = 400  # characters; a refusal comes first
_DO = (
    r"(?:assist|help|provide|fulfil+|comply|generate|create|write|rewrite|rephrase|answer|complete|continue"
    r"|process|access"
    r"|summari[sz]e|discuss|engage|do that|do this|see|view|open|read|browse|produce|translate|convert"
    r"|respond|participate)"
)
_CANNOT = (
    r"(?:can(?:no|')t|can not|could(?: no|n')t|am not able to|'m not able to|am unable to|'m unable to|won't|will not)"
)
_REFUSAL = re.compile(
    rf"\b(?:sorry|apologi[sz]e|apologies|unfortunately|regret)\b[^\n]{{0,80}}?\bi(?: {_CANNOT}|'m (?:not"
    rf" able|unable) to)"
    rf" (?:\w+ ){{0,2}}?{_DO}\b"
    rf"|(?:\A|[.!?\n]\s*|\bbut )i(?: {_CANNOT}|'m (?:not able|unable) to) (?:\w+ )?{_DO} (?:\w+ ){{0,3}}?"
    r"(?:with (?:that|this|your)|(?:that|this|your|the) (?:request|question|task|text|content|topic|prompt"
    r"|document|article)"
    r"|(?:such|explicit|harmful|medical|legal) )"
    r"|\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b[^\n]{0,40}?\bi\b"
    r"|\bi(?: am|'m) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi (?:don't|do not) have (?:access to|the ability to|enough information)\b"
    r"|(?:\A|[.!?\n]\s*)(?:could you |can you )?please (?:provide|share|paste|give)(?: me)?(?: with)? (?:the"
    r"|your|me the|a) "
    r"(?:\w+ ){0,3}?(?:text|document|article|passage|content|information|details|context)\b"
    r"|\byou (?:haven't|have not|didn't|did not) (?:provided?|included?|shared?|given?|give) (?:\w+ ){0,3}?"
    r"(?:text|document|article|passage|content)\b"
    r"|\bit (?:seems|looks)(?: like| that| as if)? (?:there is no|you (?:forgot|haven't|have not|didn't|did not))\b"
    r"|\bi(?: won't| will not) be able to\b|\bit(?:'s| is) not possible for me to\b|\bi (?:must|have to) decline\b"
    r"|\bi(?:'m| am) not comfortable (?:with|\w+ing)\b|\bgoes against my\b"
    r"|(?:\A|[.!?\n]\s*)(?:there(?: is|'s) no|no) (?:text|document|passage|article)\b[^\n.]{0,20}\b(?:to \w+|given"
    r"|provided|attached)\b"
    r"|\A[\W_]*(?:the|this) (?:text|document|passage|article) does(?: not|n't) (?:contain|provide|have|include)"
    r" (?:any|enough|sufficient) (?:information|content|facts|details)\b"
    r"|\A[\W_]*i(?:'m| am) (?:ready|here|happy) to (?:help|assist)[^?\n]{0,40}[.!] (?:what|which|how|please"
    r"|could|can)\b"
)
_HINT = (  # what every text has that the expression matches, for RE2
    r"(?i)\bi(?: (?:can(?:no|['\x{2019}])t|can not|could(?: no|n['\x{2019}])t|am (?:not able|unable) to"
    r"|won['\x{2019}]t|will not)| ?['\x{2019}]m (?:not able|unable) to) "
    r"|\ban? (?:ai|artificial intelligence|(?:large )?language model)\b|i (?:don['\x{2019}]t|do not) have "
    r"|please (?:provide|share|paste|give)|you (?:ha(?:ve not|ven['\x{2019}]t)|did(?: not|n['\x{2019}]t)) "
    r"|it (?:seems|looks)|i(?:['\x{2019}]m| am) (?:ready|here|happy) to "
    r"|i (?:must|have to) decline|not (?:possible for me|comfortable )|goes against my"
    r"|\bno (?:text|document|passage|article)\b|(?:text|document|passage|article) does(?: not|n['\x{2019}]t) "
)


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    beginning = row.text[:_BEGINNING].lower().replace("\u2019", "'")
    match = _REFUSAL.search(beginning)
    if match is None or (row.source_text and match.group().strip() in row.source_text.lower().replace("\u2019", "'")):
        return None
    return f"refuses: {match.group().strip()!r}"


GATE = row_gate(
    name="refusals",
    sentence="the share of completions that refuse the task",
    bound="at most",
    defaults={"threshold": 0.01},
    reason="A refusal has nothing of its source in it.",
    remedy="Read the examples. Change the wording of the prompt, or leave out the documents that the"
    " generator refuses.",
    find_flaw=_flaw,
    hint=_HINT,
    version=2,
)
