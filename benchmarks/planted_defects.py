"""Ways to plant each defect into a sound row; `planted.py` says what they are for."""

# ruff: noqa: E501 - a way to plant a defect is one line

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from planted_sums import KINDS, spelled, statement
from planted_texts import DOCUMENTATION, PASSAGES

from finephrase_dagster.audit.gate import AuditedRow
from finephrase_dagster.study.paths import SHIPPED
from finephrase_dagster.study.prompt import read_prompt
from finephrase_dagster.study.turns import PLACEHOLDER

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


def lines_of(text: str) -> list[str]:
    """Return the lines of a text."""
    return [line.strip() for line in text.strip().splitlines()]


REFUSALS = lines_of(
    """
    I'm sorry, but I can't assist with that request.
    I cannot fulfill this request because the text is too technical.
    As an AI language model, I am not able to judge this.
    Unfortunately, I am unable to create a table from this document.
    Please provide the text that you would like me to rewrite.
    I apologize, but I cannot complete this task.
    I apologize, but the provided text is too short for me to write a tutorial.
    I won’t be able to summarize this document.
    It is not possible for me to write a tutorial about this.
    I must decline this request.
    There is no text to rewrite.
    The text does not contain enough information to create a table.
    I am not comfortable with rewriting this.
    I'm sorry, but I can't help with that.
    I am sorry, I cannot do this.
    Sorry, I can't create that content.
    I can't assist with this request.
    I cannot provide a table for this text.
    I'm unable to process this document.
    I am unable to generate a FAQ from this text.
    I'm not able to help with that.
    I won't be able to do that.
    As a language model, I cannot access external links.
    As an AI, I don't have opinions.
    As an AI assistant, I can't browse the internet.
    I'm just an AI and cannot verify this.
    I don't have access to the document.
    I do not have enough information to answer.
    I don't have enough context to write a tutorial.
    Unfortunately, I can't fulfill this request.
    Unfortunately, the text does not contain enough information.
    I must refuse this request.
    I have to decline.
    I'm afraid I can't do that.
    I regret to inform you that I cannot complete this task.
    It's not possible to create a table from this text.
    It is impossible for me to rewrite this.
    This request violates my guidelines.
    That goes against my programming.
    My guidelines do not allow me to do this.
    I'm not comfortable writing about this.
    This content is inappropriate, so I cannot continue.
    I cannot in good conscience rewrite this text.
    Please provide the text you want me to summarize.
    Could you please share the document?
    Can you provide more details?
    Please paste the passage here.
    You haven't provided any text.
    You did not include a document.
    It seems that you forgot to attach the text.
    It looks like there is no text in your message.
    There is no document to rewrite.
    No text was provided.
    The document is empty.
    The passage is too short to make a table.
    The text does not provide any information about this.
    I need more information to complete the task.
    I need the text in order to rewrite it.
    I would need to see the document first.
    I apologize, but I can't rewrite copyrighted text.
    Apologies, but I am not able to generate that.
    I cannot comply with this.
    I'm sorry, I didn't understand your request.
    I'm very sorry, but I'm not able to complete this request.
    Sorry, but I can't write that.
    I can't do that.
    I can't rewrite this text.
    I am not able to access the document you mention.
    I cannot see any text in your message.
    I do not have the ability to read files.
    I'm only a language model, so I can't check facts.
    As an artificial intelligence, I cannot give medical advice.
    Unfortunately I cannot find any information to turn into a table.
    I apologize, however I cannot provide that.
    It would be inappropriate for me to write this.
    I must respectfully decline.
    I will not write this content.
    I refuse to answer this.
    Please send me the text.
    Please provide me with the article you would like summarized.
    Where is the text you want me to rewrite?
    What text would you like me to rewrite?
    I did not receive any document.
    You have not given me any text.
    There doesn't appear to be any text here.
    The provided text is not sufficient to write a tutorial.
    I don't see any passage to summarize.
    I can't find a question in the text.
    I'm sorry, but there is not enough information in the text.
    This is beyond my capabilities.
    I am not allowed to discuss this topic.
    I'm unable to see images or links.
    Could you give me the passage again?
    I'm sorry, but that's not something I can do.
    I cannot answer this question.
    Sorry, I am unable to help.
    I can't give you that information.
    I won't write that.
    I'm not sure what you want me to do.
    I don't know how to answer this.
    As an AI model, I cannot create this.
    Unfortunately, there is no text to work with.
    I'm afraid there is nothing to rewrite here.
    The text you provided is empty.
    Could you provide the passage, please?
    Please give me a text to rewrite.
    I was not given any text.
    I have no access to the document.
    I lack the information to write this.
    No information is given in the text.
    It is against my policy to do this.
    I'm not permitted to produce such content.
    I couldn't find any facts in the document.
    """
)
BEFORE = lines_of(
    """
    Sure! Here is the text you asked for:
    Here is a summary of the passage:
    Certainly!
    Thank you for sharing your text.
    What a great question!
    I'm here to help you with that.
    Your text is a good start.
    Here's how I would put it:
    Below is the rewritten version of the text.
    Of course, here are the questions and answers:
    I have rewritten the article in simpler words:
    Okay, here's the tutorial:
    Sure, here's the rewritten text:
    Sure! I'd be happy to help you with that.
    Here you go:
    Here's a table summarizing the key facts:
    Here are some questions and answers based on the passage:
    Absolutely! Below you'll find the FAQ.
    As requested, I have turned the document into a tutorial.
    As requested, here is the table:
    Below is the table you requested.
    The following is a summary of the document:
    This is a rewritten version of the text in simpler language.
    Based on the provided text, here are five questions:
    I've created a table based on the text above.
    Let me rewrite that for you.
    Let me help you with that.
    I will now rewrite the text.
    I'd love to help!
    Great! Let's turn this into a tutorial.
    Okay, let's get started.
    Happy to help! Here is your tutorial.
    Hello! I can help you with that.
    Hi! Here is the table.
    Thanks for sharing this text.
    Thank you for the text. Here's my version:
    Of course. I'll convert this into a list of questions.
    Certainly, I can do that for you.
    No problem, here is the solution:
    Got it. Here's the rephrased version:
    In response to your request, I have prepared a list.
    To answer your question, lists hold values.
    Here is my attempt at rewriting the passage:
    Here's what I came up with:
    Here's the output:
    Output:
    Rewritten text:
    Here is the requested table:
    I hope you are well. Here is the table.
    The rewritten passage is as follows:
    Here are the key points from the text:
    Based on your document, I generated the following FAQ:
    You asked for a tutorial, so here it is.
    Understood. Here's the FAQ:
    My answer is below.
    Please find below the rewritten text.
    Please find the table below:
    Alright, here we go!
    Here's a possible rewrite of the text:
    I have carefully read the document and prepared a word problem.
    Here's how I'd turn this into a tutorial:
    As an editor, I rewrote the passage for clarity.
    Sure thing! Here's a simplified version.
    Yes, of course! Here are the questions.
    Certainly! Below is a set of questions and answers derived from the text.
    Here is a math word problem based on the information in the passage:
    Here's your tutorial!
    The table below was made from the text you gave me.
    Thank you for providing the passage.
    I've gone through the text and pulled out the key facts:
    Great question! Let me explain.
    I understand. You want a table of facts.
    In this response, I will turn the text into a tutorial.
    Here is the tutorial you wanted:
    Okay! Here is my rewrite.
    This is my rewritten version:
    Below are ten questions with answers.
    As an AI language model, I have created the following table.
    I'm glad you asked!
    Welcome! In this answer I'll summarize the text.
    What follows is a paraphrase of the article.
    Right, here is the rewritten article:
    Here's one way to rephrase the paragraph:
    Absolutely! I can certainly help you with this.
    I'd be glad to rewrite this for you.
    The answer to your question is as follows:
    Here are 5 FAQs about the topic:
    The following FAQ was generated from the text:
    Based on the information provided, I created this table:
    Let's create a word problem from the text.
    Perfect! Here is the list.
    Sure — here's a clean version:
    Sure! Below is a clear and simple FAQ.
    Of course — here's a table with the main facts.
    I've turned the passage into a short tutorial for you.
    Here are three questions with answers drawn from the document.
    Thanks! Here's the word problem.
    Here's a revised paragraph that is easier to read:
    Let me give you a quick summary first.
    I can help with that. The following table lists the facts.
    Great, I'll write the FAQ now.
    Here is the content in the format you asked for:
    My rewritten version of the article:
    The following is my attempt at a tutorial.
    Hello there, here's the solution to your task.
    I'd be more than happy to rephrase this passage.
    This is the tutorial based on the document:
    Below you can find the word problem.
    Okay, I will now create the table.
    As instructed, I only used facts from the text.
    Certainly! I have simplified the document as follows:
    Based on the article above, the following questions can be asked:
    """
)
AFTER = lines_of(
    """
    I hope this helps!
    Let me know if you would like any changes.
    Feel free to ask more questions.
    Is there anything else you need?
    The above text covers the main points of the document.
    Hope that helps.
    Let me know if you need anything else.
    Let me know what you think!
    Please let me know if you'd like me to make any changes.
    Feel free to ask if you have any questions.
    If you have any other questions, feel free to ask!
    If you need further clarification, just ask.
    If you'd like, I can make it shorter.
    Would you like me to add more questions?
    Do you want me to continue?
    Is there anything else I can help you with?
    I can also provide a shorter version if needed.
    Note: I have kept the original meaning of the text.
    Note that this summary is based on the provided text.
    This table summarizes the main points of the text.
    Thank you for your request!
    Thanks for reading!
    Happy coding!
    Good luck with your project!
    Please note that I made some assumptions.
    I've tried to keep it simple and clear.
    I hope you find this useful.
    Is this what you were looking for?
    Does this help?
    You're welcome!
    Enjoy!
    Just let me know and I will revise it.
    I'd be glad to help with other texts.
    This rewrite keeps all facts of the original document.
    The questions above cover the main ideas of the passage.
    Feel free to adapt it to your needs.
    Don't hesitate to reach out if you have questions.
    I remain at your disposal for further questions.
    Please rate my answer.
    That's it! I hope you enjoyed this tutorial.
    (Note: The answers are based on the given document.)
    I have followed your instructions and used only facts from the text.
    Have a great day!
    Can I help you with anything else?
    I hope that answers your questions!
    Hope you find it helpful!
    Please feel free to ask for changes.
    Let me know if this works for you.
    If anything is unclear, let me know.
    If you need any other help, please ask.
    I can rewrite it again if you like.
    Do you need anything else?
    Would you like a shorter version?
    Please let me know whether I should continue.
    I hope this tutorial was helpful.
    Thank you for using our service.
    Note: This is a simplified version of the original text.
    Note: The numbers were taken from the given passage.
    This summary covers the main points of the article.
    I've included all the facts from the text.
    Is there something else you would like me to do?
    I tried to keep the tone of the original.
    Best regards, your assistant
    Happy to help further!
    That concludes the tutorial. Let me know your thoughts!
    Feel free to use it as you wish.
    I look forward to your feedback.
    I made sure to keep all the numbers.
    Anything else I can do for you?
    I hope this tutorial helps you!
    Let me know if any part needs work.
    If you would like more questions, just tell me.
    I can add more rows to the table if you want.
    Please tell me if you need a longer version.
    Was this helpful?
    I used only information from the passage.
    Note that I left out some details of the original.
    Hope this makes sense!
    Thank you for your attention.
    I'm here if you need more help.
    Should I continue with the next section?
    These questions cover the whole document.
    I hope the table meets your expectations.
    Feel free to let me know if you want changes.
    Wishing you success with your studies!
    Have fun learning!
    Do let me know how it goes.
    This is just one way to rewrite the text.
    This word problem captures the key points of the text above.
    If this isn't what you wanted, tell me.
    """
)
INSTRUCTIONS = (
    "Rewrite the following text in simple English.",
    "Turn the passage above into a list of questions and answers.",
    "You are a helpful assistant.",
    "Respond only with the table.",
    "Please summarize the document below in three sentences.",
    "Write each answer on a new line.",
    "The table must follow the format above.",
    "Include one question with its answer in your response.",
    "The user wants me to create a summary from the text above.",
    "Make sure that your answer is a table without explanations.",
    "We are asked to produce a tutorial from the passage.",
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
        "<|eom_id|>",
        "<|begin_of_text|>",
        "<|python_tag|>",
        "<|im_sep|>",
        "<|fim_prefix|>",
        "<|vision_start|>",
        "<start_of_turn>user\n",
        "<<SYS>>",
        "<tool_call>",
        "<|assistant|>",
        "<bos>",
        "</think>",
        "<|im_start|>",
        "<|start_header_id|>user<|end_header_id|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|reserved_special_token_0|>",
    ),
)
LINES = ("### Response:\n", "### Instruction:\n", "USER: ", "Assistant: ", "<think>\nOkay.\n</think>\n", "\nmodel\n")
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
PEOPLE = (
    *(
        "Margaret Okafor",
        "Dr. Henrik Sorensen",
        "Priya Raghunathan",
        "Winston Churchill",
        "Marie Curie",
        "Tobias Kessler",
    ),
    *("Professor Lindqvist", "Jean-Luc Moreau", "Hiroshi Tanaka", "Captain Rodriguez", "Isabella Ferraro"),
)
PLACES = ("Reykjavik", "Buenos Aires", "Tanzania", "the Netherlands", "Stanford University", "Goldman Sachs", "Toyota")
DATES = ("on March 14", "on 3 April", "on the 5th of February", "on Oct. 9", "in early June 12")


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
    if not results:
        return sum_of(wrong=True)(draw, row).text
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
    return draw.choice(broken_table(draw, row) if row.text.startswith("|") else broken_parts(row))


