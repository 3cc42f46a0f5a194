"""Completions that give back the instruction of their prompt instead of following it."""

import re
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate
from finephrase_dagster.corpora.quantities import listed
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompt
from finephrase_dagster.study.turns import PLACEHOLDER

SPAN = 7  # words in a row that no text has in common with a prompt by chance
_SHORT = 4  # words of the shortest sentence of a prompt that is searched
_RUN = re.compile(b"\x01" * _SHORT + b"\x01*")
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_SENTENCE = re.compile(r"[^.!?\n]+")
_TEXT = r"(?:text|passage|document|article|paragraph|content|source|input|excerpt|page)s?"
_VERB = (
    r"(?:re-?write|rephrase|paraphrase|summari[sz]e|convert|turn|transform|reformulate|restructure|create"
    r"|generate|write"
    r"|produce|make|compose|explain|teach|translate|improve|use|extract|read|analy[sz]e|consider|take|given"
    r"|using|gather"
    r"|answer|continue|expand|simplify|edit|proofread|style|format|list|describe|include|present|add)"
)
_ASIDE = r"(?:[\w,;:'\"-]+ ){0,14}?"
_PART = (
    r"(?:answers?|questions?|tables?|lists?|items?|rows?|steps?|tutorial|summary|solution|response|paragraphs?"
    r"|sentences?)"
)
_MANNER = (  # how a part is to be written
    r"(?:in your (?:response|answer)|in (?:\d+|one|two|three) (?:sentences|words|paragraphs|lines)|below it"
    r"|with markdown|on (?:an?|one|the same|the next|its own|separate) (?:\w+ )?lines?"
    r"|with (?:an? )?(?:answers?|header)|in markdown)"
)
_INSTRUCTION = re.compile(
    rf"(?:please )?{_VERB} {_ASIDE}(?:(?:the|this|that|from|following|above|given|provided|below|original)"
    rf" {_ASIDE}{_TEXT}"
    rf"(?: (?:above|below|provided|given|into|as|in|so that|for|to|using))|{_TEXT} (?:above|below))\b"
    rf"|(?:please )?(?:re-?write|rephrase|paraphrase|summari[sz]e|translate) (?:this|the) {_TEXT}\b"
    rf"|(?:please )?(?:generate|create|write|make|produce|extract|turn|convert) {_ASIDE}(?:from|about|based"
    rf" on) (?:this|the) {_TEXT}\b"
    r"|below is an instruction that describes|(?:your|the) task (?:is|should be) to (?:write|read|produce|provide"
    r"|generate|answer|extract)"
    rf"|(?:please )?{_VERB} {_ASIDE}(?:the (?:following|above|given|provided) {_TEXT})\b"
    r"|(?:please )?(?:reply|respond|answer|output|return) (?:only |just )?with (?:only |just )?(?:the|an?"
    r"|your) (?:[\w-]+ ){1,8}?"
    r"(?:only|alone|and nothing else)\b"
    r"|(?:please )?(?:reply|respond|output|return) (?:only|just)\b"
    r"|(?:do not|don't) (?:include|add|write|use|provide|output) (?:any |an |additional )?(?:\w+"
    r" )?(?:explanations?|comments?"
    r"|commentary|introduction|preamble|other text|additional text|extra text)"
    r"|(?:your|the) task is to (?:re-?write|rephrase|paraphrase|summari[sz]e|convert|turn|transform|create a"
    r" (?:table|tutorial|faq|list))"
    r"|you are an? (?:\w+ ){0,4}?(?:assistant|chatbot|editor|rewriter|paraphraser|tutor|expert in)\b"
    rf"|(?:for [^,]{{1,40}}, )?(?:please |just )*{_VERB} {_ASIDE}{_PART}[,;:]? {_ASIDE}{_MANNER}\b"
    rf"|(?:every|each|the|all|your) (?:\w+ )?{_PART} (?:must(?! be an?\b)|should (?:have|follow|contain|include|start"
    r"|begin|consist|be (?:in|on|written|numbered|followed|formatted)))\b"
    rf"|you must (?:write|answer|reply|respond|provide|give) {_ASIDE}(?:details|{_PART})\b"
    r"|you will be given an? (?:\w+ )?"
    + _TEXT
    + r"|(?:state|write) (?:the|a) (?:problem|solution) (?:in full|to the problem)"
    r"|write (?:one|each|your) (?:\w+ ){0,2}?(?:question|answer)s? (?:\w+ )?(?:on a line|to reply|that can be)"
)
# How a sentence begins that the expression matches.
_FIRST = frozenset(
    re.findall(r"[\w']+", _VERB.replace("-?", "").replace("[sz]", "s") + " please reply respond output return")
) | set(listed("do don't your the you below summarize analyze rewrite re an now every each all for just q"))
_TURN = re.compile(
    r"<\|(?:im_start|start_header_id)\|>(?:user|system)|<\|(?:user|system)\|>|\[INST\]|\#{2,3} Instruction:"
)
_HOLE = re.compile(
    r"\[\[?(?:DOCUMENT|TEXT|INPUT|SOURCE)\]?\]"
    r"|(?<![\w$}\"'`])\{\{?\s*(?:document|text|input|source|passage)\s*\}?\}(?![\w{\"'`])"  # none of a program
    r"|<(?:text|document)>"
)


