"""Defects planted into sound text: with which precision and recall each gate of the audit finds its own, per row.

Sound completions in five forms are made of sentences and words of Python's documentation, with the passage they come
from as their source. Each defect is planted in several ways, into a stated share of the rows of a dataset of its own;
a gate is right about a row if it fails exactly the planted ones. The seed decides everything.

    python benchmarks/planted.py [--rows 1000] [--seed 0] [--gate loops]
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pydoc_data.topics import topics
from typing import Any, NamedTuple

from finephrase_dagster.audit.gate import AuditedDataset, AuditedRow
from finephrase_dagster.audit.gates import gates
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompt
from finephrase_dagster.study.turns import PLACEHOLDER

WANTED = 0.95
CHECKS: Mapping[str, Sequence[str]] = {"form": ("faq", "math", "table", "tutorial"), "arithmetic": ("math",)}
WITHOUT_MATH = (
    "invented_quantities",
    "faithfulness",
    "near_duplicates",
)  # its numbers are invented, and its problems are alike
FORMS = ("math", "faq", "table", "tutorial", "prose")
Plant = Callable[[random.Random, AuditedRow], AuditedRow]

FOREIGN = {
    "German": "Die Funktion gibt eine neue Liste zurück, in der alle Werte sortiert sind. Wenn ein Fehler auftritt, "
    "wird eine Ausnahme ausgelöst. Danach kann das Programm weiterlaufen, sofern der Aufrufer sie behandelt.",
    "French": "La fonction renvoie une nouvelle liste dans laquelle toutes les valeurs sont triées. Si une erreur se "
    "produit, une exception est levée. Ensuite le programme peut continuer, si l'appelant la traite.",
    "Spanish": "La función devuelve una lista nueva en la que todos los valores están ordenados. Si se produce un "
    "error, se lanza una excepción. Después el programa puede continuar, siempre que se trate.",
    "Russian": "Функция возвращает новый список, в котором все значения отсортированы. Если возникает ошибка, "
    "возбуждается исключение. После этого программа может продолжить работу.",
    "Chinese": "该函数返回一个新列表，其中所有值都已排序。如果发生错误，就会引发异常。"
    "之后，只要调用者处理了异常，程序就可以继续运行。",
    "Portuguese": "A função devolve uma nova lista em que todos os valores estão ordenados. Se ocorrer um erro, "
    "é lançada uma exceção. Depois disso o programa pode continuar a ser executado.",
    "Polish": "Funkcja zwraca nową listę, w której wszystkie wartości są posortowane. Jeśli wystąpi błąd, "
    "zgłaszany jest wyjątek. Następnie program może działać dalej, o ile zostanie on obsłużony.",
}
REFUSALS = (
    "I'm sorry, but I can't assist with that request.",
    "I cannot fulfill this request because the text is too technical.",
    "As an AI language model, I am not able to judge this.",
    "Unfortunately, I am unable to create a table from this document.",
    "Please provide the text that you would like me to rewrite.",
    "I apologize, but I cannot complete this task.",
    "I won\u2019t be able to summarize this document.",
    "It is not possible for me to write a tutorial about this.",
    "I must decline this request.",
    "There is no text to rewrite.",
    "The text does not contain enough information to create a table.",
    "I am not comfortable with rewriting this.",
)
BEFORE = (
    "Sure! Here is the text you asked for:\n\n", "Here is a summary of the passage:\n\n", "Certainly! ",
    "Thank you for sharing your text. ", "What a great question! ", "I'm here to help you with that.\n\n",
    "Your text is a good start. ", "Here's how I would put it:\n\n",
    "Below is the rewritten version of the text.\n\n", "Of course, here are the questions and answers:\n\n",
    "I have rewritten the article in simpler words:\n\n", "Okay, here's the tutorial:\n\n",
)  # fmt: skip
AFTER = (
    "\n\nI hope this helps!", "\n\nLet me know if you would like any changes.", "\n\nFeel free to ask more questions.",
    "\n\nIs there anything else you need?", "\n\nThe above text covers the main points of the document.",
)  # fmt: skip
INSTRUCTIONS = (
    "Rewrite the following text in simple English.",
    "Turn the passage above into a list of questions and answers.",
    "You are a helpful assistant.",
    "Respond only with the table.",
    "Please summarize the document below in three sentences.",
    "Write each answer on a new line.",
    "The table must follow the format above.",
    "Include one question with its answer in your response.",
)
MARKS = (
    *("<|im_start|>assistant\n", "<|im_end|>", "<|endoftext|>", "[INST] ", "<start_of_turn>model\n", "<end_of_turn>"),
    *("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", "[/SYSTEM_PROMPT]", "[TOOL_CALLS] [", "<eos>"),
    *(
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "[gMASK]<sop>",
        "<extra_id_0>",
        "<0x0A>",
        "<end_of_utterance>",
        "[EOS]",
    ),
)
LINES = ("### Response:\n", "### Instruction:\n", "USER: ", "Assistant: ", "<think>\nOkay.\n</think>\n", "\nmodel\n")
NAMES = ("Anna", "Omar", "Li", "Rosa", "Ivan", "Mary", "Tom", "Aiko")
SPELLED = ("thirty-one", "forty-seven", "sixty-three", "ninety-two")
STRANGERS = (
    *(
        "Eleanor Whitfield",
        "Dr. Marcus Thorne",
        "Bj\u00f6rn \u00c5kesson",
        "O'Connor",
        "\u0141ukasz Wr\u00f3bel",
        "Zanzibar",
    ),
    *("the Ottoman Empire", "Harvard University", "Ludwig van Beethoven", "Mount Kilimanjaro", "Volkswagen"),
)
DATES = ("on March 14", "on 3 April", "on the 5th of February", "on Oct. 9", "in early June 12")
THINGS = ("apples", "books", "boxes", "coins", "pages", "tickets", "bottles", "chairs")


class Passage(NamedTuple):
    """Sentences and words of one part of a document."""

    text: str
    sentences: list[str]
    words: list[str]


def main() -> None:
    """Print precision and recall per gate as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gate", choices=sorted(PLANTS))
    arguments = parser.parse_args()
    chosen = [arguments.gate] if arguments.gate else list(PLANTS)
    figures = {name: measure(name, arguments.rows, arguments.seed) for name in chosen}
    for name, figure in figures.items():
        print(f"{name}: precision {figure['precision']:.3f}, recall {figure['recall']:.3f}")
        for kind in ("missed", "false_alarms"):
            for example in figure.pop(kind)[:3]:
                print(f"    {kind}: {example}")
    reached = all(min(figure["precision"], figure["recall"]) >= WANTED for figure in figures.values())
    print(
        json.dumps(
            {"rows": arguments.rows, "seed": arguments.seed, "wanted": WANTED, "reached": reached, "gates": figures}
        )
    )