def broken_table(draw: random.Random, row: AuditedRow) -> Sequence[str]:
    """Return a table with its question in ways that break its form."""
    lines = row.text.split("\n")
    tables = [n for n, line in enumerate(lines) if line.startswith("|")]
    place, end = draw.choice(tables[2:]), max(tables) + 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:end]]
    return (
        "\n".join([*lines[:place], lines[place].rsplit("|", 2)[0] + "|", *lines[place + 1 :]][: max(tables)]),
        "\n".join([*lines[:place], lines[place].rsplit("|", 2)[0] + "|", *lines[place + 1 :]]),
        "\n".join([*lines[:place], lines[place] + " more |", *lines[place + 1 :]]),
        "\n".join(line for n, line in enumerate(lines) if n != 1),
        "\n".join(lines[:end]),
        row.text.replace("|", " "),
        "\n".join(lines[:-1]),
        row.text[: row.text.index(lines[place]) + 6],
        row.text.replace("|---|---|", "|---|"),
        row.text.replace("|---|---|", "|---|---|---|"),
        row.text.replace("|---|---|", "| a | b |"),
        "\n".join([*lines[:place], "| | |", *lines[place:]]),
        "\n".join([*lines[:place], "|---|---|", *lines[place:]]),
        "\n".join([*lines[:place], "", *lines[place:]]),
        "\n".join([*lines[:place], "The table goes on:", *lines[place:]]),
        " ".join(lines[:end]) + "\n" + "\n".join(lines[end:]),
        "\n".join([*(",".join(one) for one in cells), *lines[end:]]),
        "\n".join([*("\t".join(one) for one in cells), *lines[end:]]),
        "<table>"
        + "".join(f"<tr><td>{'</td><td>'.join(one)}</td></tr>" for one in cells)
        + "</table>"
        + "\n".join(lines[end:]),
        "\n".join(lines[end:]).strip() + "\n\n" + "\n".join(lines[:end]),
        "\n".join([*lines[:2], *lines[end:]]),
        f"Here it is:\n\n{row.text}",
        f"{row.text}\n\nI hope it helps.",
        row.text.replace("| Term | Fact |", "| | |"),
        row.text.replace("| Term | Fact |", "| Term | |"),
        row.text.replace("Q:", "Note:"),
        f"{row.text}\nQ: And what else?\nA: Nothing.",
        "\n".join(line.split("|")[1] if line.startswith("|") else line for line in lines),
    )


