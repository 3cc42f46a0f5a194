"""The HTTP/1.1 client of the project: connections to one server, kept alive, one request at a time on each.

Written by hand because every document passes through it: in benchmarks/http_client.py aiohttp sends 16 % as many
requests per second, and the complete command with aiohttp rephrases 58 % as many documents per second (2 cores,
10,000 documents). Parsing is httptools'; what a response means is up to the client.
Nothing is read from the environment, so no proxy sees the key; redirects are not followed; a response has a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httptools

from finephrase_dagster.rephrase.completion import readable
from finephrase_dagster.rephrase.policy import RetryPolicy

API_KEY = "FINEPHRASE_API_KEY"
"""Environment variable with the API key."""

CHAT_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
TOKENIZE_PATH = "/tokenize"
MOST_BYTES = 32 << 20  # of a response, also once decompressed
ENCODINGS = {"": False, "identity": False, "gzip": True, "x-gzip": True, "deflate": True}
"""The values of `Content-Encoding` that are read, and whether they compress."""


class Response(NamedTuple):
    """An HTTP response; `retry_after` is in seconds, `location` is where a redirect leads."""

    status: int
    retry_after: float | None
    body: bytes
    location: str = ""

    def redirect(self, url: str, path: str) -> str | None:
        """Return where a redirect of a request to `url` + `path` leads, without secrets, and what to do, if it is one.

        It is not followed, because the key would go there, too.
        """
        if not 300 <= self.status < 400:
            return None
        address = "no address"
        with contextlib.suppress(ValueError):
            if self.location:
                target = urlsplit(urljoin(url + path, self.location))
                address = readable(f"{target.scheme}://{target.netloc.rpartition('@')[2]}{target.path}", 200)
        base = address.removesuffix(path).removesuffix("/v1")
        advice = f"use {base} as the endpoint" if base not in (address, url) else "correct the endpoint's URL"
        return (
            f"{url} redirects {path} to {address} (HTTP {self.status}), which is not followed: the key would go "
            f"there, too. If you trust that server, {advice}"
        )


class ConnectionBroken(ConnectionError):
    """The connection ended before the response did.

    `stale`: it had served earlier requests and sent nothing for this one, so the server may have closed it unused.
    """

    def __init__(self, reason: str, *, stale: bool = False) -> None:
        super().__init__(reason)
        self.stale = stale


class Unanswered(Exception):
    """A request got no response; another attempt may. `received`: the server may have received it."""

    def __init__(self, reason: str, *, received: bool = True) -> None:
        super().__init__(reason)
        self.received = received


class Server:
    """A server's address, and the headers that all requests to it share."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Parse a URL such as `http://127.0.0.1:8000` or `https://host/path/v1`.

        Raises:
            ValueError: the URL is invalid, or holds a user or a password, which logs would show; or the key
                cannot be part of a header.
        """
        if any(mark in url for mark in "@?#"):
            raise ValueError(
                f"an endpoint's URL has a user or a password in it, or a query; write http://HOST:PORT, and set "
                f"{API_KEY} if the server needs a key"
            )
        try:
            parts = urlsplit(url)
            host = (parts.hostname or "").encode("idna").decode()
            port = parts.port
        except ValueError as error:
            raise ValueError(f"endpoint {url!r}: {error}; write http://HOST:PORT") from error
        if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
            raise ValueError(f"endpoint {url!r}: not a URL; write http://HOST:PORT")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._host = host
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = port or (443 if self._tls else 80)
        self._path = urlsplit(self.url).path.rstrip("/")
        # A line break in the key would add headers.
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key):
            raise ValueError(f"the API key has characters that a header cannot hold; correct {API_KEY}")
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._headers = f"Host: {parts.netloc}\r\n{authorization}Accept-Encoding: identity\r\n"

    async def connect(self, timeout: float) -> Connection:
        """Return a new connection; raises OSError, or TimeoutError after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        return connection

    async def fetch(self, path: str, timeout: float, body: bytes | None = None) -> Response:
        """Send one request on a connection of its own, POST if there is a body; raises OSError or TimeoutError."""
        get = f"GET {self._path}{path} HTTP/1.1\r\n{self._headers}\r\n".encode()
        async with asyncio.timeout(timeout):
            connection = await self.connect(timeout)
            try:
                return await connection.exchange(get if body is None else self.post(path, body))
            finally:
                connection.close()

    def post(self, path: str, body: bytes) -> bytes:
        """Return the bytes of a POST request with a JSON body."""
        head = (
            f"POST {self._path}{path} HTTP/1.1\r\n{self._headers}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def fetch(url: str, timeout: float, body: bytes | None = None) -> Response:
    """Send one request without a key to any URL, POST if there is a body; also where an event loop is running.

    Raises:
        OSError, TimeoutError: there is no answer.
        ValueError: the URL is invalid.
    """
    parts = urlsplit(url)
    server = Server(f"{parts.scheme}://{parts.netloc}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(server.fetch(path, timeout, body))).result()


class ConnectionPool:
    """The connections to one server: idle ones are reused, new ones opened as needed."""

    def __init__(self, server: Server, policy: RetryPolicy) -> None:
        self._server = server
        self._policy = policy
        self._idle: list[Connection] = []
        self._busy: dict[Connection, float] = {}
        self._opening = asyncio.Semaphore(policy.connecting)

    async def post(self, path: str, body: bytes) -> Response:
        """Send one request.

        Raises:
            Unanswered: no connection could be opened, or it broke.
        """
        again = False  # after a stale connection
        while True:
            connection = self._idle.pop() if self._idle and not again else await self._open(again)
            if not connection.usable:
                continue
            self._busy[connection] = time.monotonic()
            try:
                response = await connection.exchange(self._server.post(path, body))
            except ConnectionBroken as error:
                if not error.stale or time.monotonic() - connection.last_used < self._policy.stale_after:
                    raise Unanswered(str(error)) from error
                again = True
                continue
            except asyncio.CancelledError:
                connection.close()
                raise
            finally:
                del self._busy[connection]
            if connection.usable:
                connection.last_used = time.monotonic()
                self._idle.append(connection)
            return response

    def close_overdue(self, now: float, timeout: float) -> None:
        """End the requests that were sent more than `timeout` seconds ago."""
        for connection in [connection for connection, sent in self._busy.items() if now - sent > timeout]:
            connection.close(f"no answer within {timeout:.0f} s")

    def close(self, reason: str) -> None:
        """End all requests and close all connections."""
        for connection in [*self._busy, *self._idle]:
            connection.close(reason)
        self._idle.clear()

    async def _open(self, again: bool) -> Connection:
        async with self._opening:
            if self._idle and not again:
                return self._idle.pop()
            try:
                return await self._server.connect(self._policy.connect_timeout)
            except (OSError, TimeoutError) as error:
                raise Unanswered(f"no connection ({error or type(error).__name__})", received=again) from error


class Connection(asyncio.Protocol):
    """A keep-alive connection; `usable` says whether it takes another request."""

    def __init__(self) -> None:
        self.usable = False
        self.last_used = 0.0
        self._transport: asyncio.Transport | None = None
        self._pending: asyncio.Future[Response] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._responses = 0
        self._retry_after: float | None = None
        self._reset()

    def exchange(self, request: bytes) -> asyncio.Future[Response]:
        """Send a request; the future returns its response or raises ConnectionBroken."""
        assert self._transport is not None, "not connected"
        assert self._pending is None, "one request at a time"
        self._pending = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._pending

    def close(self, reason: str = "closed") -> None:
        """Close the connection and fail the pending request at once."""
        self._fail(reason)
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.usable = True

    def data_received(self, data: bytes) -> None:
        if self._pending is None:  # unrequested bytes would be taken for the next response
            self.close()
            return
        self._has_received = True
        self._received += len(data)
        if self._received > MOST_BYTES:
            self.close(f"the response has more than {MOST_BYTES >> 20} MiB")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close("the server switches to another protocol")
        except httptools.HttpParserError as error:
            self.close(f"not an HTTP response: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._pending is not None and self._ends_with_connection and error is None:
            self.on_message_complete()
        cause = str(error) or type(error).__name__ if error else "by the server"
        self._fail(f"connection closed ({cause})", stale=self._responses > 0 and not self._has_received)

    # Called by httptools.

    def on_message_begin(self) -> None:
        self._reset()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._has_length = True
        elif name == b"retry-after":
            self._retry_after = seconds_of(value)
        elif name == b"location":
            self._location = value.decode("utf-8", "replace").strip()
        elif name == b"content-encoding":
            self._encoding = value.decode("latin-1").strip().lower()

    def on_headers_complete(self) -> None:
        self._ends_with_connection = not self._has_length

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if 100 <= self._parser.get_status_code() < 200:  # an interim response; the final one follows
            return
        if self._encoding not in ENCODINGS:
            self.close(f"the server compressed its answer ({readable(self._encoding, 50)}), which it was asked not to")
            return
        response = Response(self._parser.get_status_code(), self._retry_after, self._decoded(), self._location)
        pending, self._pending = self._pending, None
        self._responses += 1
        if not self._parser.should_keep_alive() or pending is None:
            self.usable = False
            if self._transport is not None:
                self._transport.close()
        self._reset()
        if pending is not None and not pending.done():
            pending.set_result(response)

    def _decoded(self) -> bytes:
        """Return the body, decompressed if the server compressed it although it was asked not to."""
        body = b"".join(self._body)
        if ENCODINGS[self._encoding]:
            with contextlib.suppress(zlib.error):
                return zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(body, MOST_BYTES)
        return body

    def _reset(self) -> None:
        self._body: list[bytes] = []
        self._encoding = self._location = ""
        self._received = 0
        self._retry_after = None
        self._has_length = False
        self._ends_with_connection = False
        self._has_received = False

    def _fail(self, reason: str, *, stale: bool = False) -> None:
        pending, self._pending = self._pending, None
        if pending is not None and not pending.done():
            pending.set_exception(ConnectionBroken(reason, stale=stale))


def seconds_of(retry_after: bytes) -> float | None:
    """Return the seconds of a `Retry-After`, a number or a date; None if it is neither, or in the past."""
    text = retry_after.decode("latin-1").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError, TypeError, IndexError):
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None
