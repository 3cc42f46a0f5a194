"""HTTP for the substitute Kubernetes API: paths to verbs, JSON answers, streamed logs, broken connections."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

PATH = re.compile(r"/apis?/(?:batch/)?v1/namespaces/([^/]+)/(pods|services|events|jobs)(?:/([^/]+))?(?:/(log|status))?")

Object = dict[str, Any]


class Api(Protocol):
    """The server's state."""

    asked: set[tuple[str, str, str]]

    def create(self, kind: str, namespace: str, body: Object) -> Object: ...

    def find(self, kind: str, namespace: str, name: str) -> Object: ...

    def listed(self, kind: str, namespace: str, query: Mapping[str, str]) -> Object: ...

    def delete(self, kind: str, namespace: str, name: str, policy: str | None) -> Object: ...

    def log(
        self, namespace: str, name: str, query: Mapping[str, str], heard: Callable[[], bool]
    ) -> Iterator[bytes]: ...


class Refused(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], api: Api) -> None:
        super().__init__(address, _Handler)
        self.api = api
        self.lines: set[socket.socket] = set()
        self.stopped = False

    def process_request(self, request: Any, client_address: Any) -> None:
        self.lines.add(request)
        super().process_request(request, client_address)

    def hang_up(self) -> None:
        self.stopped = True
        for line in self.lines:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that closes its connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Do not log requests."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        path, _, query_text = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(query_text))
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        api = self.server.api
        found = PATH.fullmatch(path)
        try:
            if found is None:
                raise Refused(404, "NotFound", f"the server has no {path}")
            namespace, kind, name, part = found.groups()
            verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if name else "list")
            group = "batch" if kind == "jobs" else ""
            api.asked.add((verb, group, f"{kind}/{part}" if part else kind))
            if part == "log":
                self._stream(api.log(namespace, name, query, lambda: not self.server.stopped))
            elif method == "POST":
                self._send(201, api.create(kind, namespace, body))
            elif method == "DELETE":
                policy = query.get("propagationPolicy") or body.get("propagationPolicy")
                self._send(200, api.delete(kind, namespace, name, policy))
            else:
                self._send(200, api.find(kind, namespace, name) if name else api.listed(kind, namespace, query))
        except Refused as refused:
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
            self._send(refused.code, {**status, "reason": refused.reason, "message": str(refused)})

    def _send(self, code: int, value: Object) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, lines: Iterator[bytes]) -> None:
        first = next(lines, None)  # raises an error before anything is sent
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in itertools.chain([] if first is None else [first], lines):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")
