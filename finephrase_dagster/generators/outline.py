"""The structure of a text, found by rules: title, sections, sentences, definitions, lists, numbers, code.

It reads Markdown, reStructuredText and plain text alike, and any window of one: what is cut at an edge
is read as far as it goes. It does not parse these languages; it finds what can be restated.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_TAG = re.compile(r"<!--.*?(?:-->|\Z)|</?[A-Za-z][^<>]*>", re.DOTALL)
_DIRECTIVE = re.compile(r"^[ \t]*\.\. .*\n(?:[ \t]+:[\w-]+:.*\n?)*", re.MULTILINE)
_UNDERLINE = re.compile(r"([=\-~*^#+\"'.])\1{2,}")
_HEADING = re.compile(r"#{1,6}\s+(?P<title>.+?)\s*#*")
_ITEM = re.compile(r"\s{0,6}(?:[*+•-]|\d{1,2}[.)])\s+(?P<text>\S.*)")
_FIELD = re.compile(r"[ :*]{0,3}(?P<name>[A-Z][A-Za-z][\w -]{1,24}?)\*{0,2}:\*{0,2}\s+(?P<value>\S.{2,80})")
_COMMAND = re.compile(
    r"(?:\$ |>>> |% )?(?P<code>(?:pip|python|uv|conda|git|npm|import|from|def|class|with|for|print)\b.+)"
)
_DEFINITION = re.compile(
    r"(?:The |An? )?(?P<term>[\w`][\w`.\-]*(?: [\w`.\-]+){0,3}?) "
    r"(?P<verb>is|are|provides?|supports?|allows?|returns?|offers?|adds?|makes?|uses?|contains?|requires?) "
    r"(?P<rest>.+)"
)
_QUANTITY = re.compile(r"(?<![\w.,/-])(?P<number>\d{1,4})\s+(?P<noun>[a-z]{3,14}s)\b")
_WORD = re.compile(r"\b[A-Za-z][A-Za-z_]{3,20}\b")
# Words that point at something, and so define nothing.
_POINTING = """it this that these those there they you we i he she if when in for to and or but as what which
one here note please see such both all each other some any its their your our also however by with"""
# Words that say nothing of a subject.
_COMMON = """this that with from have will your which when also more most other some such than then them they
there these those their what been being into only over used using uses very each both must should does https
http html image alt href width height align center target"""
_PRONOUNS, _STOPWORDS = frozenset(_POINTING.split()), frozenset(_COMMON.split())


@dataclass(frozen=True, kw_only=True)
class Definition:
    """A sentence that says something of a term: term, verb, and the rest of the sentence."""

    term: str
    verb: str
    rest: str

    @property
    def sentence(self) -> str:
        return f"{self.term[0].upper()}{self.term[1:]} {self.verb} {self.rest}"


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number and what it counts, as the text has them."""

    number: int
    noun: str


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What was found, each in the order of the text and without repetitions.

    Attributes:
        title: the first heading, else the most frequent word.
        sections: further headings.
        sentences: whole sentences of prose, short enough to be quoted.
        definitions: of terms, with their sentences.
        items: of lists.
        fields: names with their values.
        commands: lines of code.
        quantities: numbers with their nouns.
        words: the most frequent words that say something, with their counts.
    """

    title: str
    sections: tuple[str, ...]
    sentences: tuple[str, ...]
    definitions: tuple[Definition, ...]
    items: tuple[str, ...]
    fields: tuple[tuple[str, str], ...]
    commands: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    words: tuple[tuple[str, int], ...]


def plain(text: str) -> str:
    """A line of markup as plain words on one line."""
    text = re.sub(r"\[?!\[[^\]]*\]\([^)\s]*\)?(?:\]\([^)\s]*\)?)?", " ", text)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)?|\[([^\]]+)\]\[[^\]]*\]", r"\1\2", text)
    text = re.sub(r"\[([^\[\]]+)\]_?", r"\1", text)
    text = re.sub(r":[\w:]+:`([^`<]+)(?:<[^>]*>)?`", r"\1", text)
    text = re.sub(r"`([^`<]+?)\s*<[^>`]*>`_*", r"\1", text)
    text = re.sub(r"<?https?://\S+", " ", text)
    text = re.sub(r"[*_]{2,}|(?<!\w)[*_](?=\w)|(?<=\w)[*_](?!\w)|`+_?|\\|\||&\w+;|\[[ x]\]", " ", text)
    text = re.sub(r"\s+([.,;:!?)])", r"\1", text)
    return " ".join(text.split())


def shorten(text: str, characters: int) -> str:
    """The first words of a text, ended at a word."""
    if len(text) <= characters:
        return text
    cut = text[:characters].rsplit(" ", 1)[0]
    return cut.rstrip(" ,;:.(-")


def outline(text: str) -> Outline:
    """Finds the structure of a text or of a window of one."""
    text = _TAG.sub(" ", text)
    whole, text = text, _DIRECTIVE.sub("", text)
    words = _words(text)
    if len(words) < 3:  # a window of badges and the like still names things
        words = _words(whole)
    headings, items, fields, commands, paragraphs = _blocks(text)
    sentences = _unique(sentence for paragraph in paragraphs for sentence in _sentences(paragraph))
    frequent = sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:8]
    title = headings[0] if headings else (frequent[0][0] if frequent else "the text")
    return Outline(
        title=title,
        sections=tuple(headings[1:]),
        sentences=tuple(sentences),
        definitions=tuple(_definitions([*sentences, *items])),
        items=tuple(items),
        fields=tuple(fields),
        commands=tuple(commands),
        quantities=tuple(_quantities(" ".join([*paragraphs, *items]))),
        words=tuple(frequent),
    )


def _words(text: str) -> Counter[str]:
    lines = "\n".join(plain(line) for line in text.splitlines())
    return Counter(word for word in _WORD.findall(lines) if word.lower() not in _STOPWORDS)


def _blocks(
    text: str,
) -> tuple[list[str], list[str], list[tuple[str, str]], list[str], list[str]]:
    """Sorts a text's lines into headings, list items, fields, commands and paragraphs."""
    headings: list[str] = []
    items: list[str] = []
    fields: list[tuple[str, str]] = []
    commands: list[str] = []
    paragraphs: list[str] = []
    open_block: list[str] = []  # the item or paragraph that the next line may continue
    is_item = fenced = False

    def close() -> None:
        nonlocal open_block
        joined = plain(" ".join(open_block))
        if joined:
            (items if is_item else paragraphs).append(joined)
        open_block = []

    lines = text.splitlines()
    for index, line in enumerate(lines):
        stripped = line.strip()
        following = lines[index + 1].strip() if index + 1 < len(lines) else ""
        if stripped.startswith(("```", "~~~")):
            close()
            fenced = not fenced
        elif not stripped or _UNDERLINE.fullmatch(stripped):
            close()
        elif (code := _COMMAND.fullmatch(stripped)) and (fenced or line[:1] in " \t$>%" or stripped[:4] == "pip "):
            close()
            commands.append(shorten(code["code"].replace("|", " "), 60))
        elif fenced:
            continue
        elif heading := _HEADING.fullmatch(stripped):
            close()
            headings.append(plain(heading["title"]))
        elif _UNDERLINE.fullmatch(following) and len(following) >= min(len(stripped), 4):
            close()
            headings.append(plain(stripped))
        elif item := _ITEM.fullmatch(line):
            close()
            is_item = True
            open_block = [item["text"]]
        elif not open_block and (field := _FIELD.fullmatch(stripped)):
            fields.append((plain(field["name"]), plain(field["value"])))
        else:
            if not open_block:
                is_item = False
            open_block.append(stripped)
    close()
    good_items = [item for item in items if _readable(item)]
    good_fields = [(name, value) for name, value in fields if name and _readable(value)]
    good_headings = [shorten(heading, 48) for heading in headings if _readable(heading)]
    return (
        _unique(good_headings),
        _unique(good_items),
        list(dict(good_fields).items()),
        _unique(commands),
        paragraphs,
    )


