"""An OpenAI-compatible server that answers every chat completion at once with the same words.

It shares the machine with the program that is measured, so it does very little: it finds the end of each request and
sends prepared bytes. It counts requests; with --track it also distinguishes documents by the marker `Document 000123.`
at their beginning, which takes a search of every request.

With --seconds each answer takes so long, whatever the load, or with --ragged between a tenth and twice as long.

    python benchmarks/instant_server.py [--port 0] [--words 360] [--context 8192] [--track] [--seconds 0.2 [--ragged]]

prints its port and serves on 127.0.0.1 until its standard input ends. `InstantServer` runs it in another process. In
addition to `POST /v1/chat/completions` and `GET /v1/models` there are `GET /counts` and `POST /reset`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from pydoc_data.topics import topics
from types import TracebackType
from typing import cast

import uvloop

MODEL = "instant"
TOKENS_PER_WORD = 4 / 3  # usual for English and a byte-level vocabulary
MARKER = re.compile(rb"Document (\d+)\.")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CLOSING = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
END_OF_HEAD = b"\r\n\r\n"
CHAT = b"POST /v1/chat/completions "


@dataclass(frozen=True)
class Counts:
    """What the server has received.

    Attributes:
        requests: requests for chat completions since the last reset.
        first: when the first of them was received, in seconds of `time.monotonic()`; None before.
        distinct: different documents since the server's start; 0 without --track.
        repeated: requests since the server's start for a document that was requested before.
    """

    requests: int
    first: float | None
    distinct: int
    repeated: int


class InstantServer:
    """A context manager that runs the server."""

    def __init__(
        self, *, words: int = 360, context: int = 8192, track: bool = False, seconds: float = 0, ragged: bool = False
    ) -> None:
        """Describe a server by its options, which the beginning of this file describes."""
        self._options = ["--words", str(words), "--context", str(context), "--seconds", str(seconds)]
        self._options += [*(["--track"] if track else []), *(["--ragged"] if ragged else [])]

    def __enter__(self) -> InstantServer:
        command = [sys.executable, str(Path(__file__)), *self._options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        port = self._process.stdout.readline().decode().strip()
        if not port:
            raise RuntimeError(f"the instant server did not start; run it by hand: {' '.join(command)}")
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # it ends with its input

    def counts(self) -> Counts:
        """Return what it has received."""
        with urllib.request.urlopen(f"{self.url}/counts", timeout=60) as answer:
            return Counts(**json.load(answer))

    def reset(self) -> None:
        """Reset `requests` and `first`; the documents that were received stay known."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/reset", method="POST"), timeout=60).close()


class Tally:
    """The counts of a running server."""

    def __init__(self, track: bool) -> None:
        self.track = track
        self.requests = 0
        self.first: float | None = None
        self.repeated = 0
        self._seen: set[bytes] = set()

    def reset(self) -> None:
        self.requests, self.first = 0, None

    def count(self, request: bytes) -> None:
        self.requests += 1
        if self.first is None:
            self.first = time.monotonic()
        if self.track and (marker := MARKER.search(request)):
            if marker[1] in self._seen:
                self.repeated += 1
            else:
                self._seen.add(marker[1])

    def json(self) -> bytes:
        counts = Counts(self.requests, self.first, len(self._seen), self.repeated)
        return json.dumps(counts.__dict__).encode()


class Connection(asyncio.Protocol):
    """One connection; requests may arrive in pieces, or several in one piece."""

    def __init__(self, tally: Tally, completion: bytes, models: bytes, seconds: float, ragged: bool) -> None:
        self._seconds, self._ragged = seconds, ragged
        self._tally = tally
        self._completion = completion
        self._models = models
        self._read = b""
        self._wanted = 0  # bytes of the current request, known once its head is complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        read = self._read + data if self._read else data
        while len(read) >= self._wanted:
            head = read.find(END_OF_HEAD)
            if head < 0:
                break
            if not self._wanted:
                length = LENGTH.search(read, 0, head)
                self._wanted = head + len(END_OF_HEAD) + (int(length[1]) if length else 0)
                continue
            self._answer(read[: self._wanted], CLOSING.search(read, 0, head) is not None)
            read, self._wanted = read[self._wanted :], 0
        self._read = read

    def _answer(self, request: bytes, last: bool) -> None:
        if request.startswith(CHAT):
            self._tally.count(request)
            answer = self._completion
            if self._seconds:
                pause = self._seconds * (random.uniform(0.1, 2) if self._ragged else 1)
                asyncio.get_running_loop().call_later(pause, self._write, answer)
                return
        elif request.startswith(b"GET /v1/models "):
            answer = self._models
        elif request.startswith(b"GET /counts "):
            answer = http(self._tally.json())
        elif request.startswith(b"POST /reset "):
            self._tally.reset()
            answer = http(b"{}")
        else:
            answer = http(b'{"error": {"message": "no such page"}}', "404 Not Found")
        self._transport.write(answer)
        if last:
            self._transport.close()

    def _write(self, answer: bytes) -> None:
        if not self._transport.is_closing():  # the client may have been killed
            self._transport.write(answer)


def http(body: bytes, status: str = "200 OK") -> bytes:
    """Return a response, head and body."""
    return f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def completion(words: int) -> bytes:
    """Return the response to every request: this many words of the language reference."""
    text = " ".join(islice(cycle(" ".join(topics.values()).split()), words))
    prompt_tokens, completion_tokens = 1200, round(words * TOKENS_PER_WORD)
    answer = {
        "id": "chatcmpl-instant",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }
    return http(json.dumps(answer).encode())


async def serve(port: int, words: int, context: int, track: bool, seconds: float, ragged: bool) -> None:
    """Serve until standard input ends."""
    tally, answer = Tally(track), completion(words)
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "benchmark", "max_model_len": context}
    models = http(json.dumps({"object": "list", "data": [model]}).encode())
    loop = asyncio.get_running_loop()
    connection = partial(Connection, tally, answer, models, seconds, ragged)
    server = await loop.create_server(connection, "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


def main() -> None:
    """Run the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--words", type=int, default=360, help="words per answer")
    parser.add_argument("--context", type=int, default=8192, help="context that the server reports")
    parser.add_argument("--track", action="store_true", help="distinguish documents")
    parser.add_argument("--seconds", type=float, default=0, help="how long an answer takes")
    parser.add_argument("--ragged", action="store_true", help="let answers take different times")
    uvloop.run(serve(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
