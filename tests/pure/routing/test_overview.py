"""Goal: what is shown of the channels is what the workers know, and an alarm comes once for all.

Method: workers are real Healths with clocks of their own; the overview hears them in any order.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.routing.breaker import BreakerState
from relay.routing.health import ANY_MODEL, Condition, Failure, Health, HealthChange
from relay.routing.overview import FORGOTTEN_S, IN_SERVICE, Overview, look_at
from relay.routing.policy import US_PER_S, Policy, Reason
from relay.routing.table import Outcome

WALL_US = 1_700_000_000 * US_PER_S


class Worker:
    """A worker whose monotonic clock began at another moment than anybody else's."""

    def __init__(self, clock_us: int = 0) -> None:
        self.health = Health(Policy())
        self._clock_us = clock_us

    def fail(self, outcome: Outcome, at_us: int, *, started_us: int | None = None) -> None:
        started_us = at_us if started_us is None else started_us
        failure = Failure(outcome, started_us + self._clock_us)
        self.health.fail(1, "m", failure, now_us=at_us + self._clock_us, dice=0.0)

    def open(self, at_us: int) -> None:
        for _ in range(3):
            self.fail(Outcome.SERVER_ERROR, at_us)

    def start(self, at_us: int) -> None:
        assert self.health.start(1, "m", at_us + self._clock_us)

    def succeed(self, at_us: int) -> None:
        now_us = at_us + self._clock_us
        self.health.succeed(1, "m", started_us=now_us, now_us=now_us)

    def due_us(self) -> int:
        return self.health.due_us(1, "m") - self._clock_us

    def tell(self, at_us: int) -> bytes:
        return self.health.encode(now_us=at_us + self._clock_us, wall_us=WALL_US + at_us)

    def hear(self, message: bytes, at_us: int) -> None:
        self.health.merge(message, now_us=at_us + self._clock_us, wall_us=WALL_US + at_us)


def shown(overview: Overview, at_us: int) -> list[tuple[str, BreakerState]]:
    return [(c.model, c.state) for c in overview.conditions(WALL_US + at_us)]


S = US_PER_S


def test_an_outage_from_its_first_opening_to_its_end() -> None:
    worker, overview = Worker(), Overview()
    assert overview.hear(worker.tell(0), WALL_US) == ()
    worker.open(S)
    (change,) = overview.hear(worker.tell(S), WALL_US + S)
    assert (change.before, change.after, change.alarm) == (
        BreakerState.CLOSED,
        BreakerState.OPEN,
        False,
    )
    (condition,) = overview.conditions(WALL_US + 2 * S)
    assert (condition.channel_id, condition.model, condition.reason) == (1, "m", Reason.FAILING)
    assert condition.trial_in_s == (worker.due_us() - 2 * S) / S
    due_us = worker.due_us()
    worker.start(due_us)
    overview.hear(worker.tell(due_us), WALL_US + due_us)
    assert shown(overview, due_us) == [("m", BreakerState.HALF_OPEN)]
    worker.fail(Outcome.REFUSED, due_us + 1, started_us=due_us)
    overview.hear(worker.tell(due_us + 1), WALL_US + due_us + 1)
    assert shown(overview, due_us) == [("m", BreakerState.OPEN)]
    due_us = worker.due_us()
    worker.start(due_us)
    overview.hear(worker.tell(due_us), WALL_US + due_us)
    worker.succeed(due_us + 1)
    (change,) = overview.hear(worker.tell(due_us + 1), WALL_US + due_us + 1)
    assert (change.before, change.after) == (BreakerState.HALF_OPEN, BreakerState.CLOSED)
    assert shown(overview, due_us + 1000 * S) == [("m", BreakerState.CLOSED)]


def test_the_first_of_many_workers_raises_the_alarm() -> None:
    workers = [Worker(clock_us) for clock_us in (0, 77 * S, 5 * S)]
    overview = Overview()
    alarms: list[HealthChange] = []
    for at_us, worker in enumerate(workers, S):
        worker.fail(Outcome.DENIED, at_us)
        alarms += overview.hear(worker.tell(at_us), WALL_US + at_us)
    for worker in workers:
        alarms += overview.hear(worker.tell(2 * S), WALL_US + 2 * S)
    assert [(c.channel_id, c.model, c.reason, c.alarm) for c in alarms] == [
        (1, ANY_MODEL, Reason.DENIED, True)
    ]


def test_the_next_opening_raises_the_next_alarm_but_a_failed_trial_none() -> None:
    worker, overview = Worker(), Overview()
    alarms: list[HealthChange] = []

    def tell_every_5_s(since_us: int, until_us: int) -> None:
        for at_us in range(since_us, until_us, 5 * S):
            changes = overview.hear(worker.tell(at_us), WALL_US + at_us)
            alarms.extend(change for change in changes if change.alarm)

    worker.fail(Outcome.DENIED, S)
    due_us = worker.due_us()
    tell_every_5_s(S, due_us)
    worker.start(due_us)
    worker.fail(Outcome.DENIED, due_us + S, started_us=due_us)
    again_us = worker.due_us()
    tell_every_5_s(due_us + S, again_us)
    assert len(alarms) == 1
    worker.start(again_us)
    worker.succeed(again_us)
    tell_every_5_s(again_us, again_us + S)
    worker.fail(Outcome.DENIED, again_us + S)
    tell_every_5_s(again_us + S, again_us + 2 * S)
    assert len(alarms) == 2


