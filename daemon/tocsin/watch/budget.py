"""How much a node may be asked: requests per second and requests in flight, and less of both while it is in trouble.

Pure. Promises never to send more than the configured rate in any second, and that sporadic errors do not blind the
watch: single answers that go wrong cost at most a short pause and a quarter of the rate, and only a node that fails
more than a fifth of its answers is asked less and less, down to ``floor``. Times are seconds of a monotonic clock,
passed in by the caller.
"""

from collections import deque
from math import ceil, inf

_MARGIN = 1.05  # requests are counted where they arrive, not where they leave
_EVEN_SHARE = 0.9  # of the rate, for requests that are not urgent: urgent ones find room at once

_ANSWERS = 100  # the last answers by which the node is judged,
_ANSWERS_AGE = 60.0  # none of them older than so many seconds
_MIN_FAILURES = 5
_FAILING_SHARE = 5  # more than a fifth of the answers failed: trouble
_INCIDENT = 10.0  # seconds; all that goes wrong within them is one incident, and one cut
_CUT = 1 / 2  # of the limit remains after an incident of trouble,
_THROTTLED_CUT = 3 / 4  # and after a throttled answer among good ones
_REGAIN = 60.0  # seconds from nothing to the configured rate
_MAX_PAUSE = 60.0  # seconds; a Retry-After beyond it is nonsense, or is sent again
_PAUSE_REST = 5  # pauses of a node that is not in trouble take at most a sixth of the time


class Budget:
    """The rate and the concurrency that one node gets now.

    Each answer is reported once, by ``succeeded``, ``failed`` (5xx, reset, timeout) or ``throttled`` (429, or any
    failure with a Retry-After).
    """

    def __init__(self, rate: float, concurrency: int) -> None:
        """``rate`` in requests per second; both are upper bounds."""
        self.rate = rate
        self.concurrency = concurrency
        self.floor = min(rate, max(rate / 8, 0.5))
        self.limit = rate
        self._sent: deque[float] = deque(maxlen=max(1, ceil(rate)))
        self._answers: deque[tuple[float, bool]] = deque(maxlen=_ANSWERS)  # (when, whether it failed)
        self._failures = 0  # among ``_answers``
        self._cut_at = -inf
        self._regained_at = -inf
        self._paused_until = -inf
        self._pauses_again_at = -inf

    @property
    def max_in_flight(self) -> int:
        """How many requests may be in flight together: fewer once the limit is below a half, since a hang among good
        answers takes a place for long; two at least, so that one hang does not stop the rest."""
        share = min(1.0, 2 * self.limit / self.rate)
        return max(min(2, self.concurrency), round(self.concurrency * share))

    def wait(self, now: float, *, urgent: bool) -> float:
        """Seconds until the next request may leave. Requests that are not urgent keep an even pace and leave room."""
        waits = [self._paused_until - now]
        allowed = max(1, ceil(self.limit))
        if len(self._sent) >= allowed:
            waits.append(self._sent[-allowed] + _MARGIN * allowed / self.limit - now)
        if self._sent and not urgent:
            waits.append(self._sent[-1] + _MARGIN / (_EVEN_SHARE * self.limit) - now)
        return max(0.0, *waits)

    def sent(self, now: float) -> None:
        self._sent.append(now)

    def succeeded(self, now: float) -> None:
        self._record(now, failed=False)
        if self.limit < self.rate and not self._in_trouble():
            self.limit = min(self.rate, self.limit + self.rate * max(0.0, now - self._regained_at) / _REGAIN)
        self._regained_at = now

    def failed(self, now: float) -> None:
        self._record(now, failed=True)
        if self._in_trouble():
            self._cut(now, _CUT)

    def throttled(self, now: float, retry_after: float | None = None) -> None:
        """The node asks to be asked less. ``retry_after`` in seconds; None: it did not say for how long.

        A throttled answer among good ones cuts the limit only while it is whole, and pauses only if the last pause is
        long over: the request that was throttled comes again later anyway.
        """
        self._record(now, failed=True)
        trouble = self._in_trouble()
        if trouble or self.limit >= self.rate:
            self._cut(now, _CUT if trouble else _THROTTLED_CUT)
        if retry_after is not None and (trouble or now >= self._pauses_again_at):
            pause = min(max(0.0, retry_after), _MAX_PAUSE)  # NaN becomes 0
            self._paused_until = max(self._paused_until, now + pause)
            self._pauses_again_at = now + pause + max(_INCIDENT, _PAUSE_REST * pause)

    def _record(self, now: float, *, failed: bool) -> None:
        if len(self._answers) == _ANSWERS:
            self._forget_oldest()
        self._answers.append((now, failed))
        self._failures += failed
        while self._answers[0][0] < now - _ANSWERS_AGE:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, failed = self._answers.popleft()
        self._failures -= failed

    def _in_trouble(self) -> bool:
        return self._failures >= _MIN_FAILURES and self._failures * _FAILING_SHARE > len(self._answers)

    def _cut(self, now: float, remains: float) -> None:
        """One cut per incident. What failed before a cut is settled by it: only later answers count for the next."""
        if now - self._cut_at < _INCIDENT:
            return
        self.limit = max(self.floor, self.limit * remains)
        self._cut_at = self._regained_at = now
        if self._in_trouble():
            self._answers.clear()
            self._failures = 0
