"""When a request is retried, and when a row or an endpoint is given up: every number, with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """The numbers of the client; all times are in seconds. docs/rephrasing.md shows how they work together."""

    # ROWS. Start of each attempt after the first: soon, for a lost connection; late, for a server that is restarting.
    attempt_starts: tuple[float, ...] = (0.0, 0.5, 1.5, 4.0, 10.0)
    # An attempt that took longer counts as two, so that a row that always hangs does not block its place for long.
    slow_attempt: float = 12.0
    # The row fails when an engine has died under it this often; twice may be chance, because other rows ran with it.
    deaths_per_row: int = 3
    # This many unresolved rows (or twice the concurrency, if more) look like an outage: a probe decides.
    max_unresolved: int = 16
    # Pauses before the probes, the last one repeated: at least four, so that one lost connection does not stop the run.
    probe_pauses: tuple[float, ...] = (0.0, 0.5, 1.5, 4.0)

    # HTTP 429, "TOO MANY REQUESTS". Pauses of a throttled row, the last one repeated: a busy server frees places soon.
    throttled_pauses: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    # A row that is throttled for longer, while others are answered, fails: usual limits are per minute.
    throttled_row: float = 60.0
    # How long an endpoint may answer nothing but 429 before the run stops: longer than the usual limits per minute.
    throttled_outage: float = 180.0
    # Longest `Retry-After` that a single row waits: five attempts must fit into a minute.
    retry_after_row: float = 12.0
    # Longest `Retry-After` that pauses an overloaded endpoint: a wrong header must not stop the run for an hour.
    retry_after_endpoint: float = 60.0
    # Weight of the latest answer in the share of throttled answers: it covers about 20 answers.
    throttled_memory: float = 0.05
    # Above this share of throttled answers the endpoint's limit falls to what it is serving.
    throttled_share: float = 0.3
    # Below this share the limit grows again; the gap between both shares prevents oscillation.
    recovered_share: float = 0.05
    # Growth of the limit per answer: it doubles within 35 answers.
    limit_growth: float = 1.02
    # So many throttled requests with nothing else in flight show that concurrency is not the cause: the limit is
    # restored, and stays for this long.
    throttled_alone: int = 5
    limit_restored: float = 30.0

    # TIME-OUTS. An attempt may take `slack` times as long as `max_tokens` take at the usual pace, within two bounds: a
    # few short answers say little about the pace, and longer than ten minutes means that the server hangs.
    slack: float = 3.0
    shortest_timeout: float = 10.0
    longest_timeout: float = 600.0
    # Before the first completion, when the pace is not known: a start, and `max_tokens` at a slow pace (tokens/s).
    first_answer: float = 60.0
    slowest_pace: float = 4.0
    # Estimates tokens where a server does not count them; usual for English.
    characters_per_token: int = 4
    # Weight of the latest answer in the usual pace: one slow answer changes little.
    pace_memory: float = 0.05
    # Longest time to open a connection, TLS included; a busy server accepts late.
    connect_timeout: float = 30.0
    # After so long without any answer, endpoints with requests in flight are asked whether they are alive.
    silence: float = 60.0
    # After so long, and then after twice as long each, the log says which endpoint is waited for.
    notice: float = 10.0
    # Interval of the checks for time-outs and for pauses that are over; each check looks at all requests in flight.
    watch_interval: float = 0.25

    # ENDPOINTS. So many consecutive requests without an answer are no coincidence: the endpoint is down.
    failures_until_down: int = 3
    # First pause before a check of an endpoint that is down; doubled up to the longest, so that it is soon used again.
    first_pause: float = 1.0
    longest_pause: float = 8.0
    # Longest time for an answer of `/v1/models`; a server under load answers late.
    alive_timeout: float = 10.0
    # How long all endpoints may be down before the run stops, or an engine of ours is restarted. Shorter before the
    # first answer, when a wrong URL is more likely than a restart.
    outage: float = 30.0
    outage_at_start: float = 10.0
    # Connections that are opened at once per endpoint: a server's backlog often holds no more than about 100.
    connecting: int = 64
    # A connection that was idle for longer may have been closed by the server unseen: the request is sent once more.
    stale_after: float = 1.0

    # ENGINES OF OURS. Time from an engine's broken connections to the end of its process.
    death: float = 1.0
    # Restarts without an answer between them after which the run stops: a further one would not help.
    restarts: int = 3