class Template(NamedTuple):
    """What of prompts is searched: their words, and sequences of words and short sentences by their number of words.

    Attributes:
        beginnings: the first two words of each.
    """

    words: frozenset[str]
    spans: Mapping[int, frozenset[str]]
    beginnings: frozenset[tuple[str, ...]]


@cache
def _template(own: str) -> Template:
    """Return what is searched of a dataset's own prompt and of all packaged prompts."""
    texts = [own]
    for path in sorted((SHIPPED / "prompts").glob("[!.]*.md")):
        if path.stem != "README":
            prompt = read_prompt(path)
            texts.append(f"{prompt.system or ''}\n{prompt.template}")
    sentences = [
        _WORD.findall(text.lower()) for one in texts for text in _SENTENCE.findall(one.replace(PLACEHOLDER, "\n"))
    ]
    spans = {SPAN: {" ".join(words[at : at + SPAN]) for words in sentences for at in range(len(words) - SPAN + 1)}}
    for words in sentences:
        if _SHORT <= len(words) < SPAN:
            spans.setdefault(len(words), set()).add(" ".join(words))
    known = frozenset(word for words in sentences for word in words)
    beginnings = frozenset(tuple(text.split(" ")[:2]) for texts in spans.values() for text in texts)
    return Template(known, {size: frozenset(texts) for size, texts in spans.items()}, beginnings)


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    words = row.words
    template = _template(_own_prompt(dataset))
    for run in _RUN.finditer(bytes(map(template.words.__contains__, words))):
        places = range(run.start(), run.end() - _SHORT + 1)
        begun = [at for at in places if (words[at], words[at + 1]) in template.beginnings]
        for size, spans in template.spans.items() if begun else ():
            for at in begun:
                span = " ".join(words[at : min(at + size, run.end())])
                if span in spans and not _is_in_source(span, row):
                    return f"gives back the prompt: {span!r}"
    turn = _TURN.search(row.text) if "<|" in row.text or "INST]" in row.text or "##" in row.text else None
    if turn and turn.group() not in (row.source_text or ""):
        return f"gives back a turn of the prompt: {turn.group()!r}"
    hole = _HOLE.search(row.text) if "{" in row.text or "[" in row.text or "<" in row.text else None
    if hole and hole.group() not in (row.source_text or ""):
        return f"gives back a placeholder of a prompt: {hole.group()!r}"
    return _instruction(row)


def _instruction(row: AuditedRow) -> str | None:
    """Return the first sentence that instructs to write a text."""
    for sentence in row.sentences:
        first = _WORD.search(sentence[:40].lower())
        if (first is None or first.group() not in _FIRST) and not sentence[:1].isdigit():
            continue
        lower = sentence.lower().lstrip(" *_#>-\"'(\u201c0123456789.").replace("\u2019", "'").removeprefix("q: ")
        match = _INSTRUCTION.match(lower)
        if match and not _is_in_source(" ".join(_WORD.findall(match.group())), row):
            return f"gives an instruction instead of following one: {sentence[:80]!r}"
    return None


def _is_in_source(span: str, row: AuditedRow) -> bool:
    return bool(row.source_text) and span in row.spaced_source


def _own_prompt(dataset: AuditedDataset) -> str:
    prompt = (dataset.manifest or {}).get("recipe", {}).get("prompt", {})
    return f"{prompt.get('system') or ''}\n{prompt.get('template', '')}" if isinstance(prompt, dict) else ""


GATE = row_gate(
    name="prompt_echo",
    sentence="the share of completions that give back the instruction of their prompt",
    bound="at most",
    defaults={"threshold": 0.02},
    reason="An instruction that is given back is no text of the wanted form, and is the same in every row.",
    remedy="Put the document before the instruction, shorten the prompt, or take a stronger generator.",
    find_flaw=_flaw,
    version=2,
)
