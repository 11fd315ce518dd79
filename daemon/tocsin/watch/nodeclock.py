"""DSS's clock, as far as its answers tell it.

Promises a present that no setting of the machine's wall clock moves, and to notice when DSS's own clock is set back:
then new runs seem to be older than what was seen before, and older than the watch itself.
"""

from collections import deque
from datetime import datetime, timedelta
from statistics import median_low

from tocsin.kit.clock import Clock

_SAMPLES = 31
_SAME_CLOCK = timedelta(seconds=1)  # Date headers count in seconds: less than that is noise
_JUMP = timedelta(seconds=3)  # a clock that was set back by less was merely misread
_REMEMBERED = 3 * 3600.0  # seconds for which it is known that the clock was set back and forth again


class NodeClock:
    """A ``Clock`` on DSS's time. What it showed when the monotonic one showed 0 is its origin."""

    def __init__(self, clock: Clock, offset: timedelta, last_ok_at: datetime | None, least: timedelta) -> None:
        """``offset`` of DSS's clock to ours, and the ``least`` of it lately, as an earlier life knew them when DSS last
        answered at ``last_ok_at``."""
        now = clock.now()
        self._clock = clock
        self._origin = now + offset - timedelta(seconds=clock.monotonic())
        self._samples: deque[datetime] = deque(maxlen=_SAMPLES)
        # What the watch's rows were written by: an answer that is yet to come was given before the clocks were set back.
        self._latest = None if last_ok_at is None else self._origin + max(timedelta(0), last_ok_at - now)
        self._earliest = self._earliest_before = self._origin if last_ok_at else None
        self._least = self._least_before = self._origin + (min(least, offset) - offset) if last_ok_at else None
        self._forgets_at = clock.monotonic() + _REMEMBERED
        self._moved_at = clock.monotonic()  # when it was last seen to be set; before our start nobody knows

    def now(self) -> datetime:
        """The present on DSS's clock; ours as long as the two agree."""
        return self._clock.now() + self.offset

    def monotonic(self) -> float:
        return self._clock.monotonic()

    @property
    def offset(self) -> timedelta:
        """DSS's clock minus ours."""
        return self._offset(self._origin)

    @property
    def least_offset(self) -> timedelta:
        """The least that it was for hours. By a clock that is set ahead for a while nothing becomes overdue."""
        known = (self._least, self._least_before, self._origin)
        return self._offset(min(origin for origin in known if origin is not None))

    def _offset(self, origin: datetime) -> timedelta:
        offset = origin + timedelta(seconds=self.monotonic()) - self._clock.now()
        return offset if abs(offset) >= _SAME_CLOCK else timedelta(0)

    def told(self, date: datetime, took: float) -> None:
        """An answer that took so many seconds had this Date: the second in which it was made."""
        made = self.monotonic() - took / 2
        self._samples.append(date + timedelta(milliseconds=500) - timedelta(seconds=made))
        before, self._origin = self._origin, median_low(self._samples)
        origin = self._origin
        if abs(origin - before) >= _JUMP:
            self._moved_at = self.monotonic()
        self._latest = max(self._latest or origin, origin)
        if self.monotonic() >= self._forgets_at:
            self._earliest_before, self._earliest = self._earliest, origin
            self._least_before, self._least = self._least, origin
            self._forgets_at = self.monotonic() + _REMEMBERED
        self._earliest = min(self._earliest or origin, origin)
        self._least = min(self._least or origin, origin)

    def earliest(self, seconds_ago: float | None = None) -> datetime:
        """The earliest that DSS's clock may have shown then or since; without a moment, that it may show by all that is
        remembered. Each answer counts, the last ones and, unless the clock has not been set since then, old ones."""
        then = self.monotonic() - (seconds_ago or 0.0)
        old = () if seconds_ago is not None and then > self._moved_at else (self._earliest, self._earliest_before)
        known = [origin for origin in (*old, *self._samples) if origin is not None]
        return min(known, default=self._origin) + timedelta(seconds=then)

    @property
    def set_back(self) -> timedelta:
        """How far, by any of the last answers: what seems to be older than the watch may be newer."""
        return self._behind(min(self._samples, default=self._origin))

    @property
    def surely_set_back(self) -> timedelta:
        """As ``set_back``, but by most of them: the watch's rows are to be moved back too."""
        return self._behind(self._origin)

    def moved_back(self) -> None:
        """The watch's rows agree with the clock."""
        self._latest = self._origin

    def _behind(self, origin: datetime) -> timedelta:
        back = (self._latest or origin) - origin
        return back if back >= _JUMP else timedelta(0)
