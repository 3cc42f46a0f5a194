"""How fast a run finishes requests, and when it will end.

A *segment* is the time in which as many requests were finished as are in flight together, so short and long
completions have the weight that they have in the dataset. Three things would mislead a plain average: what earlier runs
finished (it never counts), the beginning (short completions come back first), and stalls (a segment that took over
twice as long as usual). The end takes longer, too: requests drain, and the last one takes as long as the longest.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import pairwise
from statistics import median
from typing import NamedTuple

SEGMENTS = 64
LEAST_REQUESTS = 16  # of a segment
ENOUGH = 4  # segments that make a steady rate
STALLED = 2.0  # a segment that took so many times the median does not count


class _Point(NamedTuple):
    """The end of a segment: the run's seconds, requests and tokens until then, and its longest request in seconds."""

    seconds: float
    requests: int
    tokens: int
    longest: float


class Pace:
    """The finished segments of a run.

    Attributes:
        best: the highest steady rate of completion tokens per second so far; None before there is one.
    """

    def __init__(self) -> None:
        self.best: float | None = None
        self._points = deque([_Point(0.0, 0, 0, 0.0)], maxlen=SEGMENTS + 1)
        self._width = LEAST_REQUESTS
        self._longest = 0.0

    def record_request(self, seconds: float) -> None:
        """Record how long a request took."""
        if seconds > self._longest:
            self._longest = seconds

    def record(self, seconds: float, requests: int, tokens: int, *, in_flight: int) -> None:
        """Record how far a run is; called at least once per segment, or at short intervals.

        Args:
            seconds: since the first request was sent.
            requests: finished by this run.
            tokens: completion tokens of this run.
            in_flight: requests that wait for an answer.
        """
        self._width = max(self._width, in_flight)
        if requests - self._points[-1].requests >= self._width:
            self._points.append(_Point(seconds, requests, tokens, self._longest))
            self._longest = 0.0
            rates = self._rates()
            if rates is not None and rates[2]:
                self.best = max(self.best or 0.0, rates[1])

    @property
    def requests_per_second(self) -> float | None:
        """Requests finished per second; None until the first segment is finished."""
        rates = self._rates()
        return rates[0] if rates else None

    @property
    def is_steady(self) -> bool:
        """Whether the beginning of the run no longer counts."""
        rates = self._rates()
        return rates is not None and rates[2]

    def seconds_left(self, left: int) -> float | None:
        """Return the estimated seconds until so many requests are finished; None until the first segment is."""
        rates = self._rates()
        if rates is None:
            return None
        return max(0, left - self._width) / rates[0] + self._tail * min(1.0, left / self._width)

    @property
    def _tail(self) -> float:
        """The longest request of a usual segment."""
        return median(point.longest for point in list(self._points)[1:])

    def _rates(self) -> tuple[float, float, bool] | None:
        """Return requests and tokens per second over the segments that count, and whether they are steady."""
        if len(self._points) < 2:
            return None
        points, begun = list(self._points), 0.0
        for begun in (2 * self._tail, self._tail, -math.inf):
            points = [point for point in self._points if point.seconds >= begun]
            if len(points) > ENOUGH:
                break
        segments = [(after.seconds - before.seconds, before, after) for before, after in pairwise(points)]
        usual = median(seconds / (after.requests - before.requests) for seconds, before, after in segments)
        segments = [one for one in segments if one[0] <= STALLED * usual * (one[2].requests - one[1].requests)]
        seconds = math.fsum(one[0] for one in segments)
        if not seconds:
            return None
        requests, tokens = (sum(one[2][field] - one[1][field] for one in segments) for field in (1, 2))
        return requests / seconds, tokens / seconds, begun > 0
