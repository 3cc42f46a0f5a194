"""Training sequences in which a document's tokens serve many instructions and completions.

A prompt puts the document first, so all that is asked of one document shares a beginning. A sequence
is that beginning once, and behind it branches: instructions, and behind each several completions. A
branch sees its own ancestors alone, and its positions go on where its parent ended, so that every path
is what the model meets when it is served. Compared with one sequence a completion this trains on two to
three times as many completion tokens for the same work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from finephrase_dagster.generators.instructions import FORMATS, instruction
from finephrase_dagster.generators.model import ASSISTANT, END, USER, GeneratorError
from finephrase_dagster.generators.outline import Outline, outline
from finephrase_dagster.generators.pairs import derive

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

COMPLETION = 160  # tokens of the longest completion that is learned
INSTRUCTION = (70, 120)  # tokens of short and long instructions; documents are cut to leave them room
COMPLETIONS = 3  # behind one instruction
SHORTEST_WINDOW = 24  # tokens of a window from within a document
LEAST_ROOM = 64  # tokens that a context must leave for a document
HEAD = 0.5  # share of windows that begin where the document does, as all do when the model is served
PROSE = 0.2  # share of sequences that may hold prose; the other formats are in all
IGNORED = -100  # a target that costs nothing


@dataclass
class Branches:
    """One sequence: token, position, owners (document, instruction, completion) and target per place."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    instruction: list[int] = field(default_factory=list)
    completion: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def add(self, tokens: Sequence[int], *, start: int, instruction: int, completion: int) -> None:
        """Appends a segment at position `start`; an instruction's tokens are no targets, all others are."""
        self.tokens += tokens
        self.positions += range(start, start + len(tokens))
        self.instruction += [instruction] * len(tokens)
        self.completion += [completion] * len(tokens)
        learned = completion or not instruction
        self.targets += [*tokens[1:], IGNORED] if learned else [IGNORED] * len(tokens)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sequences as tensors of shape (sequences, tokens).

    Attributes:
        mask: what attention scores get added: 0 or minus infinity; (sequences, 1, tokens, tokens).
        targets: the next token, or `IGNORED`.
        restated: whether the target belongs to a completion, not to the document.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    restated: torch.Tensor


class Sampler:
    """Draws training sequences: windows of documents, instructions, and derived completions.

    Args:
        documents: their texts.
        tokenizer: of the model.
        context: tokens of prompt and completion together.
        sequence: tokens a sequence.
        seed: of all that is drawn.

    Raises:
        GeneratorError: the context is too short for a prompt and its completion, or the sequence for them.
    """

    def __init__(
        self,
        documents: Sequence[str],
        *,
        tokenizer: PreTrainedTokenizerFast,
        context: int,
        sequence: int,
        seed: int,
    ) -> None:
        self.rng = Random(seed)
        self.tokenizer = tokenizer
        self.context = context
        self.order: list[int] = []
        self.sequence = sequence
        self.windows = tuple(context - COMPLETION - tokens for tokens in reversed(INSTRUCTION))
        if self.windows[0] < LEAST_ROOM:
            raise GeneratorError(
                f"context {context} leaves {self.windows[0]} tokens for a document beside an instruction and a "
                f"completion of {COMPLETION}; raise the generator's context"
            )
        if sequence < context:
            raise GeneratorError(f"embedded.sequence {sequence} is shorter than the context {context}; raise it")
        self.user, self.assistant, self.end = (self._encode(token)[0] for token in (USER, ASSISTANT, END))
        self.documents = [tokens for document in documents if (tokens := self._encode(document))]

    def batches(self, *, steps: int, sequences: int) -> Iterator[Batch]:
        """As many batches as optimizer steps."""
        for _ in range(steps):
            yield self.batch([self.draw() for _ in range(sequences)])

    def draw(self) -> Branches:
        """One sequence, from each document as often as from any other."""
        for _ in range(2 * len(self.documents)):
            if not self.order:
                self.order = self.rng.sample(range(len(self.documents)), len(self.documents))
            branches = self._branches(self.documents[self.order.pop()])
            if any(branches.completion):  # a window of signs alone gives nothing to restate
                return branches
        raise GeneratorError("no document has words to restate; name sources of text in embedded.sources")

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids

    def _window(self, document: list[int]) -> list[int]:
        longest = self.rng.randint(*self.windows)
        if self.rng.random() < HEAD:
            return document[:longest]
        length = self.rng.randint(min(SHORTEST_WINDOW, len(document)), min(longest, len(document)))
        start = self.rng.randint(0, len(document) - length)
        return document[start : start + length]

    def _branches(self, document: list[int]) -> Branches:
        root = [self.user, *self._window(document)]
        found = outline(self.tokenizer.backend_tokenizer.decode(root))
        branches = Branches()
        branches.add(root, start=0, instruction=0, completion=0)
        formats = [name for name in FORMATS if name != "prose" or self.rng.random() < PROSE]
        for number, format in enumerate(self.rng.sample(formats, len(formats)), 1):
            asked = self._encode(instruction(format, rng=self.rng))
            start = len(root) + len(asked)
            left = self.sequence - len(branches.tokens) - len(asked)
            fitting = []
            for completion in self._completions(format, found):
                if len(completion) <= left and start + len(completion) <= self.context:
                    fitting.append(completion)
                    left -= len(completion)
            if fitting:
                branches.add(asked, start=len(root), instruction=number, completion=0)
            for index, completion in enumerate(fitting, 1):
                branches.add(completion, start=start, instruction=number, completion=index)
        return branches

    def _completions(self, format: str, found: Outline) -> list[list[int]]:
        derived = {derive(format, found, rng=self.rng): None for _ in range(COMPLETIONS)}
        encoded = [[self.assistant, *self._encode(one), self.end] for one in derived if one is not None]
        return [tokens for tokens in encoded if len(tokens) <= COMPLETION + 2]

    def batch(self, drawn: Sequence[Branches]) -> Batch:
        """Sequences as tensors, padded to one length."""
        import torch

        def padded(rows: Sequence[list[int]], fill: int) -> torch.Tensor:
            return torch.tensor([row + [fill] * (self.sequence - len(row)) for row in rows])

        instruction = padded([branches.instruction for branches in drawn], -1)
        completion = padded([branches.completion for branches in drawn], -1)
        asks, asked = instruction[:, :, None], instruction[:, None, :]
        says, said = completion[:, :, None], completion[:, None, :]
        mask = ((asked == 0) | (asks == asked)) & ((said == 0) | (says == said))
        mask &= torch.ones(self.sequence, self.sequence, dtype=torch.bool).tril()
        return Batch(
            tokens=padded([branches.tokens for branches in drawn], self.tokenizer.pad_token_id),
            positions=padded([branches.positions for branches in drawn], 0),
            mask=torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))[:, None],
            targets=padded([branches.targets for branches in drawn], IGNORED),
            restated=completion > 0,
        )
