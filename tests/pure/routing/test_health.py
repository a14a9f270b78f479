"""Channel health: what counts, what opens and heals, what is shared; and simulated outages.

The simulation drives picking and health as the exchange does, on a virtual clock with seeded dice:
two channels, one of them out for a random time; measured is how soon it has traffic again.
"""

import heapq
import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model import Channel, Secret
from relay.routing.breaker import US_PER_S, Policy, Reason, Standing, State
from relay.routing.health import Change, Condition, Failure, Health
from relay.routing.pick import Dice, Wish, choose
from relay.routing.table import Outcome

NOW_US = 10_000 * US_PER_S
BLAMELESS = [
    Outcome.MODEL_GONE,
    Outcome.CLIENT_FAULT,
    Outcome.CLIENT_GONE,
    Outcome.OUT_OF_TIME,
    Outcome.REVOKED,
    Outcome.SHUT_DOWN,
    Outcome.DRAINED,
]


def fail(
    health: Health,
    outcome: Outcome = Outcome.SERVER_ERROR,
    *,
    at_us: int = NOW_US,
    started_us: int | None = None,
    retry_after_s: float | None = None,
    model: str = "m",
) -> tuple[Change, ...]:
    failure = Failure(outcome, at_us if started_us is None else started_us, retry_after_s)
    return health.fail(1, model, failure, now_us=at_us, dice=0.0)


def opened(*, model: str = "m") -> Health:
    health = Health(Policy())
    for _ in range(3):
        fail(health, model=model)
    assert health.standing(1, model, NOW_US) is Standing.COOLING
    return health


def due_us(health: Health, model: str = "m") -> int:
    return health.due_us(1, model)


# --- what counts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", BLAMELESS)
def test_what_is_not_the_channels_fault_never_counts(outcome: Outcome) -> None:
    health = Health(Policy())
    for _ in range(100):
        assert fail(health, outcome) == ()
    assert health.standing(1, "m", NOW_US) is Standing.READY
    assert not health.is_suspect(1, "m", NOW_US)


def test_three_failures_in_a_row_open_that_model_only() -> None:
    health = Health(Policy())
    assert fail(health) == fail(health) == ()
    assert health.is_suspect(1, "m", NOW_US)
    assert fail(health) == (Change(1, "m", State.CLOSED, State.OPEN, Reason.FAILING, alarm=False),)
    assert health.standing(1, "m", NOW_US) is Standing.COOLING
    assert health.standing(1, "other", NOW_US) is Standing.READY
    assert health.standing(2, "m", NOW_US) is Standing.READY


def test_half_of_the_calls_failing_opens_it() -> None:
    health = Health(Policy())
    for _ in range(4):
        fail(health)
        health.succeed(1, "m", started_us=NOW_US, now_us=NOW_US)
    health.succeed(1, "m", started_us=NOW_US, now_us=NOW_US)
    assert len(fail(health)) == 1


def test_a_429_opens_it_at_once_for_as_long_as_it_asks() -> None:
    health = Health(Policy())
    (change,) = fail(health, Outcome.LIMITED, retry_after_s=7.0)
    assert (change.after, change.reason, change.alarm) == (State.OPEN, Reason.LIMITED, False)
    assert due_us(health) == NOW_US + 7 * US_PER_S


def test_any_failure_that_names_a_time_is_believed() -> None:
    health = Health(Policy())
    (change,) = fail(health, Outcome.SERVER_ERROR, retry_after_s=1e6)
    assert change.reason is Reason.LIMITED
    assert due_us(health) == NOW_US + 120 * US_PER_S


