"""A cache of the most recently used values, bounded by what they cost."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Keeps the values used last, as long as their cost fits the budget. Thread-safe; two threads that miss
    the same key at once may both make its value."""

    def __init__(self, budget: int, cost: Callable[[T], int]) -> None:
        """
        Args:
            budget: most cost of all values kept; the last one is kept whatever it costs.
            cost: of one value, in the unit of ``budget``.
        """
        self._left, self._cost = budget, cost
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made if it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = made
                self._left -= self._cost(made)
            while self._left < 0 and len(self._values) > 1:
                self._left += self._cost(self._values.popitem(last=False)[1])
        return made