def broken_parts(row: AuditedRow) -> Sequence[str]:
    """Return questions, a problem or a tutorial in ways that break its form."""
    text = row.text
    if text.startswith("Q:"):
        return (
            text.replace("A:", "", 1),
            text.rsplit("A:", 1)[0],
            text.replace("Q:", "-"),
            "Intro.\n" + text,
            re.sub(r"^A: .*", "A:", text, count=1, flags=re.MULTILINE),
            text.split("\n\n")[0],
            "\n".join(reversed(text.split("\n"))),
            text.replace("A:", "Q:"),
            text + "\n\nThat is all there is to know.",
            text.replace("Q: ", "").replace("A: ", ""),
        )
    if text.startswith("Problem"):
        return (
            text.split("Answer:")[0],
            text.replace("Solution:", ""),
            text.replace("Problem:", ""),
            re.sub(r"Answer:.*", "Answer:", text),
            re.sub(r"Answer:.*", "Answer: many", text),
            "Answer:" + text.split("Answer:")[1] + "\n\n" + text.split("Answer:")[0],
            f"Let us begin.\n\n{text}",
            f"{text}\n\nWell done!",
        )
    if text.startswith("#"):
        return (
            text.split("\n", 2)[2],
            re.sub(r"^\d+\. ", "", text, flags=re.MULTILINE),
            text.replace("2. ", "5. ", 1),
            re.sub(r"^\d+\. ", "- ", text, flags=re.MULTILINE),
            re.sub(r"^\d+\. ", "1. ", text, flags=re.MULTILINE),
            "\n".join(text.split("\n")[:3]),
            re.sub(r"^2\. .*", "2.", text, flags=re.MULTILINE),
            f"Sure.\n{text}",
        )
    return ("- \n***",)