def _readable(text: str) -> bool:
    """Whether most of a text is words, not signs."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return len(text) >= 3 and letters >= 0.75 * len(text)


def _sentences(paragraph: str) -> Iterator[str]:
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph):
        if 25 <= len(sentence) <= 170 and sentence[-1:] in ".!" and sentence[:1].isalnum() and _readable(sentence):
            yield sentence


def _definitions(sentences: list[str]) -> Iterator[Definition]:
    seen = set()
    for sentence in sentences:
        match = _DEFINITION.fullmatch(sentence)
        if match is None or len(match["rest"]) < 10 or len(sentence) > 170:
            continue
        term = match["term"]
        first = term.split()[0].lower()
        if first in _PRONOUNS or term.lower() in seen or len(term) > 32 or not term[0].isalpha():
            continue
        seen.add(term.lower())
        yield Definition(term=term, verb=match["verb"], rest=match["rest"].rstrip(".!:;,"))


def _quantities(text: str) -> Iterator[Quantity]:
    seen = set()
    for match in _QUANTITY.finditer(text):
        number = int(match["number"])
        if match["noun"] not in seen and 2 <= number <= 2000:
            seen.add(match["noun"])
            yield Quantity(number=number, noun=match["noun"])


def _unique(values: Iterator[str] | list[str]) -> list[str]:
    return list(dict.fromkeys(values))
