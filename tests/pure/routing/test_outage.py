"""A healed channel has traffic again soon: outages simulated on a virtual clock, seeded dice.

Picking and health are driven as the exchange does: two channels, one of them out for a random time;
measured is how soon after healing a call succeeds there.
"""

import heapq
import random
import statistics

import pytest

from relay.model import Channel, Secret
from relay.routing.breaker import US_PER_S, Policy
from relay.routing.health import Failure, Health
from relay.routing.pick import Dice, Wish, choose
from relay.routing.table import Outcome

NOW_US = 10_000 * US_PER_S

ILL, WELL = 1, 2


def channel(number: int) -> Channel:
    return Channel(
        id=number,
        name=f"channel-{number}",
        base_url="https://upstream.invalid",
        api_key=Secret("x"),
        models={"m": "m"},
    )


class World:
    """One worker, two channels, calls at random times; channel ILL is out for a while."""

    def __init__(self, seed: int, *, outage_s: float, hang_s: float, calls_per_s: float) -> None:
        self.rng = random.Random(seed)
        self.health = Health(Policy())
        self.in_flight = {ILL: 0, WELL: 0}
        self.calls_per_s = calls_per_s
        self.hang_s = hang_s
        self.out_from_us = NOW_US + 5 * US_PER_S
        self.healed_us = self.out_from_us + int(outage_s * US_PER_S)
        self.failure = Failure(Outcome.STALLED, 0)
        """How each call on ILL fails; its start is filled in."""
        self.lost_calls = 0
        self.failures = 0
        """Of ILL: all in a row."""
        self.back_s = 0.0

    def run(self) -> float:
        """Return the seconds from healing to the next success on channel ILL."""
        rng = self.rng
        events: list[tuple[int, int, str, int, int]] = []
        now_us, number = NOW_US, 0
        heapq.heappush(events, (now_us, 0, "call", 0, 0))
        while now_us < self.healed_us + 600 * US_PER_S:
            now_us, _, kind, where, started_us = heapq.heappop(events)
            number += 1
            if kind == "call":
                gap_us = int(rng.expovariate(self.calls_per_s) * US_PER_S) + 1
                heapq.heappush(events, (now_us + gap_us, number, "call", 0, 0))
                self._ask(events, now_us, number, set())
                continue
            self.in_flight[where] -= 1
            if kind == "good":
                self.health.succeed(where, "m", started_us=started_us, now_us=now_us)
                if where == ILL and started_us >= self.healed_us:
                    return (now_us - self.healed_us) / US_PER_S
                continue
            self.failures += 1
            failure = self.failure._replace(started_us=started_us)
            self.health.fail(where, "m", failure, now_us=now_us, dice=rng.random())
            self._ask(events, now_us, number, {where})
        raise AssertionError("never back")

    def _ask(
        self,
        events: list[tuple[int, int, str, int, int]],
        now_us: int,
        number: int,
        tried: set[int],
    ) -> None:
        chosen = choose(
            [channel(ILL), channel(WELL)],
            Wish("m", tried),
            health=self.health,
            in_flight=self.in_flight,
            now_us=now_us,
            dice=Dice(self.rng.random(), self.rng.random()),
        )
        if chosen is None:
            self.lost_calls += 1
            return
        self.health.start(chosen.id, "m", now_us)
        self.in_flight[chosen.id] += 1
        out = chosen.id == ILL and self.out_from_us <= now_us < self.healed_us
        kind, takes_s = ("bad", self.hang_s) if out else ("good", 0.3)
        done_us = now_us + int(takes_s * US_PER_S)
        heapq.heappush(events, (done_us, number, kind, chosen.id, now_us))


RUNS = 60


def outages(
    hang_s: float, calls_per_s: float, outcome: Outcome = Outcome.STALLED, **asked: float
) -> list[World]:
    """Return runs that are over: outages of 1 s to 20 min, as many short ones as long ones."""
    rng = random.Random(20)
    worlds = []
    for seed in range(RUNS):
        outage_s = rng.uniform(1, 1_200) if seed % 2 else 1_200 ** rng.random()
        world = World(seed, outage_s=outage_s, hang_s=hang_s, calls_per_s=calls_per_s)
        world.failure = Failure(outcome, 0, asked.get("retry_after_s"))
        world.back_s = world.run()
        assert world.lost_calls == 0
        worlds.append(world)
    return worlds


@pytest.mark.parametrize("calls_per_s", [0.2, 2.0])
@pytest.mark.parametrize("hang_s", [0.01, 20.0])
def test_a_healed_channel_is_back_within_30_s_typically_and_120_s_always(
    hang_s: float, calls_per_s: float
) -> None:
    worlds = outages(hang_s, calls_per_s)
    back_s = [world.back_s for world in worlds]
    assert statistics.median(back_s) <= 30
    assert max(back_s) <= 120
    # Ten failures in a row and more make it no later, unless each of them hangs for long.
    stubborn = [world.back_s for world in worlds if world.failures >= 10]
    assert len(stubborn) >= RUNS / 4
    assert statistics.median(stubborn) <= 30 + hang_s


@pytest.mark.parametrize(
    ("outcome", "asked"),
    [(Outcome.DENIED, {}), (Outcome.LIMITED, {"retry_after_s": 3_600.0})],
    ids=["denied", "retry-after"],
)
def test_what_waits_for_somebody_is_tried_within_120_s_as_well(
    outcome: Outcome, asked: dict[str, float]
) -> None:
    worlds = outages(0.01, 2.0, outcome, **asked)
    # The longest wait there is, and then the next call that comes by.
    assert max(world.back_s for world in worlds) <= 120 + 5


def test_an_outage_of_many_failures_in_a_row_costs_few_calls_and_no_client() -> None:
    world = World(1, outage_s=1_200, hang_s=0.01, calls_per_s=20.0)
    assert world.run() <= 120
    assert 10 <= world.failures <= 60  # of some 24,000 calls
    assert world.lost_calls == 0
