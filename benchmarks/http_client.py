"""Documents per second with the client's own HTTP connections against aiohttp, on the same requests.

Two measurements, each interleaved in one run against the instant server:

- `http`: only POST requests, from an event loop with 500 of them in flight.
- `command`: the complete `finephrase rephrase` command as `driver.py` runs it, as it is and with
  aiohttp in place of `ConnectionPool`.

aiohttp is run to its advantage: no time-outs, no retry on a stale connection, no record of what is in flight.

    python benchmarks/http_client.py [--requests 20000] [--documents 20000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import aiohttp
import uvloop
from driver import SIZE, WORDS, measure
from instant_server import MODEL, InstantServer
from load import Ours, write_documents

from finephrase_dagster.rephrase.connection import CHAT_PATH, ConnectionPool, Response, Server
from finephrase_dagster.rephrase.policy import RetryPolicy

THRESHOLD = 0.9
"""aiohttp replaces our own connections once the command keeps this share of its documents per second."""


class AiohttpPool(ConnectionPool):
    """A connection pool that sends its requests through aiohttp."""

    _session: aiohttp.ClientSession | None = None
    _closing: asyncio.Task[None] | None = None

    async def post(self, path: str, body: bytes) -> Response:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                self._server.url, connector=aiohttp.TCPConnector(limit=0), trust_env=False
            )
        headers = {"Content-Type": "application/json"}
        async with self._session.post(path, data=body, headers=headers, allow_redirects=False) as response:
            return Response(response.status, None, await response.read())

    def close(self, reason: str) -> None:
        super().close(reason)
        if self._session is not None:
            self._closing = asyncio.create_task(self._session.close())


class OursThroughAiohttp(Ours):
    """`finephrase rephrase` with aiohttp in place of our own connections."""

    def command(self) -> list[str]:
        command = super().command()
        return [command[0], __file__, "--through-aiohttp", *command[command.index("rephrase") :]]


def main() -> None:
    """Print the figures as one JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=500)
    arguments = parser.parse_args()
    http: dict[str, list[float]] = {"ours": [], "aiohttp": []}
    command: dict[str, list[float]] = {"ours": [], "aiohttp": []}
    with tempfile.TemporaryDirectory(prefix="finephrase-bench-") as name, InstantServer(words=WORDS) as server:
        root = Path(name)
        write_documents(root / "documents.jsonl", arguments.documents, SIZE)
        common = {"input": root / "documents.jsonl", "url": server.url, "concurrency": arguments.concurrency}
        drivers = {
            "ours": Ours(output=root / "ours", **common),
            "aiohttp": OursThroughAiohttp(output=root / "aiohttp", **common),
        }
        pools = {"ours": ConnectionPool, "aiohttp": AiohttpPool}
        for number in range(arguments.rounds):
            for side in http:
                http[side].append(post_all(pools[side], server.url, arguments.requests, arguments.concurrency))
                command[side].append(measure(drivers[side], arguments.documents, server)[0])
            print(f"round {number + 1}: http {last(http)}; command {last(command)}", file=sys.stderr)
    ratio = median(command["aiohttp"]) / median(command["ours"])
    figures = {
        **rates("http", http),
        **rates("command", command),
        "ratio": round(ratio, 3),
        "replaces_ours": ratio >= THRESHOLD,
        **vars(arguments),
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


def post_all(pool: type[ConnectionPool], url: str, requests: int, concurrency: int) -> float:
    """Return the requests per second of one kind of pool that sends the same body again and again."""
    body = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "word " * (SIZE // 5)}]}).encode()

    async def send() -> float:
        connections = pool(Server(url), RetryPolicy())
        left = iter(range(requests))

        async def worker() -> None:
            for _ in left:
                if (await connections.post(CHAT_PATH, body)).status != 200:
                    raise RuntimeError(f"{url} refused a request")

        began = time.monotonic()
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(worker())
        seconds = time.monotonic() - began
        connections.close("done")
        await asyncio.sleep(0.1)  # aiohttp closes its connections in the background
        return requests / seconds

    return uvloop.run(send())


def rates(name: str, measured: dict[str, list[float]]) -> dict[str, float]:
    """Return the medians and their ratio under names that begin with `name`."""
    ours, aiohttp_rate = median(measured["ours"]), median(measured["aiohttp"])
    return {
        f"{name}_ours_documents_per_second": round(ours),
        f"{name}_aiohttp_documents_per_second": round(aiohttp_rate),
        f"{name}_ratio": round(aiohttp_rate / ours, 3),
    }


def last(measured: dict[str, list[float]]) -> str:
    """Return the latest rates of both sides as text."""
    return ", ".join(f"{side} {values[-1]:.0f}/s" for side, values in measured.items())


def rephrase_through_aiohttp() -> None:
    """Run `finephrase rephrase` in this process with aiohttp in place of our own connections."""
    from finephrase_dagster.commands import main as command
    from finephrase_dagster.rephrase import endpoint

    endpoint.ConnectionPool = AiohttpPool  # type: ignore[misc]
    command.main()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--through-aiohttp"]:
        del sys.argv[1]
        rephrase_through_aiohttp()
    else:
        main()