@pytest.mark.parametrize("retry_after_s", [None, 60.0])
def test_a_refused_credential_takes_all_models_out_and_raises_one_alarm(
    retry_after_s: float | None,
) -> None:
    health = Health(Policy())
    (change,) = fail(health, Outcome.DENIED, retry_after_s=retry_after_s)
    assert change == Change(1, "", State.CLOSED, State.OPEN, Reason.DENIED, alarm=True)
    for model in ("m", "another"):
        assert health.standing(1, model, NOW_US) is Standing.COOLING
    # Calls that were under way come back refused as well, and a trial may be: no second alarm.
    assert fail(health, Outcome.DENIED, started_us=NOW_US - 5) == ()
    later_us = due_us(health)
    assert health.start(1, "another", later_us)
    (change,) = fail(health, Outcome.DENIED, at_us=later_us + 9, started_us=later_us)
    assert (change.before, change.after, change.alarm) == (State.HALF_OPEN, State.OPEN, False)
    later_us = due_us(health)
    assert health.start(1, "m", later_us)
    (change,) = health.succeed(1, "m", started_us=later_us, now_us=later_us + 9)
    assert (change.model, change.after) == ("", State.CLOSED)
    assert health.troubled == {}


# --- trials ---------------------------------------------------------------------------------------


def test_one_trial_at_a_time_and_its_success_closes() -> None:
    health = opened()
    at_us = due_us(health)
    assert not health.start(1, "m", at_us - 1)
    assert health.start(1, "m", at_us)
    assert health.standing(1, "m", at_us + 1) is Standing.COOLING
    assert not health.start(1, "m", at_us + 1)
    (change,) = health.succeed(1, "m", started_us=at_us, now_us=at_us + 5)
    assert (change.before, change.after) == (State.HALF_OPEN, State.CLOSED)
    assert health.standing(1, "m", at_us + 5) is Standing.READY
    assert health.due_us(1, "m") == 0
    assert not health.start(1, "m", at_us + 5)


def test_a_failed_trial_waits_twice_as_long() -> None:
    health = opened()
    first_us = due_us(health) - NOW_US
    at_us = due_us(health)
    health.start(1, "m", at_us)
    fail(health, at_us=at_us, started_us=at_us)
    assert due_us(health) - at_us == 2 * first_us


@pytest.mark.parametrize("outcome", BLAMELESS)
def test_a_trial_without_a_verdict_lets_the_next_call_try(outcome: Outcome) -> None:
    health = opened()
    at_us = due_us(health)
    health.start(1, "m", at_us)
    (change,) = fail(health, outcome, at_us=at_us + 1, started_us=at_us)
    assert change.after is State.OPEN
    assert health.standing(1, "m", at_us + 1) is Standing.TRIAL


def test_a_trial_that_hangs_keeps_the_next_one_waiting_only_so_long() -> None:
    health = opened()
    first_us = due_us(health)
    health.start(1, "m", first_us)
    second_us = first_us + 30 * US_PER_S
    assert health.start(1, "m", second_us)
    fail(health, Outcome.STALLED, at_us=second_us + 1, started_us=first_us)
    assert health.standing(1, "m", second_us + 1) is Standing.COOLING
    assert health.succeed(1, "m", started_us=first_us, now_us=second_us + 2)  # late, but good news


def test_what_began_before_it_opened_says_nothing() -> None:
    health = opened()
    before_us, wait_until_us = NOW_US - 1, due_us(health)
    assert health.succeed(1, "m", started_us=before_us, now_us=NOW_US + 1) == ()
    assert fail(health, at_us=NOW_US + 1, started_us=before_us) == ()
    assert due_us(health) == wait_until_us


def test_a_call_of_last_resort_that_succeeds_closes_it() -> None:
    health = opened()
    (change,) = health.succeed(1, "m", started_us=NOW_US + 1, now_us=NOW_US + 9)
    assert (change.before, change.after) == (State.OPEN, State.CLOSED)


def test_a_models_trial_ends_when_the_credential_is_refused() -> None:
    health = opened()
    at_us = due_us(health)
    health.start(1, "m", at_us)
    changes = fail(health, Outcome.DENIED, at_us=at_us + 1, started_us=at_us)
    assert {(change.model, change.after) for change in changes} == {
        ("m", State.OPEN),
        ("", State.OPEN),
    }
    assert health.troubled == {1: 2}


