"""One connection to a server: HTTP/1.1, kept alive, one request at a time.

Here because it is the path of every document: general clients take several times as long for each request.
The parsing is httptools'. What an answer means is the client's.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

API_KEY = "FINEPHRASE_API_KEY"  # the environment variable
CONNECT_SECONDS = 30.0


class Response(NamedTuple):
    """A response: its status, what it says of trying again (seconds), and its body."""

    status: int
    retry_after: float | None
    body: bytes


class ConnectionBroken(ConnectionError):
    """It ended before the answer did; `fresh` is False if it had served earlier requests and none of this one."""

    def __init__(self, reason: str, *, fresh: bool = True) -> None:
        super().__init__(reason)
        self.fresh = fresh


class Server:
    """Where connections lead: the address, and what stands at the head of every request."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Reads a URL such as `http://127.0.0.1:8000` or `https://host/path/v1`.

        Raises:
            ValueError: it is none, or holds a user or a password, which logs would show.
        """
        if "@" in url:
            raise ValueError(
                f"an endpoint's URL has a user or a password in it; write http://HOST:PORT, and set {API_KEY} where "
                "the server wants a key"
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
        # A key in a header must not smuggle in further ones.
        if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key):
            raise ValueError(f"the API key has characters that no header can hold; correct {API_KEY}")
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        self._head = f"Host: {parts.netloc}\r\n{authorization}Accept: application/json\r\n"

    async def connect(self) -> Connection:
        """A new connection; raises OSError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            _, connection = await loop.create_connection(Connection, self._host, self._port, ssl=self._tls)
        return connection

    def post(self, path: str, body: bytes) -> bytes:
        """A request with a JSON body, as it goes over the wire."""
        head = (
            f"POST {self._path}{path} HTTP/1.1\r\n{self._head}Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def get(self, path: str) -> bytes:
        """A request without one."""
        return f"GET {self._path}{path} HTTP/1.1\r\n{self._head}\r\n".encode()


class Connection(asyncio.Protocol):
    """A keep-alive connection; `usable` says whether it takes another request."""

    def __init__(self) -> None:
        self.usable = False
        self.used = 0.0  # when it last gave an answer
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Response] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._served = 0
        self._retry_after: float | None = None
        self._reset()

    def exchange(self, request: bytes) -> asyncio.Future[Response]:
        """Sends a request; the future gives its answer or raises ConnectionBroken."""
        assert self._transport is not None, "not connected"
        assert self._waiting is None, "one request at a time"
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def close(self, reason: str = "closed") -> None:
        """Ends it, and the request that waits, at once."""
        self._fail(reason)
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.usable = True

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:  # nothing was asked: whatever comes would be taken for the next answer
            self.close()
            return
        self._got_bytes = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.close(f"no HTTP answer: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._waiting is not None and self._ends_with_connection and error is None:
            self.on_message_complete()
        cause = str(error) or type(error).__name__ if error else "by the server"
        self._fail(f"connection closed ({cause})", fresh=self._got_bytes or not self._served)

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._reset()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._has_length = True
        elif name == b"retry-after" and value.strip().isdigit():
            self._retry_after = float(value)

    def on_headers_complete(self) -> None:
        self._ends_with_connection = not self._has_length

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if 100 <= self._parser.get_status_code() < 200:  # an interim answer; the real one follows
            return
        answer = Response(self._parser.get_status_code(), self._retry_after, b"".join(self._body))
        waiting, self._waiting = self._waiting, None
        self._served += 1
        if not self._parser.should_keep_alive() or waiting is None:
            self.usable = False
            if self._transport is not None:
                self._transport.close()
        self._reset()
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _reset(self) -> None:
        self._body: list[bytes] = []
        self._retry_after = None
        self._has_length = False
        self._ends_with_connection = False
        self._got_bytes = False

    def _fail(self, reason: str, *, fresh: bool = True) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(ConnectionBroken(reason, fresh=fresh))
