"""Completions that give back the instruction of their prompt instead of following it."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from operator import or_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow, Settings, row_gate
from finephrase_dagster.audit.ngrams import HashedWords, slices
from finephrase_dagster.audit.prefilter import may_match
from finephrase_dagster.audit.talk import expression, talk
from finephrase_dagster.audit.words import hash_words
from finephrase_dagster.corpora.quantities import listed
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompt
from finephrase_dagster.study.turns import PLACEHOLDER

_BITS = (14, 22)  # of the hashes of words, and of sequences
SPAN = 7  # words in a row that no text has in common with a prompt by chance
_SHORT = 4  # words of the shortest sentence of a prompt that is searched
_RUN = re.compile(b"\x01" * _SHORT + b"\x01*")
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
_SENTENCE = re.compile(r"[^.!?\n]+")
_LABEL = re.compile(
    r"\A(?:the )?(?:instructions?|task|prompt|request|user|question)(?: description)?(?: says?| is| was)?"
    r"\s*[^\w\s]\W{0,3}(?=\w)"
)
# How a sentence begins that a rule matches.
_FIRST = frozenset(
    listed(
        "rewrite rephrase paraphrase summarise convert turn transform reformulate restructure create generate"
        " write produce make compose explain teach translate improve use extract read analyse consider take"
        " given using gather answer continue expand simplify edit proofread style format list describe include"
        " present add please reply respond output return do don't your the you below summarize analyze re an now"
        " every each all for just q instruction instructions task prompt request user question"
        " only no never here give keep stick stay based relying drawing finally then avoid"
        " so okay we i ensure remember be also and note keep"
    )
)
_TURN = re.compile(
    r"<\|(?:im_start|start_header_id)\|>(?:user|system)|<\|(?:user|system)\|>|\[INST\]|\#{2,3} Instruction:"
)
_HOLE = re.compile(
    r"\[\[?(?:DOCUMENT|TEXT|INPUT|SOURCE)(?: HERE)?\]?\]"
    r"|(?<![\w$}\"'`])\{\{?\s*(?:document|text|input|source|passage)\s*\}?\}(?![\w{\"'`])"  # none of a program
    r"|^<(?:text|document)>"
    r"|\[(?:[Ii]nsert|[Pp]aste) (?:the |your )?(?:text|document|passage|article|table|answer|question)s?(?: here)?\]"
    r"|\[[Yy]our (?:text|answer|response|output|table) here\]",
    re.MULTILINE,
)


_MAY_TURN = (  # for RE2, as are the rules of `talk.txt`
    r"<\|(?:im_start|start_header_id|user|system)\|>|\[INST\]|## Instruction:"
    r"|\[(?:DOCUMENT|TEXT|INPUT|SOURCE)(?: HERE)?\]"
    r"|\{\s*(?:document|text|input|source|passage)\s*\}|<(?:text|document)>"
    r"|\[(?:insert|paste|your) "
)


class PromptWords(NamedTuple):
    """What of prompts is searched: their words, and sequences of words and short sentences by their number of words.

    Attributes:
        beginnings: the first two words of each.
        hashes: by number of words, for the lowest bits of a hash whether a sequence may have it.
    """

    words: frozenset[str]
    spans: Mapping[int, frozenset[str]]
    beginnings: frozenset[tuple[str, ...]]
    hashes: Mapping[int, NDArray[np.bool_]]


@cache
def _prompt_words(own: str) -> PromptWords:
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
    hashes = {size: _table(texts, size) for size, texts in {1: known, **spans}.items()}
    return PromptWords(known, {size: frozenset(texts) for size, texts in spans.items()}, beginnings, hashes)


def _table(texts: Iterable[str], size: int) -> NDArray[np.bool_]:
    table = np.zeros(1 << _BITS[size > 1], bool)
    table[HashedWords([hash_words(text.split(" ")) for text in texts]).ngrams(size)[0] & _lowest(table)] = True
    return table


def _lowest(table: NDArray[np.bool_]) -> np.uint64:
    return np.uint64(len(table) - 1)


def _may_echo(rows: Sequence[AuditedRow], dataset: AuditedDataset) -> Iterator[bool]:
    """Yield whether each row has words whose hash is that of words of a prompt, or matches `HINT`."""
    hashes = _prompt_words(_own_prompt(dataset)).hashes
    matches = iter(may_match([row.text for row in rows], rf"(?i){_MAY_TURN}|{expression('may instruct')}"))
    for few in slices(rows):
        texts = HashedWords([row.word_hashes for row in few])
        known = hashes[1][texts.ngrams(1)[0] & _lowest(hashes[1])]
        pairs = known[1:] & known[:-1]
        places = np.flatnonzero(pairs[2:] & pairs[:-2])
        echoes = np.zeros(len(few), bool)
        for size in set(hashes) - {1}:
            ngrams, at = texts.ngrams_at(places, size)
            echoes[texts.owners[at[hashes[size][ngrams & _lowest(hashes[size])]]]] = True
        yield from map(or_, echoes.tolist(), matches)


def _flaw(row: AuditedRow, dataset: AuditedDataset, settings: Settings) -> str | None:
    words = row.words
    prompt = _prompt_words(_own_prompt(dataset))
    for run in _RUN.finditer(bytes(map(prompt.words.__contains__, words))):
        places = range(run.start(), run.end() - _SHORT + 1)
        begun = [at for at in places if (words[at], words[at + 1]) in prompt.beginnings]
        for size, spans in prompt.spans.items() if begun else ():
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
        lower = sentence.lower().lstrip(" *_#<>[-\"'(\u201c0123456789.").replace("\u2019", "'")
        lower = _LABEL.sub("", lower.removeprefix("q: "), count=1) if lower[:1] in "ituprq" else lower
        match = next(talk("instruction", lower), None)
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
    hint=_may_echo,
    version=5,
)
