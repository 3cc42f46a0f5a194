"""Limits that the client learns from an endpoint's answers: requests in flight, and the time-out of a request."""

from __future__ import annotations

from finephrase_dagster.rephrase.policy import RetryPolicy


class ConcurrencyLimit:
    """How many requests an endpoint takes at once, learned from its "too many requests" answers."""

    def __init__(self, maximum: int, policy: RetryPolicy) -> None:
        self.value = float(maximum)
        self._maximum = float(maximum)
        self._policy = policy
        self._throttled_share = 0.0  # of recent answers
        self._throttled_alone = 0
        self._restored_until = 0.0

    @property
    def is_exceeded(self) -> bool:
        """Whether many requests are throttled, and not one row alone."""
        return self._throttled_share > self._policy.throttled_share / 2

    def record_answer(self) -> None:
        """Raise the limit a little if few requests are throttled."""
        self._throttled_share *= 1 - self._policy.throttled_memory
        if self._throttled_share < self._policy.recovered_share:
            self.value = min(self._maximum, self.value * self._policy.limit_growth)

    def record_throttled(self, now: float, in_flight: int) -> None:
        """Lower the limit to the other requests in flight if many requests are throttled.

        An endpoint that also throttles requests sent alone limits something other than concurrency, such as
        requests per minute: its limit is restored for a while.
        """
        policy = self._policy
        self._throttled_share += policy.throttled_memory * (1 - self._throttled_share)
        self._throttled_alone += not in_flight
        if self._throttled_alone >= policy.throttled_alone:
            self._throttled_alone = 0
            self._restored_until, self.value = now + policy.limit_restored, self._maximum
        elif self._throttled_share > policy.throttled_share and now > self._restored_until:
            self.value = max(1.0, min(self.value, float(in_flight)))
            self._throttled_share = 2 * policy.recovered_share


class TimeLimit:
    """How long a request may take: `max_tokens` at the pace of recent completions, times a slack.

    A long completion is no slower per token than short ones, which waited and were prefilled as well.
    """

    def __init__(self, max_tokens: int, policy: RetryPolicy) -> None:
        self.is_known = False  # after the first completion
        self._max_tokens = max_tokens
        self._policy = policy
        self._seconds_per_token = 0.0

    @property
    def seconds(self) -> float:
        """The time-out of a request."""
        if not self.is_known:
            slow = self._policy.first_answer + self._max_tokens / self._policy.slowest_pace
            return min(slow, self._policy.longest_timeout)
        usual = self._policy.slack * self._seconds_per_token * self._max_tokens
        return min(max(usual, self._policy.shortest_timeout), self._policy.longest_timeout)

    def record_completion(self, seconds: float, tokens: int, characters: int) -> None:
        """Learn from a completion; `tokens` is 0 if the server does not count them."""
        policy = self._policy
        pace = seconds / max(1.0, tokens or characters / policy.characters_per_token)
        weight = policy.pace_memory if self.is_known else 1.0
        self.is_known = True
        self._seconds_per_token += weight * (pace - self._seconds_per_token)
