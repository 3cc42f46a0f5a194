"""Calculations in English words, such as "seven times eight is fifty-six" or "adding 3 to 4 gives 7", in signs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finephrase_dagster.corpora.quantities import NUMBER_WORDS, in_words, listed

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+"
WORD = r"[A-Za-z\u00b5\u00b0]{2,}|[mglLshk\u00b0](?![A-Za-z])"
_IS = (
    r"(?:is equal to|equals|is|(?:gives|leaves)(?: you| us| each)?|makes?|yields|comes? to|adds? up to|results in"
    r"|(?:to|we|you) get|the result is|=)"
)
_MAKES = r"(?:adds? up to|makes?|sums? to|totals?)"
_NUMBER_END = rf"(?<=[\d)%])((?: (?:{WORD})){{0,2}})"
_UNITS = rf"(?: ?%| (?:{WORD})){{0,2}}"
_TWO = rf"({NUMBER}){_UNITS} and ({NUMBER}){_UNITS}"
_ONE = rf"(?:{NUMBER}){_UNITS}"
_SEVERAL = rf"{_ONE}(?:, {_ONE})*,? and {_ONE}"
_PHRASES = [
    (
        re.compile(rf"\b{words},? (?:(?:which|we|you|i) )?{_IS} (?=[$\u20ac\u00a3]?\d)", re.IGNORECASE),
        rf"{calculation} = ",
    )
    for words, calculation in (
        (rf"sum of {_TWO}", r"\1 + \2"),
        (rf"product of {_TWO}", r"\1 * \2"),
        (rf"difference (?:of|between) {_TWO}", r"\1 - \2"),
        (rf"quotient of {_TWO}", r"\1 / \2"),
        (rf"add(?:ing|s|ed)? ({NUMBER}){_UNITS} (?:to|and) (?:the )?({NUMBER}){_UNITS}", r"\2 + \1"),
        (
            rf"(?:subtract|deduct|tak)(?:ing|s|ed|e)? ({NUMBER}){_UNITS} (?:away )?from (?:the )?({NUMBER}){_UNITS}",
            r"\2 - \1",
        ),
        (rf"multipl(?:ying|ied|y|ies) ({NUMBER}){_UNITS} (?:by|with|and) ({NUMBER}){_UNITS}", r"\1 * \2"),
        (rf"divid(?:ing|ed|es?) ({NUMBER}){_UNITS} by ({NUMBER}){_UNITS}", r"\1 / \2"),
        (rf"(?:twice|doubling|double) ({NUMBER}){_UNITS}", r"2 * \1"),
        (rf"({NUMBER}){_UNITS} less ({NUMBER}){_UNITS}", r"\1 - \2"),
        (rf"({NUMBER}){_UNITS} (?:more|greater) than ({NUMBER}){_UNITS}", r"\2 + \1"),
        (rf"({NUMBER}){_UNITS} (?:fewer|less) than ({NUMBER}){_UNITS}", r"\2 - \1"),
        (
            rf"({NUMBER}){_UNITS} (?:divided|shared|split)(?: (?:equally|evenly))?"
            rf" (?:by|among|between|into|over|across) ({NUMBER}){_UNITS}",
            r"\1 / \2",
        ),
        (rf"({NUMBER}){_UNITS} out of ({NUMBER}){_UNITS}", r"\1 / \2"),
        (rf"({NUMBER}){_UNITS} (?:increased|raised) by ({NUMBER}) ?%", r"\1 * (100 + \2) / 100"),
        (rf"({NUMBER}){_UNITS} (?:decreased|reduced|lowered) by ({NUMBER}) ?%", r"\1 * (100 - \2) / 100"),
        (rf"({NUMBER}) ?% (?:discount|tip|tax|fee|commission|interest|deposit) on ({NUMBER}){_UNITS}", r"\1% * \2"),
        (rf"({NUMBER}){_UNITS} (?:increased|raised) by ({NUMBER})", r"\1 + \2"),
        (rf"({NUMBER}){_UNITS} (?:decreased|reduced|lowered) by ({NUMBER})", r"\1 - \2"),
        (rf"({NUMBER}){_UNITS} doubled", r"\1 * 2"),
        (rf"({NUMBER}){_UNITS} tripled", r"\1 * 3"),
        (rf"square of ({NUMBER})", r"\1^2"),
        (rf"({NUMBER}) squared", r"\1^2"),
        (rf"cube of ({NUMBER})", r"\1^3"),
        (rf"({NUMBER}) cubed", r"\1^3"),
    )
]
_REMAINING = re.compile(  # "take 3 from 10, and 7 remain"
    rf"\b(?:subtract|deduct|tak)(?:ing|e)? ({NUMBER}){_UNITS} (?:away )?from (?:the )?({NUMBER}){_UNITS},? and"
    rf" (?=({NUMBER}){_UNITS} (?:remain|(?:is|are) left))",
    re.IGNORECASE,
)
_LIST = re.compile(rf"\b(sum|total|average|mean|product) of ({_SEVERAL}),? {_IS} (?=[$\u20ac\u00a3]?\d)", re.IGNORECASE)
_MADE = re.compile(rf"(?:\A *|(?<=[.:;] ))({_SEVERAL}) {_MAKES} (?=[$\u20ac\u00a3]?\d)", re.IGNORECASE)
_IS_PERCENT = re.compile(rf"(?<![\d.,%=+*/-] )(?<![\d.,%])({NUMBER}){_UNITS} (?:is|equals) (?=(?:{NUMBER})% \* \d)")
_IS_DONE = re.compile(
    r"(?<=[\w%]) (?:is|are)(?= (?:multiplied|divided|added|shared|split|increased|decreased|reduced) )"
)
_OPERATOR_WORDS = [
    (re.compile(rf"{_NUMBER_END} (?:{words}) (?=[(\d])", re.IGNORECASE), rf"\1 {sign} ")
    for words, sign in (("plus|added to", "+"), ("minus", "-"), ("times|multiplied by", "*"), ("divided by", "/"))
]
_EQUALS_WORDS = re.compile(
    rf"((?:{NUMBER})[^=\n.;:?!]{{0,40}}? ?[-+*/] ?[^=\n.;:?!]{{0,30}}?[\d)%](?:"
    rf" (?:{WORD})){{0,2}}?),? (?:which )?{_IS} (?=\d)",
    re.IGNORECASE,
)
_BEGINNINGS = tuple(
    beginning.replace("_", " ")
    for beginning in listed(
        "sum_of product_of difference_of difference_between quotient_of average_of mean_of total_of square_of cube_of"
        " add adds added adding subtract subtracting deduct deducting take taking multiply multiplying multiplied"
        " divide divided dividing twice double doubling"
    )
)
_LONGEST = max(map(len, _BEGINNINGS))
_DIGIT = re.compile(r" \d")
_NUMBERS = frozenset({*NUMBER_WORDS, "zero", "one"})
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_COUNTS = {"one": 1, "a": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_OF = r" of (?:the )?"
_NUMBER = rf"(?:\d|(?:{'|'.join(sorted(_NUMBERS))})\b)"
_PART = re.compile(
    rf"\b(?:({'|'.join(_COUNTS)})[ -])?({'|'.join(_PARTS)})s?{_OF}(?={_NUMBER})",
    re.IGNORECASE,
)
_OPERATIONS = (
    "(?:plus|minus|times|multiplied by|divided by|added to|less|(?:more|greater|less|fewer) than|per ?cent of|out of"
    "|(?:divided|shared|split) (?:equally |evenly )?(?:by|among|between|into|over|across)"
    "|(?:increased|decreased|raised|reduced|lowered) by|squared|cubed|doubled|tripled)"
)
_SUM = re.compile(
    rf"(?:[a-z\d%] {_OPERATIONS} (?:{_NUMBER}|(?:is|equals) )|\b(?:{'|'.join(_BEGINNINGS)}) {_NUMBER}"
    rf"| and {_NUMBER})[^.\n]* (?:is|equals|{_MAKES}|gives|leaves|remain|comes to) ",
    re.IGNORECASE,
)
_SIGNS = tuple(
    word.replace("_", " ")
    for word in listed(
        "_plus_ _minus_ _times_ _multiplied_ _divided_ _added_to_ _less_ _fewer_ _more_than_ _greater_than_"
        " percent_of per_cent_of _out_of_ _shared_ _split_ creased_by_ raised_by_ reduced_by_ lowered_by_"
        " _squared _cubed _doubled _tripled _make_"
        " _makes_ _up_to_ sum_ _total ubtract educt aking_ dding_ ultiply ividing_ oubling_ wice_ ouble_ dd_ ake_"
        " product_of difference_of difference_between quotient_of average_of mean_of square_of cube_of"
    )
)  # parts of words of which each calculation in words has one
CANDIDATE = rf"(?: [^\W\d]+){{0,3}} {_OPERATIONS} (?=\d|is|equals)|[^\n.=]{{0,60}}? {_MAKES} \d"
"""What follows the first digit of most calculations in words."""
HINT = (
    rf"(?i)(?:half|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?){_OF}{_NUMBER}"
    rf"|[a-z0-9%] {_OPERATIONS} (?:{_NUMBER}|(?:is|equals) )|{_MAKES} (?:[$]?{_NUMBER})"
    rf"|(?:{'|'.join(_BEGINNINGS)}) {_NUMBER}"
)
"""A pattern for RE2 that matches every text with such a calculation."""
_PARTS_OF = tuple(f"{part[1:]}{plural} of " for part in _PARTS for plural in ("", "s"))
_LETTERS = re.compile("[a-z]+")


def in_figures(text: str) -> str:
    """Return a text in which calculations are written in digits; others of its numbers stay as they are."""
    if any(part in text for part in _PARTS_OF):
        text = _PART.sub(lambda match: f"{_COUNTS[(match[1] or 'one').lower()]}/{_PARTS[match[2].lower()]} of ", text)
    if any(sign in text for sign in _SIGNS) and not _NUMBERS.isdisjoint(_LETTERS.findall(text.lower())):
        text = "\n".join(map(_figures, text.split("\n")))
    return text


def phrases(text: str) -> Iterator[tuple[int, int]]:
    """Yield the places of numbers before which a calculation in words begins, such as "adding 3 to 4"."""
    for match in _DIGIT.finditer(text):
        if text[max(match.start() - _LONGEST, 0) : match.start()].lower().endswith(_BEGINNINGS):
            yield match.span()


def with_signs(line: str) -> str:
    """Return a line with signs in place of the words of its calculations."""
    line = _REMAINING.sub(r"\2 - \1 = ", line)
    line = _LIST.sub(_calculation, line)
    line = _MADE.sub(lambda match: f"{' + '.join(_numbers(match[1]))} = ", line)
    line = _IS_DONE.sub("", _IS_PERCENT.sub(r"\1 = ", line))
    for pattern, sign in (*_PHRASES, *_OPERATOR_WORDS):
        line = pattern.sub(sign, line)
    return _EQUALS_WORDS.sub(r"\1 = ", line)


def _calculation(match: re.Match[str]) -> str:
    """Return the sum, product or mean of a list of numbers in signs."""
    values = _numbers(match[2])
    if match[1].lower() == "product":
        return f"{' * '.join(values)} = "
    total = " + ".join(values)
    return f"({total}) / {len(values)} = " if match[1].lower() in ("average", "mean") else f"{total} = "


def _numbers(text: str) -> list[str]:
    return re.findall(NUMBER, text)


def _figures(line: str) -> str:
    if not any(sign in line for sign in _SIGNS) or not _SUM.search(line):
        return line
    spelled = list(in_words(line, _NUMBERS.intersection(_LETTERS.findall(line.lower()))))
    for number in reversed(spelled):
        line = f"{line[: number.start]}{number.values[0]:.12g}{line[number.end :]}"
    return line