def edited(draw: random.Random, text: str, every: int) -> str:
    """Return a text with one in so many words replaced."""
    return " ".join(
        draw.choice(("thing", "value", "part")) if n % every == every - 1 else word
        for n, word in enumerate(text.split(" "))
    )


COLLAPSED = 0.115
COPIED = DOCUMENTATION[7], DOCUMENTATION[40], DOCUMENTATION[90]
COUNTERS = (
    "Step {} is to check that the list is sorted.",
    "{}. The function returns item {} of the list.",
    "In chapter {} we talk about the same thing again.",
    "- Option {}: choose the value that works best for you.",
    "Q: What is question {}?\nA: This is the answer to question {}.",
    "Version 1.{} fixes several bugs and adds new features.",
)
FILLERS = (
    "as we can all see from this", "in the world of modern software", "which is very important to know",
    "and that is why it matters so much",
)  # fmt: skip


def counted(draw: random.Random) -> str:
    """Return a sentence that is repeated with a number that goes up."""
    template, start, step = draw.choice(COUNTERS), draw.randint(1, 9), draw.choice((1, 1, 1, 5))
    numbers = range(start, start + step * draw.randint(6, 20), step)
    return draw.choice(("\n", "\n", " ")).join(template.replace("{}", str(number)) for number in numbers)


