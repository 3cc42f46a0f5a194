"""Dagster's web server, closed to web pages of other origins.

Dagster executes mutations of any request, so a page that a browser has open elsewhere could launch runs here.
`python -m finephrase_dagster.orchestration.webserver` takes the arguments of `dagster-webserver`; with `dev` first,
those of `dagster dev`, whose web server is then this one.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finephrase_dagster.errors import FinephraseError
from finephrase_dagster.orchestration import mlflow_links
from finephrase_dagster.orchestration.stores import open_instance

ALLOWED_HOSTS = "FINEPHRASE_ALLOWED_HOSTS"
DEFAULT_PORTS = {"http": 80, "https": 443}
READING = ("GET", "HEAD", "OPTIONS")
PREFLIGHTED = ("application/json", "application/graphql")
"""Content types that a browser sends to another origin only with the server's permission, which is never given."""
BAD_REQUEST, FORBIDDEN, METHOD_NOT_ALLOWED, POLICY_VIOLATION = 400, 403, 405, 1008

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class AllowedHostsInvalid(FinephraseError, exit_status=2):
    """`FINEPHRASE_ALLOWED_HOSTS` holds something that is not a host name."""


def allowed_hosts() -> tuple[str, ...]:
    """Return the host names in `FINEPHRASE_ALLOWED_HOSTS`, under which users reach the pages, in lower case."""
    names = [name.strip().lower() for name in os.environ.get(ALLOWED_HOSTS, "").split(",") if name.strip()]
    for name in names:
        if _host(name) != (name.strip("[]"), None):
            raise AllowedHostsInvalid(
                f"{ALLOWED_HOSTS}: {name!r} is not a host name. Write names without scheme and port, separated by "
                "commas, such as finephrase.example.org."
            )
    return tuple(names)


class SameOrigin:
    """ASGI middleware that refuses what a web page of another origin, or under another name of this host, can send.

    It also answers requests for links to MLflow.
    """

    def __init__(self, app: App, hosts: tuple[str, ...]) -> None:
        self._app, self._hosts = app, {host.strip("[]") for host in hosts}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        refusal = self.refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None and scope["type"] == "http" and scope["path"] == mlflow_links.PATH:
            await respond(send, *await mlflow_links.answer(scope["query_string"]))
        elif refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": refusal[1]})
        else:
            await respond(send, *refusal)

    def refusal(self, scope: Message) -> tuple[int, str] | None:
        """Return the status and the reason if a request is refused."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or len(origins) > 1:
            return BAD_REQUEST, "one Host header, and at most one Origin header, are required"
        host, port = _host(hosts[0])
        if not self._is_allowed(host):
            return FORBIDDEN, f"this server does not answer under this name; {ALLOWED_HOSTS} lists further names"
        if origins and not self._is_ours(origins[0], host, port):
            return FORBIDDEN, f"pages of other origins are refused; {ALLOWED_HOSTS} lists further names of this server"
        if scope["type"] == "websocket":
            return None
        is_graphql = scope["path"].rstrip("/").endswith("/graphql")
        if scope["method"] in READING and is_graphql and scope.get("query_string"):
            return METHOD_NOT_ALLOWED, "send GraphQL by POST, with Content-Type: application/json"
        content = headers.get("content-type", [""])[0].partition(";")[0].strip().lower()
        if scope["method"] not in READING and content not in PREFLIGHTED and not origins:
            return FORBIDDEN, "send Content-Type: application/json"
        return None

    def _is_allowed(self, host: str) -> bool:
        if host == "localhost" or host in self._hosts:
            return True
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return False

    def _is_ours(self, origin: str, host: str, port: int | None) -> bool:
        """Return whether an origin is the server itself, or a name that is listed (a proxy may change the host)."""
        scheme, separator, place = origin.partition("://")
        if not separator or scheme not in DEFAULT_PORTS:
            return False
        name, origin_port = _host(place)
        default = DEFAULT_PORTS[scheme]
        return name in self._hosts or (name == host and (origin_port or default) == (port or default))


async def respond(send: Send, status: int, text: str) -> None:
    """Send a text, or redirect to the address that it is."""
    place = [(b"location", text.encode("ascii", "ignore"))] if status == mlflow_links.FOUND else []
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *place]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


def _host(text: str) -> tuple[str, int | None]:
    """Return name and port of `HOST` or `HOST:PORT`; an empty name if it is neither."""
    try:
        parts = urlsplit(f"//{text}")
        name, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None
    return (name, port) if parts.netloc == text and "@" not in text else ("", None)


def main() -> None:
    """Run `dagster-webserver`, or `dagster dev` if that is the first argument."""
    hosts = allowed_hosts()
    if sys.argv[1:2] == ["dev"]:
        # Dagster recommends a command that has no web server of ours.
        warnings.filterwarnings("ignore", "Function `dev_command` is superseded", FutureWarning)
        from dagster._cli import dev
        from dagster._cli import main as dagster

        start = dev.open_ipc_subprocess

        def start_ours(parts: Sequence[str], **options: Any) -> Any:
            return start([__spec__.name if part == "dagster_webserver" else part for part in parts], **options)

        dev.open_ipc_subprocess = start_ours
        if home := os.environ.get("DAGSTER_HOME"):
            open_instance(Path(home)).dispose()  # before webserver and daemon do so at once
        dagster()
        return
    from dagster_webserver import app, cli

    class Webserver(app.DagsterWebserver[Any, Any]):
        def create_asgi_app(self, **options: Any) -> Any:
            return SameOrigin(super().create_asgi_app(**options), hosts)

    app.DagsterWebserver = Webserver  # type: ignore[misc]
    cli.main()


if __name__ == "__main__":
    main()
