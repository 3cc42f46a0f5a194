"""The requests of a run, in the order in which they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import orjson
from datatrove.data import Document

from finephrase_dagster.artifacts.fingerprint import sha256_text
from finephrase_dagster.artifacts.recipe import base_seed, request_parameters
from finephrase_dagster.corpora.eligibility import not_eligible
from finephrase_dagster.rephrase.journals import Chunk, JournalWriter
from finephrase_dagster.rephrase.outcome import Rejected
from finephrase_dagster.rephrase.render import CountedRenderer, Rendered, RendererLike
from finephrase_dagster.rephrase.rollouts import request_seed
from finephrase_dagster.rephrase.statistics import RunStatistics
from finephrase_dagster.rephrase.window import CountTokens, RowRequest


class RequestSource:
    """Iterates over the requests for documents that are not done yet: all prompts of a document, then the next one.

    Documents without text, or without what a prompt requires, are recorded as skipped on the way.
    """

    def __init__(
        self,
        documents: Iterable[Document | None],
        *,
        ledgers: Mapping[str, JournalWriter],
        recipes: Mapping[str, Mapping[str, Any]],
        renderer: RendererLike,
        model: str,
        statistics: RunStatistics,
    ) -> None:
        """Describe the source.

        Args:
            documents: the input rows, from `InputReader`; None while there is none, but may be later.
        """
        self._documents = documents
        self._ledgers = ledgers
        self._parameters = {name: {"model": model, **request_parameters(recipes[name])} for name in ledgers}
        self._requires = {name: recipes[name].get("requires", {}) for name in ledgers}
        self._seeds = {name: base_seed(recipes[name]) for name in ledgers}
        self._renderer = renderer
        self._statistics = statistics
        self._completed_before: tuple[str, Document] | None = None

    def earlier_request(self) -> bytes | None:
        """Return a request that an earlier run got a completion for; None if its row has not been read yet."""
        return self._body(*self._completed_before) if self._completed_before else None

    def __iter__(self) -> Iterator[RowRequest | None]:
        shard = 0
        for document in self._documents:
            if document is None:
                yield None
                continue
            if document.metadata["shard"] != shard:
                self._close(shard)
                shard = document.metadata["shard"]
            row = document.metadata["row"]
            for prompt, ledger in self._ledgers.items():
                if ledger.is_done(shard, row, document.id):
                    if document.id == ledger.example:
                        self._completed_before = prompt, document
                    continue
                chunk = ledger.assign(shard)
                if reason := document.metadata["skip"] or not_eligible(document.text, self._requires[prompt]):
                    self._statistics.prompts[prompt].skipped += 1
                    ledger.record(chunk, row, Rejected(id=document.id, status="skipped", reason=reason))
                else:
                    yield self._request(prompt, document, chunk, row)
        self._close(shard)

    def _close(self, shard: int) -> None:
        for ledger in self._ledgers.values():
            ledger.close(shard)

    def _request(self, prompt: str, document: Document, chunk: Chunk, position: int) -> RowRequest:
        rendered = self._renderer.render(prompt, document.text)
        row = RowRequest(
            prompt=prompt,
            id=document.id,
            sha256=sha256_text(document.text),
            request=self._body(prompt, document, rendered),
            document_cut=rendered.document_cut,
            chunk=chunk,
            position=position,
            document=document.text,
            drawn=self._ledgers[prompt].drawn(document.id),
        )
        return row._replace(fit=partial(self._fit, row, document)) if rendered.is_estimate else row

    async def _fit(self, row: RowRequest, document: Document, count: CountTokens) -> RowRequest:
        """Return a request with as much of its document as fits."""
        assert isinstance(self._renderer, CountedRenderer)
        model = self._parameters[row.prompt]["model"]
        rendered = await self._renderer.fit(
            row.prompt, document.text, lambda messages: count(orjson.dumps({"model": model, "messages": messages}))
        )
        return row._replace(request=self._body(row.prompt, document, rendered), document_cut=rendered.document_cut)

    def _body(self, prompt: str, document: Document, rendered: Rendered | None = None) -> bytes:
        rendered = rendered or self._renderer.render(prompt, document.text)
        request = {"messages": rendered.messages, **self._parameters[prompt]}
        if (seed := self._seeds[prompt]) is not None:
            request["seed"] = request_seed(seed, document.id, prompt)
        return orjson.dumps(request)