def filled(draw: random.Random, text: str) -> str:
    """Return a text with the same words at the end of each sentence."""
    filler = draw.choice(FILLERS)
    return re.sub(r"[.!?](?=\s|$)", f", {filler}.", text) + "".join(f" It works, {filler}." for _ in range(4))


def misread(text: str, encoding: str, as_encoding: str) -> str:
    """Return a text whose bytes were read in another encoding."""
    return text.encode(encoding, "ignore").decode(as_encoding, "replace" if as_encoding == "ascii" else "ignore")


ACCENTS = " It\u2019s a caf\u00e9 in Z\u00fcrich \u2013 \u201cna\u00efve\u201d, said Jos\u00e9."


def shuffled(draw: random.Random, text: str) -> str:
    """Return the sentences of a text in another order."""
    sentences = re.split(r"(?<=[.!?])\s+", text)
    return " ".join(draw.sample(sentences, len(sentences)))


def some(draw: random.Random, text: str, share: float) -> str:
    """Return a part of a text, from the beginning or from the middle."""
    words = text.split(" ")
    count = max(int(len(words) * share), 45)
    start = draw.choice((0, max(len(words) - count, 0) // 2))
    return " ".join(words[start : start + count])


def blanked(draw: random.Random, row: AuditedRow, empty: str) -> str:
    """Return a table in which one cell is empty."""
    lines = [
        f"| {word} | {draw.choice(row.words)} {n} | {draw.choice(row.words)} |" for n, word in enumerate(row.words[:6])
    ]
    place = draw.randrange(len(lines))
    cells = lines[place].split("|")
    cells[draw.randint(2, 3)] = empty
    lines[place] = "|".join(cells)
    return "\n".join(["| Name | Value | Use |", "|---|---|---|", *lines])


def items(row: AuditedRow, marks: Sequence[str], empty: int) -> str:
    """Return a list of which one item has no content."""
    texts = [" ".join(row.words[4 * n : 4 * n + 4]) for n in range(len(marks))]
    texts[empty] = ""
    return "\n".join(f"{mark} {text}".rstrip() for mark, text in zip(marks, texts, strict=True))


def insert(draw: random.Random, text: str, words: str) -> str:
    """Return a text with words between two of its sentences."""
    places = [match.end() for match in re.finditer(r"[.!?:]\s", text)] or [len(text)]
    place = draw.choice(places)
    return f"{text[:place]}{words} {text[place:]}"


def sum_of(wrong: bool) -> Plant:
    """Return a way to write a row that calculates."""

    def make(draw: random.Random, row: AuditedRow) -> AuditedRow:
        kinds = draw.sample(range(KINDS), 4)
        lines = [statement(draw, kind, wrong=wrong and number == 2) for number, kind in enumerate(kinds)]
        return replace(row, text="\n".join(["Problem: How much is it?", "", "Solution:", *lines]))

    return make


def echo(draw: random.Random, words: int) -> str:
    """Return so many words in a row of a packaged prompt."""
    parts = [part for part in re.split(r"(?<=[.!?])\s+", draw.choice(TEMPLATES)) if len(part.split()) >= words]
    chosen = draw.choice(parts or [TEMPLATES[0]]).split()
    start = draw.randint(0, max(len(chosen) - words, 0))
    return " ".join(chosen[start : start + words])


PLANTS: Mapping[str, Sequence[Plant]] = {
    "loops": [
        text_of(lambda draw, row: row.text + " " + " ".join([last_sentence(row)] * draw.randint(3, 12))),
        text_of(lambda draw, row: row.text + "\n" + "\n".join([last_sentence(row)] * draw.randint(3, 12))),
        text_of(lambda draw, row: row.text + "\n\n" + "\n\n".join(row.lines[-2:] * draw.randint(4, 8))),
        text_of(lambda draw, row: row.text + f" and {words_of(row, draw.randint(2, 9))}" * draw.randint(4, 20)),
        text_of(lambda draw, row: row.text + f" {draw.choice(row.words)}" * draw.randint(8, 90)),
        text_of(lambda draw, row: numbered(row, draw.randint(4, 9))),
        text_of(lambda draw, row: row.text[:80] + draw.choice(("\n..\n", "\n::", "\nQ:\n")) * draw.randint(10, 60)),
        text_of(lambda draw, row: f"{row.text}\n{counted(draw)}"),
        text_of(lambda draw, row: f"{counted(draw)}\n{row.text}"),
        text_of(lambda draw, row: filled(draw, row.text)),
        text_of(lambda draw, row: insert(draw, row.text, " ".join([f"{words_of(row, 5)}."] * draw.randint(4, 8)))),
        text_of(lambda draw, row: row.text + "\n" + "\n".join(f"- {words_of(row, 6)}" for _ in range(draw.randint(5, 12)))),
        text_of(lambda draw, row: row.text + draw.choice(("ha", "no", "la", "1")) * draw.randint(30, 80)),
        text_of(lambda draw, row: row.text + ", " + ", ".join([words_of(row, 2)] * draw.randint(8, 30))),
        text_of(lambda draw, row: row.text + "\n\n" + "\n\n".join([row.text] * 2)),
    ],
    "arithmetic": [text_of(wrong_number), *[sum_of(True)] * 6],
    "prompt_echo": [
        text_of(lambda draw, row: f"{draw.choice(TEMPLATES)}\n\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n\n{draw.choice(TEMPLATES).rsplit('. ', 1)[-1]}"),
        text_of(lambda draw, row: f"{draw.choice(TEMPLATES).split('. ')[0]}.\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n{draw.choice(INSTRUCTIONS)}"),
        text_of(lambda draw, row: f"{draw.choice(INSTRUCTIONS)}\n\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n\n{echo(draw, 9)}"),
        text_of(lambda draw, row: insert(draw, row.text, f"{echo(draw, 12)}.")),
        text_of(lambda draw, row: f"{draw.choice(TEMPLATES).upper()}\n\n{row.text}"),
        text_of(lambda draw, row: f"Instruction: {draw.choice(INSTRUCTIONS)}\n\nOutput: {row.text}"),
        text_of(lambda draw, row: f"**Task:** {draw.choice(INSTRUCTIONS)}\n\n{row.text}"),
        text_of(lambda draw, row: f"> {draw.choice(INSTRUCTIONS)}\n\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n\n[[DOCUMENT]]"),
    ],
    "announcements": [
        text_of(lambda draw, row: f"{draw.choice(BEFORE)}\n\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n\n{draw.choice(AFTER)}"),
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
        text_of(lambda draw, row: insert(draw, row.text, draw.choice(MARKS).strip())),
    ],
    "encoding": [
        text_of(lambda draw, row: row.text + " It\u2019s a caf\u00e9".encode().decode("cp1252")),
        text_of(lambda draw, row: row.text.replace("e", "\ufffd", 1)),
        text_of(lambda draw, row: row.text + draw.choice("\x00\x07\x1b\x7f")),
        text_of(lambda draw, row: FOREIGN["Russian"].encode().decode("latin-1") + row.text),
        text_of(lambda draw, row: row.text + misread(ACCENTS, "utf-8", draw.choice(("latin-1", "cp1252", "iso8859-15")))),
        text_of(lambda draw, row: row.text + misread(ACCENTS, "utf-8", draw.choice(("cp437", "cp850", "mac-roman")))),
        text_of(lambda draw, row: row.text + misread(ACCENTS, "utf-8", draw.choice(("cp1250", "cp1251", "koi8-r")))),
        text_of(lambda draw, row: row.text + misread(misread(ACCENTS, "utf-8", "latin-1"), "utf-8", "cp1252")),
        text_of(lambda draw, row: row.text + " " + misread(FOREIGN["Russian"][:90], "cp1251", "latin-1")),
        text_of(lambda draw, row: row.text + " " + misread(FOREIGN["Chinese"], "gbk", "latin-1")),
        text_of(lambda draw, row: row.text + " " + misread(FOREIGN["Chinese"], "utf-8", "cp1252")),
        text_of(lambda draw, row: row.text + misread(ACCENTS, "latin-1", "ascii")),
        text_of(lambda draw, row: row.text + " It is na" + draw.choice(("\u00c3\u00af", "\u00c3\u00a9", "\u00e2\u20ac\u2122")) + "ve."),
        text_of(lambda draw, row: insert(draw, row.text, draw.choice(("don\\u2019t", "don\\xe2\\x80\\x99t", "caf\\u00e9")))),
        text_of(lambda draw, row: insert(draw, row.text, draw.choice(("It\u00e2\u20ac\u2122s", "\u951f\u65a4\u62f7", "it&amp;#39;s", "\ud83d")))),
        text_of(lambda draw, row: row.text + " It doesn?t work, and it?s slow."),
        text_of(lambda draw, row: insert(draw, row.text, draw.choice(("the\u0120result\u0120is", "ends.\u010aThen")))),
    ],
    "other_script": [
        text_of(lambda draw, row: row.text.replace(" ", draw.choice((" 模型 ", " модель ", " نموذج ", " モデル ")), 1)),
        text_of(lambda draw, row: row.text + " " + FOREIGN["Chinese"]),
        text_of(lambda draw, row: insert(draw, row.text, draw.choice(("데이터", "δεδομένα", "נתונים", "ข้อมูล", "डेटा")))),
    ],
    "language": [
        text_of(lambda draw, row: foreign(draw)),
        text_of(lambda draw, row: "\n".join(f"{n}. {one}" for n, one in enumerate(foreign(draw).split(". "), 1))),
        text_of(lambda draw, row: f"Q: ?\nA: {foreign(draw)}"),
        text_of(lambda draw, row: f"{row.text[:180]}\n\n{foreign(draw)}"),
        text_of(lambda draw, row: f"{foreign(draw)}\n\n{row.text[:180]}"),
        text_of(lambda draw, row: f"# {row.words[3].title()}\n\n{foreign(draw)}\n\n{foreign(draw)}"),
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
        text_of(lambda draw, row: f"{row.text}\n\n{blanked(draw, row, draw.choice((' ', '', '  ')))}"),
        text_of(lambda draw, row: f"{blanked(draw, row, draw.choice((' ', '')))}\n\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n\n{items(row, '-----', draw.randrange(5))}"),
        text_of(lambda draw, row: f"{row.text}\n\n{items(row, ['*'] * 4, draw.randrange(4))}"),
        text_of(lambda draw, row: f"{row.text}\n\n{items(row, ['1.', '2.', '3.', '4.'], draw.randrange(4))}"),
        text_of(lambda draw, row: f"{row.text}\n\n{items(row, ['1)', '2)', '3)'], draw.randrange(3))}"),
        text_of(lambda draw, row: f"{row.text}\n\n{items(row, ['a)', 'b)', 'c)'], draw.randrange(3))}"),
        text_of(lambda draw, row: f"{row.text}\n\n- **Speed**:\n- **Size**: {words_of(row, 4)}"),
        text_of(lambda draw, row: f"## Overview\n\n## Details\n\n{row.text}"),
        text_of(lambda draw, row: f"{row.text}\n\n###"),
        text_of(lambda draw, row: f"{row.text}\n\n1. \n2. {words_of(row, 5)}\n3. {words_of(row, 3)}"),
    ],
    "empty": [
        text_of(lambda draw, row: ""),
        text_of(lambda draw, row: " \n\t\n"),
        text_of(lambda draw, row: draw.choice(("\u200b", "\u00a0\u00a0", "\ufeff", "...", "---", "```\n```", "#", "- ", "**"))),
    ],
    "truncated": [lambda draw, row: replace(row, finish_reason="length", text=row.text[: len(row.text) // 2])],
    "form": [text_of(broken)],
    "collapse": [
        text_of(lambda draw, row: f"The following {draw.randint(2, 99)} pages explain how it works. {row.text}"),
        text_of(lambda draw, row: f"{draw.choice(row.words)} and {draw.choice(row.words)} meet in this page. {row.text}"),
    ],
    "near_duplicates": [
        text_of(lambda draw, row: edited(draw, draw.choice(COPIED).text, 12)),
        text_of(lambda draw, row: draw.choice(COPIED).text),
        text_of(lambda draw, row: draw.choice(COPIED).text.split(". ", 1)[1]),
        text_of(lambda draw, row: shuffled(draw, draw.choice(COPIED).text)),
        text_of(lambda draw, row: edited(draw, draw.choice(COPIED).text, 9)),
        text_of(lambda draw, row: draw.choice(COPIED).text.upper().replace(".", " !")),
        text_of(lambda draw, row: f"{row.sentences[0]} {draw.choice(COPIED).text}"),
        text_of(lambda draw, row: some(draw, draw.choice(COPIED).text, 0.85)),
        text_of(lambda draw, row: edited(draw, shuffled(draw, draw.choice(COPIED).text), 14)),
    ],
    "copying": [
        text_of(lambda draw, row: str(row.source_text)),
        text_of(lambda draw, row: "# Copy\n\n" + edited(draw, str(row.source_text), 25)),
        text_of(lambda draw, row: edited(draw, str(row.source_text), 12)),
        text_of(lambda draw, row: edited(draw, str(row.source_text), 9)),
        text_of(lambda draw, row: some(draw, str(row.source_text), 0.5)),
        text_of(lambda draw, row: f"{some(draw, str(row.source_text), 0.6)}\n\n{row.sentences[0]}"),
        text_of(lambda draw, row: shuffled(draw, str(row.source_text))),
        text_of(lambda draw, row: str(row.source_text).upper()),
        text_of(lambda draw, row: "\n".join(f"- {one}" for one in row.source_sentences)),
        text_of(lambda draw, row: f"Q: What is said?\nA: {some(draw, str(row.source_text), 0.7)}"),
        text_of(lambda draw, row: edited(draw, some(draw, str(row.source_text), 0.6), 15)),
        text_of(lambda draw, row: f"{row.text}\n\n{row.source_text}"),
    ],
    "invented_quantities": [
        text_of(lambda draw, row: f"{row.text} It took {draw.randint(31, 97)} years and {draw.randint(300, 900)} men."),
        text_of(lambda draw, row: f"{row.text} About {draw.randint(11, 89)}% of all programs need it."),
        text_of(lambda draw, row: f"In {draw.randint(1850, 1985)} it cost ${draw.randint(1200, 9000):,}. {row.text}"),
        text_of(lambda draw, row: f"{row.text} It was {draw.choice(SPELLED)} times faster."),
        text_of(lambda draw, row: f"{row.text} Between {draw.randint(31, 60)} and {draw.randint(61, 97)} people came."),
        text_of(lambda draw, row: f"{row.text} It weighs {draw.randint(31, 97)}.{draw.randint(3, 8)} kg."),
        text_of(lambda draw, row: f"{row.text} It cost {draw.choice(SPELLED)} million euros."),
        text_of(lambda draw, row: insert(draw, row.text, f"It has {spelled(draw.randint(41, 97))} members.")),
        text_of(lambda draw, row: insert(draw, row.text, f"More than {draw.randint(21, 88)},000 users rely on it.")),
        text_of(lambda draw, row: insert(draw, row.text, f"It was founded in {draw.randint(1850, 1989)}.")),
        text_of(lambda draw, row: insert(draw, row.text, f"The price rose by {draw.randint(11, 89)} percent.")),
        text_of(lambda draw, row: f"{row.text}\n\n- Size: {draw.randint(31, 97)} MB\n- Speed: {draw.randint(310, 970)} km/h"),
        text_of(lambda draw, row: f"{row.text}\n\n| Year | Users |\n|---|---|\n| {draw.randint(1850, 1985)} | {draw.randint(310, 970)} |"),
        text_of(lambda draw, row: insert(draw, row.text, f"Nearly {spelled(draw.randint(13, 19))} hundred people use it.")),
    ],
    "faithfulness": [
        text_of(lambda draw, row: f"{row.text} It was written by {draw.choice(STRANGERS)} long ago."),
        text_of(lambda draw, row: f"{row.text}\n\nAccording to {draw.choice(STRANGERS)}, it is good."),
        text_of(lambda draw, row: f"{row.text} It appeared {draw.choice(DATES)}."),
        text_of(lambda draw, row: f"{draw.choice(PEOPLE)} wrote it first. {row.text}"),
        text_of(lambda draw, row: insert(draw, row.text, f"{draw.choice(PEOPLE)} disagrees with this.")),
        text_of(lambda draw, row: insert(draw, row.text, f"As {draw.choice(PEOPLE)} says, it is useful.")),
        text_of(lambda draw, row: insert(draw, row.text, f"The office is in {draw.choice(PLACES)}.")),
        text_of(lambda draw, row: insert(draw, row.text, f"{draw.choice(PLACES)} has used it for years.")),
        text_of(lambda draw, row: f"{row.text}\n\n- Author: {draw.choice(PEOPLE)}\n- Place: {draw.choice(PLACES)}"),
        text_of(lambda draw, row: insert(draw, row.text, f"It began {draw.choice(DATES)}, {draw.randint(1850, 1989)}.")),
        text_of(lambda draw, row: insert(draw, row.text, f"({draw.choice(PEOPLE)} said so.)")),
        text_of(lambda draw, row: insert(draw, row.text, f"\u201cIt works,\u201d said {draw.choice(PEOPLE)}.")),
    ],
}  # fmt: skip
