"""A bank without a network: many brokers over one set of buckets, on a clock of their own.

Goal: the same run every time. Method: events in a heap; a batch takes one round trip.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence

from relay.limits.broker import Broker
from relay.limits.bucket import Buckets, read_reply
from relay.limits.decision import ADMITTED, Denied, Waiter
from relay.limits.limit_set import Costs, LimitSet
from relay.limits.scopes import Bucket, Limit

Draws = Sequence[tuple[Bucket, int]]

ROUND_TRIP_MS = 1.0
SWEEP_MS = 250.0


def limit_set_of(draws: Draws) -> tuple[LimitSet, Costs]:
    """Return a limit set of these buckets, and what each of them is to give."""
    limit_set = LimitSet((Limit(tuple(bucket for bucket, _ in draws), None),))
    costs = dict(draws)
    return limit_set, [costs[bucket] for bucket in limit_set.buckets]


class World:
    """Time, one bank, and the workers that ask it. `open` says whether the bank answers."""

    def __init__(self, workers: int) -> None:
        self.now_ms = 1_000_000.0
        self.buckets = Buckets()
        self.buckets.born_ms = 0.0
        self.open = True
        self.batches = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.brokers = [self._worker(number) for number in range(workers)]
        for broker in self.brokers:
            self._sweep(broker)

    def at(self, when_ms: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_ms, next(self._order), what))

    def run(self, until_ms: float) -> None:
        while self._events and self._events[0][0] <= until_ms:
            self.now_ms, _, what = heapq.heappop(self._events)
            what()
        self.now_ms = until_ms

    def admit(self, worker: int, draws: Draws, then: Callable[[bool, float], None]) -> None:
        """Ask for a call; `then` hears whether it runs, and how long it waited (ms)."""
        began_ms = self.now_ms
        decision = self.brokers[worker].ask(*limit_set_of(draws), began_ms)
        if isinstance(decision, Waiter):
            waiter = decision
            waiter.decide = lambda: then(waiter.decision is ADMITTED, self.now_ms - began_ms)
        else:
            then(not isinstance(decision, Denied), 0.0)

    def settle(self, worker: int, draws: Draws, used: Sequence[int]) -> None:
        """Book what a call has used in place of what it drew."""
        limit_set, costs = limit_set_of(draws)
        self.brokers[worker].settle(limit_set, costs, list(used), self.now_ms)

    def _worker(self, number: int) -> Broker:
        asked: dict[str, None] = {}

        def due(group: str) -> None:
            if group not in asked:
                asked[group] = None
                self.at(self.now_ms, lambda: fly(group))

        def fly(group: str) -> None:
            asked.pop(group, None)
            broker = self.brokers[number]
            if not self.open:
                broker.lose(group, broker.take_batch(group, self.now_ms), self.now_ms)
                return
            probe = broker.is_lost(group)
            batch = broker.take_batch(group, self.now_ms, probe=probe)
            if batch is None:
                return
            self.batches += 1

            def arrive() -> None:
                flat = self.buckets.answer(batch.question, self.now_ms)
                reply = read_reply(batch.question, flat)

                def land() -> None:
                    broker.land(batch, reply, self.now_ms)
                    due(group)

                self.at(self.now_ms + ROUND_TRIP_MS / 2, land)

            self.at(self.now_ms + ROUND_TRIP_MS / 2, arrive)

        return Broker(lambda _: "", due)

    def _sweep(self, broker: Broker) -> None:
        broker.sweep(self.now_ms)
        self.at(self.now_ms + SWEEP_MS, lambda: self._sweep(broker))
