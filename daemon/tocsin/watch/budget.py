"""What a node may be asked: requests a second, requests at once, and less of both when it suffers. Pure.

Promises never to send more than the configured rate in any second, to halve on trouble and to regain slowly, to keep
off as long as a Retry-After says. Times are seconds of a monotonic clock, given by the caller.
"""

from collections import deque
from math import ceil, inf

_MARGIN = 1.05  # requests are counted where they arrive, not where they leave
_EVEN_SHARE = 0.8  # of the rate, for what is not urgent: the urgent finds room at once
_FLOOR = 1 / 64  # of the configured rate: a node is never given up
_CALM = 10.0  # seconds without trouble before the limit grows again
_REGAIN = 60.0  # seconds of calm from nothing to the whole
_LONGEST_PAUSE = 300.0  # a Retry-After beyond this is asked again
_REMEMBERED = 10
_SICK = 3  # failures among the remembered answers that are no coincidence


class Budget:
    """The rate and concurrency that one node gets now."""

    def __init__(self, rate: float, concurrency: int) -> None:
        self.rate = rate
        self.concurrency = concurrency
        self.limit = rate
        self._sent: deque[float] = deque(maxlen=max(1, ceil(rate)))
        self._answers: deque[bool] = deque(maxlen=_REMEMBERED)
        self._closed_until = -inf
        self._cut_at = -inf
        self._grown_at = -inf

    @property
    def at_once(self) -> int:
        """How many requests may be on their way together."""
        return max(1, round(self.concurrency * self.limit / self.rate))

    def wait(self, now: float, *, urgent: bool) -> float:
        """Seconds until the next request may leave. What is not urgent keeps an even pace and leaves some room."""
        waits = [self._closed_until - now]
        allowed = max(1, ceil(self.limit))
        if len(self._sent) >= allowed:
            waits.append(self._sent[-allowed] + _MARGIN * allowed / self.limit - now)
        if self._sent and not urgent:
            waits.append(self._sent[-1] + _MARGIN / (_EVEN_SHARE * self.limit) - now)
        return max(0.0, *waits)

    def sent(self, now: float) -> None:
        self._sent.append(now)

    def throttled(self, now: float, retry_after: float | None = None) -> None:
        """The node said that it has too much to do, or showed it by a timeout."""
        if retry_after is not None:
            self._closed_until = max(self._closed_until, now + min(retry_after, _LONGEST_PAUSE))
        if now - self._cut_at >= 1.0 / self.limit:  # requests that left together are one warning
            self.limit = max(self.limit / 2, self.rate * _FLOOR)
            self._cut_at = self._grown_at = now

    def failed(self, now: float) -> None:
        """An error of the server, which counts as trouble only when it is not alone: one broken scenario is not."""
        self._answers.append(False)
        if self._answers.count(False) >= _SICK:
            self.throttled(now)

    def succeeded(self, now: float) -> None:
        self._answers.append(True)
        since = max(self._grown_at, self._cut_at + _CALM)
        if self.limit < self.rate and now > since:
            self.limit = min(self.rate, self.limit + self.rate * (now - since) / _REGAIN)
            self._grown_at = now
