"""An index that matches one label set against many conditions at once. Conditions are the bits of a number.

For each new value a thousand regular expressions cost ten milliseconds, one ``re2.Set`` some microseconds. Large
patterns are matched one by one, since compiling them together takes long and blocks all threads.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

import re2

from tocsin.model.labels import OPTIONS, Labels, Matcher, Op, anchored, compiled

_MEMORY = 20_000  # values of one label
_SMALL = 1000  # instructions of a pattern that is asked together with the others


class MatcherIndex:
    """Conditions, each a list of matchers that must all hold."""

    def __init__(self, conditions: Iterable[Iterable[Matcher]]) -> None:
        self._columns: dict[str, _Column] = {}
        self._all = 0
        for index, matchers in enumerate(conditions):
            self._all |= 1 << index
            for matcher in matchers:
                self._columns.setdefault(matcher.name, _Column()).add(matcher, 1 << index)

    def matching(self, labels: Labels) -> int:
        """The conditions that hold, as bits; the first condition is the lowest."""
        failing = 0
        for name, column in self._columns.items():
            failing |= column.failing(labels.get(name, ""))
        return self._all & ~failing


def set_bits(number: int) -> Iterator[int]:
    """Their positions, the lowest first."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest


class _Column:
    """The matchers of one label. A text is ``(is a pattern, text)``; it hits a value that it equals or matches."""

    def __init__(self) -> None:
        self._broken: dict[tuple[bool, str], int] = {}  # conditions that a hit of this text breaks
        self._met: list[dict[tuple[bool, str], int]] = []  # and those that it meets; one of a condition in each layer
        self._wanting: list[int] = []  # the conditions of each layer
        self._patterns: dict[str, int] = {}
        self._known: dict[str, int] = {}

    def add(self, matcher: Matcher, condition: int) -> None:
        text = (matcher.op in (Op.REGEX, Op.NOT_REGEX), matcher.value)
        if text[0]:
            self._patterns.setdefault(matcher.value, len(self._patterns))
        if matcher.op in (Op.NOT_EQUAL, Op.NOT_REGEX):
            self._broken[text] = self._broken.get(text, 0) | condition
            return
        layer = next((at for at, wanting in enumerate(self._wanting) if not wanting & condition), len(self._wanting))
        if layer == len(self._wanting):
            self._wanting.append(0)
            self._met.append({})
        self._wanting[layer] |= condition
        self._met[layer][text] = self._met[layer].get(text, 0) | condition

    def failing(self, value: str) -> int:
        """The conditions that fail because of this value."""
        known = self._known.get(value)
        if known is None:
            small, large, at_once = self._compiled
            hits = [(False, value)]
            if at_once is not None and (indexes := at_once.Match(value)):
                hits += [(True, small[index]) for index in indexes if index < len(small)]
            else:  # not even the pattern that always matches: it ran out of its memory and says nothing
                large = [*self._patterns]
            hits += [(True, pattern) for pattern in large if compiled(pattern).search(value) is not None]
            known = 0
            for text in hits:
                known |= self._broken.get(text, 0)
            for wanting, met in zip(self._wanting, self._met, strict=True):
                for text in hits:
                    wanting &= ~met.get(text, 0)
                known |= wanting
            if len(self._known) >= _MEMORY:
                self._known.clear()
            self._known[value] = known
        return known

    @cached_property
    def _compiled(self) -> "tuple[list[str], list[str], re2.Set | None]":
        """Small and large patterns, and the small ones with one that always matches as one; None when they are too many."""
        small: list[str] = []
        large: list[str] = []
        together = re2.Set.SearchSet(OPTIONS)
        try:
            for pattern in self._patterns:
                if compiled(pattern).programsize > _SMALL:
                    large.append(pattern)
                    continue
                small.append(pattern)
                together.Add(anchored(pattern))
            together.Add("")
            together.Compile()
        except re2.error:
            return small, large, None
        return small, large, together
