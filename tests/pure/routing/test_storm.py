"""Failover helps and never storms: picking, health and budget together on a virtual clock.

A worker keeps a number of calls running over two scripted channels; every attempt that fails asks
for another one as the exchange does. Counted are attempts, and calls that ended in an error.
"""

import heapq
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from relay.model import Channel, Secret
from relay.routing.budget import Effort, RetryBudget
from relay.routing.health import Failure, Health
from relay.routing.pick import Dice, Preference, choose
from relay.routing.policy import US_PER_S, Policy
from relay.routing.table import Outcome

START_US = 1_000 * US_PER_S
CHANNELS = [
    Channel(
        id=number,
        name=f"channel-{number}",
        base_url="https://upstream.invalid",
        api_key=Secret("x"),
        models={"m": "m"},
    )
    for number in (1, 2)
]


class Call(NamedTuple):
    preference: Preference
    effort: Effort


class Storm:
    """`fails(channel id, seconds since the start)` says whether an attempt that begins fails."""

    def __init__(
        self, fails: Callable[[int, float], bool], *, running: int, good_s: float, bad_s: float
    ) -> None:
        self.fails = fails
        self.rng = random.Random(5)
        self.good_us, self.bad_us = int(good_s * US_PER_S), int(bad_s * US_PER_S)
        self.health, self.budget = Health(Policy()), RetryBudget(0.2, 3)
        self.in_flight = {1: 0, 2: 0}
        self.events: list[tuple[int, int, Call, int, bool, int]] = []
        self.calls = self.attempts = self.errors = 0
        self.number = 0
        for _ in range(running):
            self._begin(START_US)

    def run(self, seconds: float) -> None:
        end_us = START_US + int(seconds * US_PER_S)
        while self.events[0][0] < end_us:
            now_us, _, call, where, failed, started_us = heapq.heappop(self.events)
            self.in_flight[where] -= 1
            if not failed:
                self.health.succeed(where, "m", started_us=started_us, now_us=now_us)
                self._begin(now_us)
                continue
            failure = Failure(Outcome.SERVER_ERROR, started_us)
            self.health.fail(where, "m", failure, now_us=now_us, dice=self.rng.random())
            call = call._replace(
                preference=call.preference._replace(
                    asked_channels={*call.preference.asked_channels, where}
                )
            )
            self._switch(call, now_us)

    def _begin(self, now_us: int) -> None:
        self.calls += 1
        self.budget.begin(now_us)
        call = Call(Preference("m", set()), Effort(3, now_us + 60 * US_PER_S))
        chosen = self._choose(call, now_us)
        assert chosen is not None
        self._ask(call, chosen, now_us)

    def _switch(self, call: Call, now_us: int) -> None:
        chosen = self._choose(call, now_us)
        if chosen is not None:
            suspect = self.health.is_suspect(chosen, "m", now_us)
            if call.effort.left(now_us) and self.budget.take(now_us, suspect=suspect):
                self._ask(call, chosen, now_us)
                return
        self.errors += 1
        self._begin(now_us)

    def _choose(self, call: Call, now_us: int) -> int | None:
        dice = Dice(self.rng.random(), self.rng.random())
        chosen = choose(
            CHANNELS,
            call.preference,
            health=self.health,
            in_flight=self.in_flight,
            now_us=now_us,
            dice=dice,
        )
        return None if chosen is None else chosen.id

    def _ask(self, call: Call, where: int, now_us: int) -> None:
        self.health.start(where, "m", now_us)
        call.effort.begin()
        self.attempts += 1
        self.in_flight[where] += 1
        failed = self.fails(where, (now_us - START_US) / US_PER_S)
        takes_us = int((self.bad_us if failed else self.good_us) * (0.5 + self.rng.random()))
        self.number += 1
        event = (now_us + takes_us, self.number, call, where, failed, now_us)
        heapq.heappush(self.events, event)


@pytest.mark.parametrize("running", [3, 200])
@pytest.mark.parametrize("bad_s", [0.01, 0.5])
def test_when_all_channels_fail_half_of_their_calls_attempts_stay_bounded(
    running: int, bad_s: float
) -> None:
    rng = random.Random(9)
    storm = Storm(
        lambda _where, _at_s: rng.random() < 0.5, running=running, good_s=1.0, bad_s=bad_s
    )
    storm.run(20)
    assert storm.attempts <= 1.2 * storm.calls + 3
    assert storm.errors > 0


@pytest.mark.parametrize("running", [1, 20, 200])
@pytest.mark.parametrize("bad_s", [0.01, 1.0, 5.0])
def test_one_dead_channel_beside_a_healthy_one_costs_no_call(running: int, bad_s: float) -> None:
    storm = Storm(lambda where, _at_s: where == 1, running=running, good_s=1.0, bad_s=bad_s)
    storm.run(60)
    assert storm.errors == 0
    assert storm.attempts > storm.calls


@pytest.mark.parametrize("bad_s", [0.01, 3.0])
def test_a_channel_that_dies_under_load_moves_all_its_calls(bad_s: float) -> None:
    # The other one has failed now and then, as channels do; it must not look like part of a storm.
    rng = random.Random(4)

    def fails(where: int, at_s: float) -> bool:
        if where == 1:
            return at_s >= 5.0
        return at_s < 0.4 and rng.random() < 0.05

    storm = Storm(fails, running=200, good_s=1.0, bad_s=bad_s)
    storm.run(30)
    assert storm.errors == 0
