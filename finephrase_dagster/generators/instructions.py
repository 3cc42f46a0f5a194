"""What the embedded generator is asked while it learns: many wordings of each format's instruction.

It learns from these and never from a study's prompt files, so that editing a prompt leaves the generator
as it is. A prompt is met for the first time when the model is served; what carries over is the vocabulary
of asking: a prompt that says "table", "question" or "numbered steps" in ordinary words is understood.
"""

from __future__ import annotations

from random import Random

KEPT_SENTENCE, KEPT_WORD = 0.85, 0.97  # shares; what is lost on the way makes edited prompts familiar

# For each format its sentences in order, each with its wordings.
_SENTENCES: dict[str, tuple[tuple[str, ...], ...]] = {
    "faq": (
        (
            "Turn the text above into a list of questions that a curious reader would ask about it, each followed "
            "by its answer.",
            "Write the questions that somebody new to the subject would ask about the text above, and answer each.",
            "Rewrite the text above as a list of frequently asked questions with their answers.",
            "From the document above, make an FAQ: questions and answers that cover what it says.",
        ),
        (
            "Begin with what a newcomer needs to know and go on to the finer points.",
            "Put them in order, from the general to the particular.",
            "Order the questions so that simple ones come first.",
        ),
        (
            "Every answer must make sense to somebody who has not seen the text, so name things instead of pointing "
            "at them.",
            "Each answer should stand on its own and be understood without the text.",
            "Give full answers that do not refer to the text.",
        ),
        (
            'Write each question on a line that begins with "Q:" and its answer on the next line, beginning with "A:".',
            'Start a question with "Q:" and its answer with "A:", each on a line of its own.',
            'Mark questions with "Q:" and answers with "A:".',
        ),
        (
            "Reply with the questions and answers alone.",
            "Write nothing but the questions and answers.",
            "Give only the questions and their answers.",
        ),
    ),
    "math": (
        (
            "Make one word problem out of the text above.",
            "Write a mathematical word problem based on the text above.",
            "From the document above, make one math problem in words.",
            "Turn the text above into one word problem with its worked solution.",
        ),
        (
            "Use quantities that appear in it, or that follow from it, and let the solution take several steps.",
            "Take its numbers from the text, and let it need more than one calculation.",
            "It should use the quantities of the text and take several steps of arithmetic.",
        ),
        (
            'State the problem in full on lines that begin with "Problem:", so that it can be solved without the text.',
            'Begin with "Problem:" and say all that is needed to solve it.',
            'Write the problem after "Problem:", complete in itself.',
        ),
        (
            'Then write "Solution:" and work it out step by step, one calculation a line, and close with a line '
            '"Answer:" that gives the result.',
            'Below "Solution:" show the calculation step by step; end with "Answer:" and the result.',
            'Give the solution after "Solution:", a calculation on each line, and the final number after "Answer:".',
        ),
        (
            "Reply with the problem and its solution alone.",
            "Write nothing but the problem, the solution and the answer.",
            "Give only the problem and its solution.",
        ),
    ),
    "table": (
        (
            "Gather the key facts of the text above in one Markdown table: a header row, a separator row, and a row "
            "for each fact, with columns that suit the subject.",
            "Make a Markdown table of the most important facts in the text above, with a header and a row a fact.",
            "Summarise the document above as a table in Markdown, with a header row and columns that fit.",
            "Put the facts of the text above into one table, written in Markdown.",
        ),
        (
            "Below the table, write one question that can be answered by reading the table, on a line that begins "
            'with "Q:", and its answer on a line that begins with "A:".',
            'After the table ask one question about it ("Q:") and answer it ("A:").',
            'Then add a line "Q:" with a question that the table answers, and a line "A:" with the answer.',
        ),
        (
            "Reply with the table, the question and the answer alone.",
            "Write nothing but the table, the question and its answer.",
            "Give only the table with its question and answer.",
        ),
    ),
    "tutorial": (
        (
            "Teach the subject of the text above as a short tutorial.",
            "Rewrite the text above as a tutorial for beginners.",
            "Turn the document above into a step-by-step tutorial.",
            "Write a short tutorial that teaches what the text above is about.",
        ),
        (
            "Open with a heading that says what the reader will be able to do.",
            "Begin with a heading that names what is learned.",
            "Start with a title as a heading.",
        ),
        (
            'Then give numbered steps, "1.", "2." and so on, each of which does one thing and tells why it matters, '
            "in an order in which they can be followed.",
            "Number the steps 1., 2., 3.; each one says what to do and why.",
            "Give the steps as a numbered list, in order, with the reason for each step.",
        ),
        (
            "Reply with the tutorial alone.",
            "Write nothing but the tutorial.",
            "Give only the heading and the steps.",
        ),
    ),
    "prose": (
        (
            "Rewrite the text above as clear, flowing prose.",
            "Summarise the text above in a few sentences.",
            "Explain in plain sentences what the text above says.",
            "Continue the text above with a paragraph in the same spirit.",
            "Write an article, a story or a commentary on the text above.",
        ),
        (
            "Keep to what the text says and leave out what is beside the point.",
            "Use complete sentences and no lists.",
            "Write for readers who have not seen the text.",
        ),
        (
            "Reply with the rewritten text alone.",
            "Write nothing but the text.",
        ),
    ),
}

FORMATS = tuple(_SENTENCES)


def instruction(format: str, *, rng: Random) -> str:
    """One wording of a format's instruction, as a prompt has it behind the document.

    Raises:
        KeyError: there is no such format.
    """
    chosen = [rng.choice(wordings) for wordings in _SENTENCES[format]]
    kept = [sentence for sentence in chosen if rng.random() < KEPT_SENTENCE] or chosen
    words = [word for word in " ".join(kept).split(" ") if rng.random() < KEPT_WORD]
    return "\n\n" + " ".join(words)


def wordings() -> list[str]:
    """All sentences, for the vocabulary."""
    return [wording for sentences in _SENTENCES.values() for group in sentences for wording in group]
