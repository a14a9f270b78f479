"""Goal: a permit that is free somewhere serves the next call, however few permits and many workers.

Method: the permits of several workers over one imaginary hall on a clock of its own; a question
takes a round trip, replies are `grant_permits`'s, and every worker sweeps as the limiter does.
"""

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from relay.limits.decision import ADMITTED, Denied
from relay.limits.permits import PATIENCE_MS, SWEEP_MS, Permits, PermitWaiter, grant_permits
from relay.limits.scopes import ConcurrencyLimit, Scope

ROUND_TRIP_MS = 2.0


class Hall:
    """So many permits, the workers that lease them, and the calls that hold one."""

    def __init__(self, workers: int, permits: int) -> None:
        self.now_ms = 0.0
        self.limit = ConcurrencyLimit("relay:{a:1}:seats", "{a:1}", Scope.ACCOUNT, permits)
        self.blocks = [0] * workers
        self.running = self.refused = self.most = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._flying = [False] * workers
        self.workers = [self._worker(number) for number in range(workers)]
        for number in range(workers):
            self._sweep(number)

    def at(self, when_ms: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when_ms, next(self._order), what))

    def run(self, until_ms: float) -> None:
        while self._events and self._events[0][0] <= until_ms:
            self.now_ms, _, what = heapq.heappop(self._events)
            what()
        self.now_ms = until_ms

    def call(self, number: int, ms: float, then: Callable[[], None] = lambda: None) -> None:
        """Begin a call that takes so long; `then` hears its end, a refusal as well."""

        def decide(decision: object) -> None:
            if isinstance(decision, Denied):
                self.refused += 1
                then()
                return
            self.running += 1
            self.most = max(self.most, self.running)
            self.at(self.now_ms + ms, end)

        def end() -> None:
            self.running -= 1
            self.workers[number].release([self.limit])
            then()

        decision = self.workers[number].ask([self.limit], self.now_ms)
        if isinstance(decision, PermitWaiter):
            waiter = decision
            waiter.decide = lambda: decide(waiter.decision)
        else:
            assert decision is ADMITTED or isinstance(decision, Denied)
            decide(decision)

    def _worker(self, number: int) -> Permits:
        return Permits(lambda _: "", lambda _: self.at(self.now_ms, lambda: self._fly(number)))

    def _fly(self, number: int) -> None:
        permits = self.workers[number]
        asked = permits.take_permit_requests("", self.now_ms)
        if not asked:
            return
        [request] = asked

        def arrive() -> None:
            others = sum(self.blocks) - self.blocks[number]
            size = grant_permits(request.permits, others, request.used, request.need, request.spare)
            self.blocks[number] = size
            self.at(self.now_ms + ROUND_TRIP_MS / 2, lambda: land(size))

        def land(size: int) -> None:
            permits.land("", [size], self.now_ms)
            self._fly(number)
            if permits.retry_ms < float("inf"):
                retry_ms = permits.retry_ms
                self.at(retry_ms, lambda: permits.wake(self.now_ms))

        self.at(self.now_ms + ROUND_TRIP_MS / 2, arrive)

    def _sweep(self, number: int) -> None:
        self.workers[number].sweep(self.now_ms)
        self.at(self.now_ms + SWEEP_MS, lambda: self._sweep(number))


@pytest.mark.parametrize("workers", [2, 4, 16])
@pytest.mark.parametrize("permits", [1, 3])
def test_calls_one_after_the_other_over_any_workers_are_never_refused(
    workers: int, permits: int
) -> None:
    hall, dice, calls = Hall(workers, permits), random.Random(workers), [0]

    def following() -> None:
        calls[0] += 1
        hall.call(dice.randrange(workers), 5.0, following)

    following()
    hall.run(60_000)
    assert hall.refused == 0 and hall.most == 1
    assert calls[0] > 60_000 / (5 + PATIENCE_MS / 3)


@pytest.mark.parametrize(("workers", "permits"), [(2, 20), (4, 10), (4, 40), (8, 100)])
def test_as_many_clients_as_permits_are_never_refused(workers: int, permits: int) -> None:
    hall, dice = Hall(workers, permits), random.Random(permits)

    def client() -> None:
        hall.call(dice.randrange(workers), dice.expovariate(1 / 80), client)

    for _ in range(permits):
        client()
    hall.run(30_000)
    assert hall.refused == 0 and hall.most <= permits


def test_the_limit_holds_under_a_flood_and_refusals_come_in_time() -> None:
    hall, dice = Hall(4, 10), random.Random(4)

    def client() -> None:
        began_ms = hall.now_ms

        def ended() -> None:
            assert hall.now_ms - began_ms < PATIENCE_MS + 200 + 50
            hall.at(hall.now_ms + 20, client)

        hall.call(dice.randrange(4), 200.0, ended)

    for _ in range(100):
        client()
    hall.run(20_000)
    assert hall.refused > 0 and hall.most == 10


def test_an_idle_workers_spare_permits_serve_the_others() -> None:
    hall = Hall(2, 20)
    hall.call(0, 1.0)
    hall.run(100)
    for _ in range(20):
        hall.call(1, 5_000.0)
    hall.run(3_000)
    assert hall.refused == 0 and hall.running == 20