def measure(gate: str, rows: int, seed: int, share: float = 0.1) -> dict[str, Any]:
    """Plant one defect into a share of sound rows, and return with which precision and recall its gate finds them."""
    draw = random.Random(f"{gate} {seed}")
    checks: Sequence[str | None] = CHECKS.get(gate, (None,))
    planted, failing, hits = 0, 0, 0
    missed: list[str] = []
    alarms: list[str] = []
    for check in checks:
        forms = (check,) if check else FORMS[1:] if gate in WITHOUT_MATH else FORMS
        count = rows // len(checks)
        sound = [sound_row(draw, f"r{number}", draw.choice(forms), gate) for number in range(count)]
        chosen = set(draw.sample(range(count), max(round(count * (COLLAPSED if gate == "collapse" else share)), 3)))
        ways = PLANTS[gate]
        texts = [ways[number % len(ways)](draw, row) if number in chosen else row for number, row in enumerate(sound)]
        one = gates()[gate]
        measured = one.measure(
            AuditedDataset(files=[], check=check), {**one.defaults, **one.forms.get(check or "", {})}
        )
        measured.add(texts)
        measured.result()
        flaws = {number: flaw for number, row in enumerate(texts) if (flaw := measured.flaw(row)) is not None}
        planted, failing, hits = planted + len(chosen), failing + len(flaws), hits + len(chosen & set(flaws))
        missed += [
            texts[number].text[:100] + " ... " + texts[number].text[-100:] for number in sorted(chosen - set(flaws))
        ]
        alarms += [f"{flaws[number]} | {texts[number].text[:120]!r}" for number in sorted(set(flaws) - chosen)]
    return {
        "planted": planted,
        "failing": failing,
        "precision": hits / failing if failing else 0.0,
        "recall": hits / planted,
        "missed": missed,
        "false_alarms": alarms,
    }


