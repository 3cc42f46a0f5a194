"""What Dagster's web server refuses: requests that pages of other origins can make a browser send."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finephrase_dagster.orchestration.webserver import AllowedHostsInvalid, SameOrigin, allowed_hosts

HERE = "127.0.0.1:3000"
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,12}(\.[a-z]{2,5}){1,2}", fullmatch=True)


def answer(
    method: str = "POST",
    path: str = "/graphql",
    query: str = "",
    scheme: str = "http",
    hosts: tuple[str, ...] = ("pages.example.org",),
    **headers: str,
) -> int:
    """Return the status of a request; 200 and 101 come from the application behind the middleware."""
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        statuses.append(200 if scheme == "http" else 101)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        if "status" in message or message["type"] == "websocket.close":
            statuses.append(message.get("status", 403))

    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": scheme, "method": method, "path": path, "query_string": query.encode(), "headers": pairs}
    asyncio.run(SameOrigin(app, hosts)(scope, receive, send))
    (status,) = statuses
    return status


JSON = {"content_type": "application/json"}


@pytest.mark.parametrize(
    "host", [HERE, "localhost:3000", "127.0.0.1", "[::1]:3000", "pages.example.org", "PAGES.example.org:8443"]
)
def test_the_own_pages_may_read_and_post(host: str) -> None:
    assert answer("GET", "/runs", host=host) == 200
    assert answer(host=host, origin=f"http://{host}", **JSON) == 200
    assert answer(host=host, origin=f"http://{host}", content_type="text/plain") == 200
    assert answer(scheme="websocket", host=host, origin=f"http://{host}") == 101


def test_a_script_may_post_json_without_an_origin() -> None:
    assert answer(host=HERE, content_type="application/json; charset=utf-8") == 200
    assert answer(host=HERE, scheme="websocket") == 101


@pytest.mark.parametrize(
    "origin",
    [
        *("null", "", "http://", "file://", "http://127.0.0.1:8888", "http://localhost:3000", "http://127.0.0.1"),
        *("https://evil.example", "http://127.0.0.1:3000.evil.example", "http://evil@127.0.0.1:3000"),
        *("ftp://127.0.0.1:3000", "http://127.0.0.1:3000/", "https://pages.example.org.evil.example"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "websocket"])
def test_a_page_of_another_origin_is_refused(origin: str, scheme: str) -> None:
    assert answer(scheme=scheme, host=HERE, origin=origin, **JSON) == 403


@given(NAMES)
def test_a_name_that_is_not_listed_is_refused_whatever_it_resolves_to(name: str) -> None:
    if name != "pages.example.org":
        for host in (name, f"{name}:3000", f"127.0.0.1.{name}", f"10.{name}", f"localhost.{name}"):
            assert answer("GET", "/", host=host) == 403
            assert answer(host=host, origin=f"http://{host}", **JSON) == 403
            assert answer(scheme="websocket", host=host, origin=f"http://{host}") == 403


@pytest.mark.parametrize("host", ["", "10.0.0.1:3000", "0.0.0.0", "localhost:x", "a@localhost", "localhost/..", "*"])
def test_a_host_that_is_no_loopback_name_is_refused(host: str) -> None:
    assert answer("GET", "/", host=host) == 403


def test_a_request_without_one_host_is_refused() -> None:
    assert answer("GET", "/") == 400
    assert answer("GET", "/", host=HERE, Host="evil.example") == 400


@pytest.mark.parametrize("path", ["/graphql", "/graphql/", "/prefix/graphql"])
def test_graphql_by_get_is_refused_even_for_the_own_pages(path: str) -> None:
    assert answer("GET", path, "query=mutation{x}", host=HERE) == 405
    assert answer("GET", path, "query=mutation{x}", host=HERE, origin=f"http://{HERE}") == 405
    assert answer("GET", path, host=HERE) == 200


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "multipart/form-data"],
)
def test_a_post_that_a_browser_sends_without_asking_is_refused(content_type: str) -> None:
    """A form of another site posts these types, and Dagster reads the query of the URL then."""
    assert answer(query="query=mutation{x}", host=HERE, content_type=content_type) == 403
    assert answer(path="/report_asset_materialization/a", host=HERE, content_type=content_type) == 403


@pytest.mark.parametrize("text", ["https://pages.example.org", "pages.example.org:443", "a/b", "a@b"])
def test_an_allowed_host_that_is_not_a_name_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINEPHRASE_ALLOWED_HOSTS", f"localhost, {text}")
    with pytest.raises(AllowedHostsInvalid, match="is not a host name"):
        allowed_hosts()
