"""The inference step: a DataTrove step that sends documents through all prompts and fills the ledgers.

Documents end here: the datasets are the ledgers' files. How requests are kept in flight is the window's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import orjson
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from finephrase_dagster.rephrase.engine import EngineLike
from finephrase_dagster.rephrase.figures import Figures
from finephrase_dagster.rephrase.ledger import Chunk, Ledger
from finephrase_dagster.rephrase.outcome import Rejected
from finephrase_dagster.rephrase.render import RendererLike
from finephrase_dagster.rephrase.sampling import request_seed
from finephrase_dagster.rephrase.survey import RowSet
from finephrase_dagster.rephrase.window import Job, Window


class RephraseStep(PipelineStep):
    """Sends documents to engines and enters what became of them."""

    name = "Rephrase"
    type = "Inference"

    def __init__(
        self,
        *,
        ledgers: Mapping[str, Ledger],
        renderer: RendererLike,
        request: Mapping[str, float | int | str],
        seed: int | None,
        engines: Callable[[], Sequence[EngineLike]],
        window: Window,
        figures: Figures,
    ) -> None:
        """Describes the step.

        Args:
            ledgers: by prompt name.
            renderer: for these prompts.
            request: what every request says: model, max_tokens, and of sampling what the server does not decide.
            seed: what the requests' own seeds derive from; None: none is sent.
            engines: called once there is something to send.
            window: what keeps the requests in flight.
            figures: what counts the run.
        """
        super().__init__()
        self.ledgers = ledgers
        self.rows = RowSet()
        self.figures = figures
        self._renderer = renderer
        self._request = dict(request)
        self._seed = seed
        self._engines = engines
        self._window = window

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Does what is left of the documents.

        Raises:
            EngineFailed: the engine cannot answer; what is done is kept.
            OSError: a ledger cannot be written, likewise.
        """
        jobs = self._jobs(data)
        first = next(jobs, None)
        if first is not None:
            # Before there is an event loop, so that an interrupt ends a long start at once.
            engines = self._engines()
            self._window.run(first, jobs, engines, self.ledgers)
        for ledger in self.ledgers.values():
            ledger.publish_left_over()
            ledger.publish_full()
        yield from ()

    def _jobs(self, documents: Iterable[Document]) -> Iterator[Job]:
        """What is to be sent, in order; skipped rows are entered as they come by."""
        shard = 0
        resumed = any(ledger.found for ledger in self.ledgers.values())
        for document in documents:
            metadata = document.metadata
            self.rows.add(document.id, metadata["sha256"], metadata["skip"])
            if metadata["shard"] != shard:
                self._close(shard)
                shard = metadata["shard"]
            for prompt, ledger in self.ledgers.items():
                if resumed and ledger.is_done(document.id):
                    continue
                chunk, place = ledger.assign(shard)
                if metadata["skip"]:
                    self.figures.skipped += 1
                    ledger.enter(chunk, place, Rejected(id=document.id, status="skipped", reason=metadata["skip"]))
                else:
                    yield self._job(prompt, document, chunk, place)
        self._close(shard)

    def _close(self, shard: int) -> None:
        for ledger in self.ledgers.values():
            ledger.close(shard)

    def _job(self, prompt: str, document: Document, chunk: Chunk, place: int) -> Job:
        rendered = self._renderer.render(prompt, document.text)
        request = {"messages": rendered.messages, **self._request}
        if self._seed is not None:
            request["seed"] = request_seed(self._seed, document.id, prompt)
        return Job(
            prompt=prompt,
            id=document.id,
            sha256=document.metadata["sha256"],
            request=orjson.dumps(request),
            truncated=rendered.truncated,
            chunk=chunk,
            place=place,
        )