def test_a_channel_stands_as_badly_as_the_worse_of_its_breakers() -> None:
    health = opened()
    fail(health, Outcome.DENIED)  # the channel's own wait is longer than its model's
    model_due_us = NOW_US + 5 * US_PER_S
    assert health.standing(1, "m", model_due_us) is Standing.COOLING
    assert due_us(health) == NOW_US + 30 * US_PER_S
    # Both are due: the call tries both, and its client leaves: the next one may.
    assert health.start(1, "m", due_us(health))
    at_us = due_us(health) - 30 * US_PER_S
    changes = fail(health, Outcome.CLIENT_GONE, at_us=at_us + 1, started_us=at_us)
    assert [change.model for change in changes] == ["m", ""]
    assert fail(health, Outcome.CLIENT_GONE, at_us=at_us + 2) == ()
    # The model answers badly, so its credential is not what is wrong: undecided, try again.
    assert health.start(1, "m", at_us + 3)
    fail(health, at_us=at_us + 4, started_us=at_us + 3)
    assert health.standing(1, "m", at_us + 4) is Standing.COOLING
    assert health.standing(1, "another", at_us + 4) is Standing.TRIAL


def test_suspicion_fades() -> None:
    health = Health(Policy())
    fail(health)
    assert health.is_suspect(1, "m", NOW_US + 4 * US_PER_S)
    assert not health.is_suspect(1, "m", NOW_US + 20 * US_PER_S)
    assert not health.is_suspect(2, "m", NOW_US)
    assert opened().is_suspect(1, "m", NOW_US)


def test_a_probe_hastens_a_trial_but_not_one_the_upstream_put_off() -> None:
    health = opened()
    health.hasten(2, NOW_US + 1)
    assert health.standing(1, "m", NOW_US + 1) is Standing.COOLING
    health.hasten(1, NOW_US + 1)
    assert health.standing(1, "m", NOW_US + 1) is Standing.TRIAL
    limited = Health(Policy())
    fail(limited, Outcome.LIMITED, retry_after_s=9.0)
    limited.hasten(1, NOW_US + 1)
    assert limited.standing(1, "m", NOW_US + 1) is Standing.COOLING


# --- shown and kept small -------------------------------------------------------------------------


def test_describe_shows_what_is_not_in_full_service() -> None:
    health = opened()
    health.succeed(1, "fine", started_us=NOW_US, now_us=NOW_US)
    assert health.describe(NOW_US) == [Condition(1, "m", State.OPEN, Reason.FAILING, 2.5, 1)]
    assert health.describe(NOW_US + 9 * US_PER_S)[0].trial_in_s == 0.0


def test_a_channel_that_left_the_catalog_is_forgotten() -> None:
    health = opened()
    health.prune({1, 2})
    assert health.standing(1, "m", NOW_US) is Standing.COOLING
    health.prune({2})
    assert health.describe(NOW_US) == []
    assert health.troubled == {}


# --- shared between workers -----------------------------------------------------------------------

WALL_US = 1_700_000_000 * US_PER_S
OTHER_CLOCK_US = 77 * US_PER_S


def tell(teller: Health, listener: Health, *, at_us: int) -> tuple[Change, ...]:
    """Have the listener, whose monotonic clock is another one, hear all that the teller knows."""
    wall_us = WALL_US + at_us
    message = teller.encode(now_us=at_us, wall_us=wall_us)
    return listener.merge(message, now_us=at_us + OTHER_CLOCK_US, wall_us=wall_us)