def test_who_hears_of_a_trial_does_not_hide_it() -> None:
    """A trial is a wait to the others; told by them it must not look as if it were over."""
    here, there, overview = Worker(), Worker(77 * S), Overview()
    here.open(S)
    due_us = here.due_us()
    here.start(due_us)
    there.hear(here.tell(due_us + S), due_us + S)
    for first, second in ((here, there), (there, here)):
        overview = Overview()
        overview.hear(first.tell(due_us + S), WALL_US + due_us + S)
        overview.hear(second.tell(due_us + S), WALL_US + due_us + S)
        assert shown(overview, due_us + S) == [("m", BreakerState.HALF_OPEN)]


def test_a_trial_given_up_at_once_is_open_again() -> None:
    worker, overview = Worker(), Overview()
    worker.open(S)
    due_us = worker.due_us()
    worker.start(due_us)
    overview.hear(worker.tell(due_us), WALL_US + due_us)
    worker.fail(Outcome.CLIENT_GONE, due_us + 1, started_us=due_us)
    overview.hear(worker.tell(due_us + 1), WALL_US + due_us + 1)
    (condition,) = overview.conditions(WALL_US + due_us + 1)
    assert (condition.state, condition.trial_in_s) == (BreakerState.OPEN, 0)


def test_old_news_changes_nothing() -> None:
    worker, overview = Worker(), Overview()
    worker.open(S)
    old = worker.tell(S)
    worker.succeed(2 * S)
    overview.hear(worker.tell(2 * S), WALL_US + 2 * S)
    assert overview.hear(old, WALL_US + 3 * S) == ()
    assert shown(overview, 3 * S) == [("m", BreakerState.CLOSED)]


def test_a_hastened_trial_is_shown() -> None:
    worker, overview = Worker(), Overview()
    worker.open(S)
    overview.hear(worker.tell(S), WALL_US + S)
    worker.health.hasten(1, S + 1)
    assert overview.hear(worker.tell(S + 1), WALL_US + S + 1) == ()
    (condition,) = overview.conditions(WALL_US + 2 * S)
    assert condition.trial_in_s == 0


def test_what_no_worker_tells_any_more_is_forgotten() -> None:
    """All workers were restarted while a channel was out: nobody will ever tell that it closed."""
    worker, overview = Worker(), Overview()
    worker.fail(Outcome.DENIED, S)
    message = worker.tell(S)
    overview.hear(message, WALL_US + S)
    late_us = WALL_US + S + FORGOTTEN_S * S
    assert overview.conditions(late_us) != []
    assert overview.hear(message, late_us) == ()
    assert overview.conditions(late_us + FORGOTTEN_S * S + 1) == []
    (change,) = overview.hear(message, late_us + 2 * FORGOTTEN_S * S)
    assert change.alarm


@pytest.mark.parametrize("message", [b"", b"\x91", b"nonsense", b"\x91\x93\x01\xa1m\x07"])
def test_nonsense_is_a_value_error_and_changes_nothing(message: bytes) -> None:
    overview = Overview()
    with pytest.raises(ValueError):
        overview.hear(message, WALL_US)
    assert overview.conditions(WALL_US) == []


@settings(max_examples=100)
@given(st.permutations(range(6)), st.integers(-(10**12), 10**12))
def test_the_order_of_messages_does_not_matter_in_the_end(order: list[int], clock_us: int) -> None:
    worker = Worker(clock_us)
    messages = []
    for step in range(3):
        at_us = (1 + 100 * step) * S
        worker.open(at_us)
        messages.append(worker.tell(at_us))
        worker.succeed(at_us + S)
        messages.append(worker.tell(at_us + S))
    overview = Overview()
    for place in order:
        overview.hear(messages[place], WALL_US + 300 * S)
    assert shown(overview, 300 * S) == [("m", BreakerState.CLOSED)]


# --- one channel as a whole -------------------------------------------------------------------


def condition(model: str, state: BreakerState, trial_in_s: float = 9.0) -> Condition:
    return Condition(1, model, state, Reason.FAILING, trial_in_s, 1)


OPEN, HALF, CLOSED = BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED


@pytest.mark.parametrize(
    ("conditions", "whole", "others"),
    [
        ([], CLOSED, {}),
        ([condition("a", OPEN)], CLOSED, {"a": OPEN}),
        ([condition("a", OPEN), condition("b", OPEN)], OPEN, {}),
        ([condition("a", OPEN), condition("b", HALF)], HALF, {"a": OPEN}),
        ([condition("a", CLOSED)], CLOSED, {}),
        ([condition(ANY_MODEL, OPEN)], OPEN, {}),
        ([condition(ANY_MODEL, HALF), condition("b", OPEN)], HALF, {"b": OPEN}),
        ([condition(ANY_MODEL, CLOSED), condition("b", HALF)], CLOSED, {"b": HALF}),
        ([condition("gone", OPEN)], CLOSED, {}),
    ],
)
def test_a_channel_is_as_good_as_its_best_model(
    conditions: list[Condition], whole: BreakerState, others: dict[str, BreakerState]
) -> None:
    found, differing = look_at(["a", "b"], conditions)
    assert found.state is whole
    assert {model: outlook.state for model, outlook in differing.items()} == others
    assert (found.reason is None) == (whole is CLOSED)


def test_the_soonest_trial_is_the_channel_s() -> None:
    found, _ = look_at(["a", "b"], [condition("a", OPEN, 9.0), condition("b", OPEN, 4.0)])
    assert found.trial_in_s == 4.0
    assert look_at([], [])[0] == IN_SERVICE
