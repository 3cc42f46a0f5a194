"""Mark-up of chat templates that leaked into completions: special tokens, tags of thoughts, labels of turns."""

import re

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate

_MARKUP = re.compile(
    r"<[|\uff5c][^|\uff5c<>\s]{1,40}[|\uff5c]>|<</?SYS>>"
    r"|\[/?(?:INST|THINK|TOOL_CALLS|AVAILABLE_TOOLS|SYSTEM_PROMPT|BOS|EOS|PAD|SEP|CLS|UNK|gMASK)\]"
    r"|</?(?:think|thinking|reasoning|reflection|scratchpad|answer|seed:think|tool_call|tool_response)>"
    r"|</?(?:start_of_turn|end_of_turn|end_of_utterance|bos|eos|pad|unk|sop|eop)>"
    r"|<(?:extra_id_\d+|0x[0-9A-F]{2})>|\u2581+\w"
    r"|^\s*\#{2,3} ?(?:Instruction|Response|Input|Human|Assistant|User|System)s?:"
    r"|\A\s*</?s>|</s>\s*\Z|<s>(?![^\n]*</s>)|^[ \t]*</s>"
    r"|^(?:assistant|user|system|model)$|<\|(?:im|eot|end|start|eom|begin)(?:_[a-z]*)?\Z",  # the last one may be cut
    re.MULTILINE,
)
_TURN = re.compile(r"^[*_]{0,2}(?:[aA]ssistant|ASSISTANT|[hH]uman|HUMAN|USER|AI)[*_]{0,2} ?:", re.MULTILINE)
_HINT = (  # what every text has that the expressions match, for RE2
    r"(?m)<[|\x{ff5c}]|\[/?(?:INST|THINK|TOOL_CALLS|AVAILABLE_TOOLS|SYSTEM_PROMPT|BOS|EOS|PAD|SEP|CLS|UNK|gMASK)\]"
    r"|<</?SYS>>|</?(?:think|thinking|reasoning|reflection|scratchpad|answer|seed:think|tool_call|tool_response)>"
    r"|</?(?:start_of_turn|end_of_turn|end_of_utterance|bos|eos|pad|unk|sop|eop|s)>|<(?:extra_id_|0x)|\x{2581}"
    r"|## ?(?:Instruction|Response|Input|Human|Assistant|User|System)s?:|^(?:assistant|user|system|model)$"
    r"|^[*_]{0,2}(?:[aA]ssistant|ASSISTANT|[hH]uman|HUMAN|USER|AI)[*_]{0,2} ?:"
)


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    text, source = row.text, row.source_text or ""
    marks = [match.group().strip() for match in _MARKUP.finditer(text)]
    if dataset.check != "dialogue":  # where anybody may speak
        marks += [match.group() for match in _TURN.finditer(text)]
    mark = next((mark for mark in marks if mark not in (row.source_lines if mark.isalpha() else source)), None)
    return f"mark-up of a chat template: {mark!r}" if mark else None


GATE = row_gate(
    name="chat_markup",
    sentence="the share of completions with mark-up of a chat template",
    bound="at most",
    defaults={"threshold": 0.01},
    reason="Special tokens as text are a fault of the chat template or of the stop tokens, and it concerns"
    " all rows alike.",
    remedy="Check the chat template and the stop tokens of the generator, and generate the dataset again.",
    find_flaw=_flaw,
    hint=_HINT,
    version=4,
)