def passages() -> list[Passage]:
    """Return the parts of Python's documentation that are prose."""
    parts = []
    for topic in sorted(topics):
        paragraphs = [" ".join(one.split()) for one in topics[topic].split("\n\n") if re.match(r"\s{0,4}[A-Z]", one)]
        for start in range(0, len(paragraphs) - 4, 5):
            text = "\n\n".join(paragraphs[start : start + 5])
            sentences = [
                one for one in re.split(r"(?<=[.!?])\s+|\n+", text) if 40 < len(one) < 260 and one[-1] in ".!?"
            ]
            words = sorted(set(re.findall(r"\b[a-z]{5,12}\b", text)))
            if len(sentences) >= 6 and len(words) >= 20:
                parts.append(Passage(text, sentences, words))
    return parts


PASSAGES = passages()
SENTENCES = sorted({sentence for passage in PASSAGES for sentence in passage.sentences})


def sound_row(draw: random.Random, id: str, form: str, gate: str) -> AuditedRow:
    """Return a completion of a form that nothing is wrong with."""
    passage = draw.choice(PASSAGES)
    # Where duplicates are planted, no two sound rows may have the same sentences; where copies are, none its source's.
    of = SENTENCES if gate == "near_duplicates" else passage.sentences
    text = MAKERS[form](draw, draw.sample(of, min(len(of), draw.randint(5, 9))), draw.sample(passage.words, 12))
    source = passage
    while gate == "copying" and not set(source.sentences).isdisjoint(passage.sentences):
        source = draw.choice(PASSAGES)
    return AuditedRow(id, text, "stop", source.text)


