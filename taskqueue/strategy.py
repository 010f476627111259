"""Which queue gets the free slots of a consumer that serves several: a decision, and nothing else.

A strategy is asked whenever slots are free, with the queues in which something may wait; one that turns out to be empty
is left out when it is asked again a moment later, so that no slot stays free while another queue has tasks.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol


class Strategy(Protocol):
    """Shares free slots among queues. May keep a state of its own; a consumer has one.

    What ``--strategy`` names makes it of one argument, a mapping of the queues to their weights.
    """

    def share(self, free: int, promising: Sequence[str]) -> Mapping[str, int]:
        """Return how many of the ``free`` slots each of these queues gets; in sum no more, all of them best.

        If none gets any, it is asked again after the poll interval, or when something happens.
        """
        ...


class Weighted:
    """Gives each queue its part in the long run: with weights 1 and 2, of three slots one and two.

    Smooth weighted round-robin: each slot goes to the queue that is furthest behind, so that the parts are exact, and
    no queue waits longer than it must. What a queue has missed while it was empty is not made up for.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Take the weight of each queue, above 0."""
        self._weights = dict(weights)
        self._behind = dict.fromkeys(weights, 0.0)

    def share(self, free: int, promising: Sequence[str]) -> Mapping[str, int]:
        """See Strategy."""
        total = sum(self._weights[queue] for queue in promising)
        for queue in self._behind.keys() - set(promising):
            self._behind[queue] = 0.0
        given = dict.fromkeys(promising, 0)
        for _ in range(free if promising else 0):
            for queue in promising:
                self._behind[queue] += self._weights[queue]
            first = max(promising, key=lambda queue: self._behind[queue])
            self._behind[first] -= total
            given[first] += 1
        return given


class Strict:
    """Gives all to the queue of the highest weight, and to the next one only what that leaves; of equals, in turn."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """Take the weight of each queue."""
        self._weights = dict(weights)
        self._turns = 0

    def share(self, free: int, promising: Sequence[str]) -> Mapping[str, int]:
        """See Strategy."""
        highest = max((self._weights[queue] for queue in promising), default=0.0)
        equals = [queue for queue in promising if self._weights[queue] == highest]
        given = dict.fromkeys(equals, 0)
        for _ in range(free if equals else 0):
            given[equals[self._turns % len(equals)]] += 1
            self._turns += 1
        return given