def test_what_one_worker_finds_the_other_knows() -> None:
    here, there = opened(), Health(Policy())
    (change,) = tell(here, there, at_us=NOW_US + 5)
    assert (change.before, change.after) == (State.CLOSED, State.OPEN)
    assert due_us(there) == due_us(here) + OTHER_CLOCK_US
    assert tell(here, there, at_us=NOW_US + 6) == ()
    at_us = due_us(here)
    here.start(1, "m", at_us)
    tell(here, there, at_us=at_us + 5)
    assert there.standing(1, "m", at_us + OTHER_CLOCK_US + 5) is Standing.COOLING
    here.succeed(1, "m", started_us=at_us, now_us=at_us + US_PER_S)
    (change,) = tell(here, there, at_us=at_us + US_PER_S)
    assert change.after is State.CLOSED
    assert there.troubled == {}


def test_our_own_message_coming_back_does_not_undo_a_running_trial() -> None:
    health = opened()
    at_us = due_us(health)
    health.start(1, "m", at_us)
    message = health.encode(now_us=at_us, wall_us=WALL_US)
    health.merge(message, now_us=at_us + 500, wall_us=WALL_US + 480)
    (change,) = health.succeed(1, "m", started_us=at_us, now_us=at_us + 900)
    assert change.before is State.HALF_OPEN


def test_old_news_is_neither_told_nor_believed() -> None:
    here, there = opened(), Health(Policy())
    at_us = due_us(here)
    here.start(1, "m", at_us)
    old = here.encode(now_us=at_us, wall_us=WALL_US + at_us)
    here.succeed(1, "m", started_us=at_us, now_us=at_us + US_PER_S)
    tell(here, there, at_us=at_us + US_PER_S)
    later_us = at_us + 2 * US_PER_S
    there.merge(old, now_us=later_us + OTHER_CLOCK_US, wall_us=WALL_US + later_us)
    assert there.standing(1, "m", later_us + OTHER_CLOCK_US) is Standing.READY
    assert tell(here, Health(Policy()), at_us=at_us + 900 * US_PER_S) == ()
    assert here.encode(now_us=at_us + 900 * US_PER_S, wall_us=WALL_US) == b"\x90"


@given(skew_us=st.integers(-(10**13), 10**13))
def test_a_wrong_clock_takes_nothing_out_for_longer_than_a_wait_of_our_own(skew_us: int) -> None:
    here, there = opened(), Health(Policy())
    message = here.encode(now_us=NOW_US, wall_us=WALL_US + skew_us)
    there.merge(message, now_us=NOW_US, wall_us=WALL_US)
    assert due_us(there) <= NOW_US + 120 * US_PER_S


@settings(max_examples=200)
@given(message=st.binary(max_size=200))
def test_a_garbled_message_is_a_value_error_or_nothing(message: bytes) -> None:
    health = Health(Policy())
    try:
        health.merge(message, now_us=NOW_US, wall_us=WALL_US)
    except ValueError:
        assert health.describe(NOW_US) == []


def test_a_message_that_is_no_health_is_refused_whole() -> None:
    with pytest.raises(ValueError, match="not a message"):
        Health(Policy()).merge(b"\x91\xa1\xff", now_us=NOW_US, wall_us=WALL_US)


# --- simulated outages ----------------------------------------------------------------------------

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
        self.lost_calls = 0
        self.failures = 0

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
            failure = Failure(Outcome.STALLED, started_us)
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


@pytest.mark.parametrize("hang_s", [0.01, 20.0])
def test_a_healed_channel_is_back_within_30_s_typically_and_120_s_always(hang_s: float) -> None:
    rng = random.Random(20)
    back_s = []
    for seed in range(60):
        outage_s = rng.uniform(1, 1_200) if seed % 2 else 1_200 ** rng.random()
        world = World(seed, outage_s=outage_s, hang_s=hang_s, calls_per_s=2.0)
        back_s.append(world.run())
        assert world.lost_calls == 0
    assert statistics.median(back_s) <= 30
    assert max(back_s) <= 120


def test_an_outage_of_many_failures_in_a_row_costs_few_calls_and_no_client() -> None:
    world = World(1, outage_s=1_200, hang_s=0.01, calls_per_s=20.0)
    assert world.run() <= 120
    assert 10 <= world.failures <= 60  # of some 24,000 calls
    assert world.lost_calls == 0
