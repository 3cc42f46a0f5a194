"""When a request is retried, and when a row or an endpoint is given up: every number, with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """The numbers of the client; all times in seconds. The defaults suit vLLM and the usual hosted endpoints.

    How they work together is drawn in docs/rephrasing.md.
    """

    # A row.
    attempt_starts: tuple[float, ...] = (0.0, 0.5, 1.5, 4.0, 10.0)
    """When the attempts at a row begin, from the first; their number is the number of attempts.

    Short at first, for a dropped connection; long at the end, for a server that is just restarting.
    """

    slow_attempt: float = 12.0
    """An attempt that took longer counts as two, so that a row that hangs does not block its place for an hour."""

    deaths_per_row: int = 3
    """Deaths of an engine while it served a row after which the row fails; before the last try it runs alone."""

    max_unresolved: int = 16
    """Unresolved rows (at least; twice the concurrency if that is more) that start a probe of the endpoints."""

    probe_pauses: tuple[float, ...] = (0.0, 0.5, 1.5, 4.0)
    """Pauses before each probe, a request that was completed before; one completion settles all unresolved rows."""

    # "Too many requests" (HTTP 429).
    throttled_pauses: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    """Pauses between attempts at a throttled row; the last one is repeated."""

    throttled_row: float = 60.0
    """A row that is throttled for longer, while others are completed, fails."""

    retry_after_row: float = 12.0
    """Longest `Retry-After` that a single row waits, so that five attempts fit in a minute."""

    retry_after_endpoint: float = 60.0
    """Longest `Retry-After` for which an overloaded endpoint gets no requests at all."""

    throttled_memory: float = 0.05
    """Weight of the latest answer in the share of throttled answers: it looks back on about 20 answers."""

    throttled_share: float = 0.3
    """Above this share of throttled answers the endpoint's limit falls to what it is serving."""

    recovered_share: float = 0.05
    """Below this share of throttled answers the limit grows again."""

    limit_growth: float = 1.02
    """Growth of the limit with each answer: it doubles in 35 answers."""

    throttled_alone: int = 5
    """Throttled requests with nothing else in flight that show that concurrency is not the cause."""

    limit_restored: float = 30.0
    """How long the limit then stays at its maximum."""

    # Waiting for an answer.
    slack: float = 3.0
    """A request may take this many times longer than `max_tokens` take at the usual pace."""

    shortest_timeout: float = 10.0
    """Lower bound of that time-out: the pace of a few short answers says little."""

    longest_timeout: float = 600.0
    """Upper bound of that time-out, and the time-out before the first completion."""

    characters_per_token: int = 4
    """Estimates the pace where a server does not count tokens; usual for English."""

    pace_memory: float = 0.05
    """Weight of the latest answer in the usual pace."""

    connect_timeout: float = 30.0
    """Longest time to open a connection, TLS included."""

    silence: float = 60.0
    """After so long without any answer, endpoints with requests in flight are asked whether they are alive."""

    watch_interval: float = 0.25
    """Time between two looks at time-outs and pauses that are over."""

    # An endpoint.
    failures_until_down: int = 3
    """Consecutive requests without an answer after which an endpoint is down."""

    first_pause: float = 1.0
    """First pause of an endpoint that is down; each further one is twice as long."""

    longest_pause: float = 8.0
    """Longest such pause: an endpoint that is back is found within this time."""

    alive_timeout: float = 10.0
    """Time that `/v1/models`, which generates nothing, may take to show that an endpoint is alive."""

    outage: float = 30.0
    """How long all endpoints may be down before the run stops, or an engine is restarted."""

    outage_at_start: float = 10.0
    """The same before anything was answered: then a wrong URL is more likely than a restart."""

    connecting: int = 64
    """Connections opened at once per endpoint: a server's backlog drops more than about 100."""

    stale_after: float = 1.0
    """A kept connection that was idle for longer may have been closed by the server: the request is sent once more."""

    # An engine of ours.
    death: float = 1.0
    """Time from an engine's broken connections to the end of its process."""

    restarts: int = 3
    """Restarts of an engine without an answer between them after which the run stops."""