def faq(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return questions with answers."""
    forms = (
        "What is said about {}?",
        "How does {} matter here?",
        "Why is there {}?",
        "When does {} apply?",
        "Who needs {}?",
    )
    pairs = zip(draw.sample(forms, min(len(forms), len(sentences))), terms, sentences, strict=False)
    return "\n\n".join(f"Q: {form.format(term)}\nA: {sentence}" for form, term, sentence in pairs)


def math(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return a word problem with a right solution."""
    a, b, c, thing, name = (
        draw.randint(2, 60),
        draw.randint(2, 40),
        draw.randint(2, 9),
        draw.choice(THINGS),
        draw.choice(NAMES),
    )
    sign, dollar = draw.choice(("\u00d7", "*", "x")), draw.choice(("", "$"))
    total = a + b
    steps = draw.choice(
        (
            f"{name} has {a} + {b} = {total} {thing}.\nThey cost {total} {sign} {dollar}{c} = {dollar}{total * c:,}.",
            f"1. {a} {thing} + {b} {thing} = {total} {thing}\n2. {dollar}{c} {sign} {total} = {dollar}{total * c:,}",
            f"The sum of {a} and {b} is {total}. Then {total} times {c} is {total * c}.",
            f"First, {a} plus {b} equals {total}. Each costs {dollar}{c}, so {c} {sign} {total} = {dollar}{total * c}.",
        )
    )
    return (
        f"Problem: {name} reads about the {terms[0]} and counts {a} {thing}, then {b} more {thing}. "
        f"Each costs {dollar}{c}. How much do all {thing} cost?\n\nSolution:\n{steps}\n\nAnswer: {dollar}{total * c:,}"
    )


def table(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return a Markdown table with a question and its answer."""
    rows = [
        f"| {term} | {' '.join(sentence.rstrip('.').replace('|', '/').split()[:8])} |"
        for term, sentence in zip(terms, sentences, strict=False)
    ]
    return "\n".join(
        ["| Term | Fact |", "|---|---|", *rows, "", f"Q: What is the fact about {terms[0]}?", f"A: {sentences[0]}"]
    )


def tutorial(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return a heading with numbered steps."""
    return "\n".join(
        [f"# Work with the {terms[0]}", "", *(f"{n}. {sentence}" for n, sentence in enumerate(sentences, 1))]
    )


def prose(draw: random.Random, sentences: Sequence[str], terms: Sequence[str]) -> str:
    """Return paragraphs."""
    half = len(sentences) // 2
    return f"{' '.join(sentences[:half])}\n\n{' '.join(sentences[half:])}"


MAKERS: Mapping[str, Callable[[random.Random, Sequence[str], Sequence[str]], str]] = {
    "faq": faq, "math": math, "table": table, "tutorial": tutorial, "prose": prose,
}  # fmt: skip


def text_of(make: Callable[[random.Random, AuditedRow], str]) -> Plant:
    """Return a way to plant a defect that changes the text only."""
    return lambda draw, row: replace(row, text=make(draw, row))


def foreign(draw: random.Random) -> str:
    """Return a text in another language than English."""
    return draw.choice(list(FOREIGN.values()))


def last_sentence(row: AuditedRow) -> str:
    """Return the last sentence of a row that has several words."""
    return next(
        (one for one in reversed(row.sentences) if one.count(" ") > 4), "It is said that the list has no end at all."
    )


def numbered(row: AuditedRow, count: int) -> str:
    """Return a row whose last sentence goes on as the items of a list."""
    return row.text + "".join(f"\n{number}. {last_sentence(row)}" for number in range(1, count + 1))


def words_of(row: AuditedRow, count: int) -> str:
    """Return some words of a row in a row."""
    return " ".join(row.words[5 : 5 + count])


def wrong_number(draw: random.Random, row: AuditedRow) -> str:
    """Change the result of one statement of a row."""
    results = list(re.finditer(r"(?:= | is |equals )(\$?\d(?:[\d,]*\d)?)", row.text))
    chosen = draw.choice(results)
    value = int(re.sub(r"\D", "", chosen[1]))
    wrong = draw.choice((value + 1, value + 10, value * 2 + 1, max(value - 3, 0)))
    shown = f"{'$' if '$' in chosen[1] else ''}{wrong:,}"
    return row.text[: chosen.start(1)] + shown + row.text[chosen.end(1) :]


TEMPLATES = [
    read_prompt(path).template.replace(PLACEHOLDER, "").strip()
    for path in sorted((SHIPPED / "prompts").glob("[!R]*.md"))
]


def broken(draw: random.Random, row: AuditedRow) -> str:
    """Break the form of a completion."""
    lines = row.text.split("\n")
    tables = [n for n, line in enumerate(lines) if line.startswith("|")]
    if row.text.startswith("|"):
        place = draw.choice(tables[2:])
        return draw.choice(
            (
                "\n".join([*lines[:place], lines[place].rsplit("|", 2)[0] + "|", *lines[place + 1 :]][: max(tables)]),
                "\n".join([*lines[:place], lines[place] + " more |", *lines[place + 1 :]]),
                "\n".join(line for n, line in enumerate(lines) if n != 1),
                "\n".join(lines[: max(tables) + 1]),
                row.text.replace("|", " "),
                "\n".join(lines[:-1]),
                row.text[: row.text.index(lines[place]) + 6],
            )
        )
    if row.text.startswith("Q:"):
        return draw.choice(
            (
                row.text.replace("A:", "", 1),
                row.text.rsplit("A:", 1)[0],
                row.text.replace("Q:", "-"),
                "Intro.\n" + row.text,
            )
        )
    if row.text.startswith("Problem"):
        return draw.choice(
            (row.text.split("Answer:")[0], row.text.replace("Solution:", ""), row.text.replace("Problem:", ""))
        )
    if row.text.startswith("#"):
        return draw.choice(
            (
                row.text.split("\n", 2)[2],
                re.sub(r"^\d+\. ", "", row.text, flags=re.M),
                row.text.replace("2. ", "5. ", 1),
            )
        )
    return "- \n***"


def edited(draw: random.Random, text: str, every: int) -> str:
    """Return a text with one in so many words replaced."""
    return " ".join(
        draw.choice(("thing", "value", "part")) if n % every == every - 1 else word
        for n, word in enumerate(text.split(" "))
    )


COLLAPSED = 0.115
COPIED = PASSAGES[7]
PLANTS: Mapping[str, Sequence[Plant]] = {
    "loops": [
        text_of(lambda draw, row: row.text + " " + " ".join([last_sentence(row)] * draw.randint(3, 12))),
        text_of(lambda draw, row: row.text + "\n" + "\n".join([last_sentence(row)] * draw.randint(3, 12))),
        text_of(lambda draw, row: row.text + "\n\n" + "\n\n".join(row.lines[-2:] * draw.randint(4, 8))),
        text_of(lambda draw, row: row.text + f" and {words_of(row, draw.randint(2, 9))}" * draw.randint(4, 20)),
        text_of(lambda draw, row: row.text + f" {draw.choice(row.words)}" * draw.randint(8, 90)),
        text_of(lambda draw, row: numbered(row, draw.randint(4, 9))),
        text_of(lambda draw, row: row.text[:80] + draw.choice(("\n..\n", "\n::", "\nQ:\n")) * draw.randint(10, 60)),
    ],
    "arithmetic": [text_of(wrong_number)],
    "prompt_echo": [
        text_of(lambda draw, row: f"{draw.choice(TEMPLATES)}\n\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n\n{draw.choice(TEMPLATES).rsplit('. ', 1)[-1]}"),
        text_of(lambda draw, row: f"{draw.choice(TEMPLATES).split('. ')[0]}.\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n{draw.choice(INSTRUCTIONS)}"),
        text_of(lambda draw, row: f"{draw.choice(INSTRUCTIONS)}\n\n{row.text}"),
    ],
    "announcements": [
        text_of(lambda draw, row: draw.choice(BEFORE) + row.text),
        text_of(lambda draw, row: row.text + draw.choice(AFTER)),
    ],
    "refusals": [
        text_of(lambda draw, row: draw.choice(REFUSALS)),
        text_of(lambda draw, row: f"{draw.choice(REFUSALS)}\n\n{row.text}"),
    ],
    "chat_markup": [
        text_of(lambda draw, row: draw.choice(MARKS) + row.text),
        text_of(lambda draw, row: row.text + draw.choice((*MARKS, "</s>"))),
        text_of(lambda draw, row: row.text.replace(". ", f". {draw.choice(MARKS)}", 1) + draw.choice(MARKS)),
        text_of(lambda draw, row: f"{row.text}\n{draw.choice(LINES)}It goes on."),
        text_of(lambda draw, row: f"{row.text}\nassistant\nIt goes on."),
    ],
    "encoding": [
        text_of(lambda draw, row: row.text + " It\u2019s a caf\u00e9".encode().decode("cp1252")),
        text_of(lambda draw, row: row.text.replace("e", "\ufffd", 1)),
        text_of(lambda draw, row: row.text + draw.choice("\x00\x07\x1b\x7f")),
        text_of(lambda draw, row: FOREIGN["Russian"].encode().decode("latin-1") + row.text),
    ],
    "other_script": [
        text_of(lambda draw, row: row.text.replace(" ", draw.choice((" 模型 ", " модель ", " نموذج ", " モデル ")), 1)),
        text_of(lambda draw, row: row.text + " " + FOREIGN["Chinese"]),
    ],
    "language": [
        text_of(lambda draw, row: foreign(draw)),
        text_of(lambda draw, row: "\n".join(f"{n}. {one}" for n, one in enumerate(foreign(draw).split(". "), 1))),
        text_of(lambda draw, row: f"Q: ?\nA: {foreign(draw)}"),
    ],
    "length": [
        text_of(lambda draw, row: " ".join(row.words[: draw.randint(1, 6)])),
        text_of(lambda draw, row: "\n".join(draw.choice(PASSAGES).text for _ in range(60))),
    ],
    "empty_parts": [
        text_of(lambda draw, row: f"{row.text}\n\n- {words_of(row, 3)}\n- \n- {words_of(row, 4)}"),
        text_of(lambda draw, row: f"{row.text}\n\n## Further reading"),
        text_of(lambda draw, row: f"{row.text}\n\n| A | B |\n|---|---|\n| 1 | |\n| | 2 |\n| | |"),
        text_of(lambda draw, row: f"{row.text}\n\n1. {words_of(row, 3)}\n2.\n3.\n4."),
    ],
    "empty": [text_of(lambda draw, row: ""), text_of(lambda draw, row: " \n\t\n")],
    "truncated": [lambda draw, row: replace(row, finish_reason="length", text=row.text[: len(row.text) // 2])],
    "form": [text_of(broken)],
    "collapse": [
        text_of(lambda draw, row: f"The following {draw.randint(2, 99)} pages explain how it works. {row.text}")
    ],
    "near_duplicates": [
        text_of(lambda draw, row: edited(draw, COPIED.text, 12)),
        text_of(lambda draw, row: COPIED.text),
        text_of(lambda draw, row: COPIED.text.split(". ", 1)[1]),
    ],
    "copying": [
        text_of(lambda draw, row: str(row.source_text)),
        text_of(lambda draw, row: "# Copy\n\n" + edited(draw, str(row.source_text), 25)),
    ],
    "invented_quantities": [
        text_of(lambda draw, row: f"{row.text} It took {draw.randint(31, 97)} years and {draw.randint(300, 900)} men."),
        text_of(lambda draw, row: f"{row.text} About {draw.randint(11, 89)}% of all programs need it."),
        text_of(lambda draw, row: f"In {draw.randint(1850, 1985)} it cost ${draw.randint(1200, 9000):,}. {row.text}"),
        text_of(lambda draw, row: f"{row.text} It was {draw.choice(SPELLED)} times faster."),
        text_of(lambda draw, row: f"{row.text} Between {draw.randint(31, 60)} and {draw.randint(61, 97)} people came."),
        text_of(lambda draw, row: f"{row.text} It weighs {draw.randint(31, 97)}.{draw.randint(3, 8)} kg."),
        text_of(lambda draw, row: f"{row.text} It cost {draw.choice(SPELLED)} million euros."),
    ],
    "faithfulness": [
        text_of(lambda draw, row: f"{row.text} It was written by {draw.choice(STRANGERS)} long ago."),
        text_of(lambda draw, row: f"{row.text}\n\nAccording to {draw.choice(STRANGERS)}, it is good."),
        text_of(lambda draw, row: f"{row.text} It appeared {draw.choice(DATES)}."),
    ],
}  # fmt: skip

if __name__ == "__main__":
    main()
