"""Goal: a worker's leases are never spent twice, and lost only where a flight's outcome is unknown.

Method: one broker, batches taken by hand and answered by the reference, or not at all.
"""

import pytest

from relay.limits.batch import CALLS_MAX, Batch
from relay.limits.broker import WAITING_MAX, Broker
from relay.limits.bucket import Buckets, Rule, read_reply
from relay.limits.decision import ADMITTED, Admitted, Denied, Waiter, Why
from relay.limits.lease import ALONE_SHARE, LEASE_MS, LOW_MS, ROOMY_LEASE_MS, Lease
from relay.limits.rate_headers import BucketLevel
from relay.limits.scopes import Bucket, Measure, Scope
from relay.model import OnLoss
from tests.pure.limits.world import Draws, limit_set_of


def bucket(
    name: str, per_minute: int = 60_000, burst_ms: int = 6_000, on_loss: OnLoss = OnLoss.SHARE
) -> Bucket:
    rule = Rule(per_minute, burst_ms)
    return Bucket(name, name[0], Scope.LINE, Measure.TOKENS, rule, on_loss=on_loss)


A, B = bucket("a"), bucket("b")
NOW = 100_000.0


class Desk:
    """A broker, the reference it asks, and what it called for."""

    def __init__(self, *, by_tag: bool = False) -> None:
        self.due: list[str] = []
        self.broker = Broker(lambda b: b.tag if by_tag else "", self.due.append)
        self.buckets = Buckets()
        self.buckets.born_ms = 0.0

    def fly(self, group: str = "", now_ms: float = NOW, *, probe: bool = False) -> Batch | None:
        batch = self.broker.take_batch(group, now_ms, probe=probe)
        if batch is not None:
            self.land(batch, now_ms)
        return batch

    def land(self, batch: Batch, now_ms: float = NOW) -> None:
        flat = self.buckets.answer(batch.question, now_ms)
        self.broker.land(batch, read_reply(batch.question, flat), now_ms)

    def lease(self, key: str) -> Lease:
        return next(lease for lease in self.broker.leases if lease.bucket.key == key)

    def admit(self, draws: Draws, now_ms: float) -> Admitted | Denied | Waiter:
        return self.broker.ask(*limit_set_of(draws), now_ms)

    def settle(self, draws: Draws, now_ms: float) -> None:
        limit_set, changes = limit_set_of(draws)
        self.broker.settle(limit_set, [0] * len(changes), changes, now_ms)

    def standings(self, draws: Draws, now_ms: float) -> list[BucketLevel]:
        return self.broker.leases.standings(limit_set_of(draws)[0], now_ms)

    def ask(self, *draws: tuple[Bucket, int], now_ms: float = NOW) -> Waiter:
        waiter = self.broker.ask(*limit_set_of(draws), now_ms)
        assert isinstance(waiter, Waiter)
        return waiter

    def used(self, key: str, now_ms: float = NOW) -> float:
        return self.buckets.tats.get(key, now_ms) - now_ms


def test_a_cold_bucket_is_asked_for_each_call() -> None:
    desk = Desk()
    waiter = desk.ask((A, 100), (B, 1))
    heard: list[object] = []
    waiter.decide = lambda: heard.append(waiter.decision)
    desk.fly()
    assert heard == [ADMITTED]
    assert desk.used("a") == 100 and desk.used("b") == 1
    assert desk.fly() is None
    desk.ask((A, 100), (B, 1))


def test_settling_rides_on_the_next_flight() -> None:
    desk = Desk()
    desk.ask((A, 100))
    desk.fly()
    desk.settle([(A, 400)], NOW)
    desk.due.clear()
    desk.broker.sweep(NOW)
    assert desk.due == [""]
    desk.fly()
    assert desk.used("a") == 500
    desk.settle([(A, -300)], NOW)
    assert desk.admit([(A, 50)], NOW) is ADMITTED, "a refund is spent locally"
    desk.broker.sweep(NOW)
    desk.fly()
    assert desk.lease("a").surplus() == 0


def warm(desk: Desk, *buckets: Bucket) -> float:
    """Have some seconds of steady calls draw on the buckets; return the moment after them."""
    now_ms = NOW
    for _ in range(300):
        now_ms += 10
        desk.admit([(b, 4) for b in buckets], now_ms)
        desk.fly(now_ms=now_ms)
    return now_ms


def test_the_leases_of_a_call_are_filled_up_by_one_flight() -> None:
    desk = Desk()
    now_ms = warm(desk, A, B)
    batches: list[set[str]] = []
    for _ in range(2_000):
        now_ms += 1
        if desk.admit([(A, 1), (B, 1)], now_ms) is not ADMITTED or desk.due:
            desk.due.clear()
            batch = desk.fly(now_ms=now_ms)
            if batch is not None:
                batches.append({request.key for request in batch.question.requests if request.want})
    assert 5 <= len(batches) <= 9
    assert batches == [{"a", "b"}] * len(batches)


@pytest.mark.parametrize(
    ("drawn_on", "lease_ms"), [(A, ROOMY_LEASE_MS), (bucket("a", 10_000, 1_000), LEASE_MS)]
)
def test_leases_are_longer_while_there_is_room(drawn_on: Bucket, lease_ms: float) -> None:
    desk = Desk()
    warm(desk, drawn_on)
    lease = desk.lease("a")
    assert lease.lease_ms == lease_ms
    assert lease.per_ms == pytest.approx(0.4, rel=0.1)
    assert lease.balance <= (lease_ms + LOW_MS) * lease.per_ms


def test_a_refusal_is_remembered_but_not_for_smaller_calls() -> None:
    desk = Desk()
    desk.ask((A, 6_000))
    desk.fly()
    refused = desk.ask((A, 1_000), (B, 1))
    desk.fly()
    assert refused.decision == Denied(Why.EMPTY, 1_000, A)
    assert desk.used("b") == 0
    again = desk.admit([(A, 1_000)], NOW + 10)
    assert again == Denied(Why.EMPTY, 990, A)
    desk.ask((A, 10), now_ms=NOW + 10)
    desk.fly(now_ms=NOW + 10)
    desk.ask((A, 1_000), now_ms=NOW + 111)


def test_the_refused_call_gives_back_what_it_held() -> None:
    desk = Desk()
    desk.settle([(B, -50)], NOW)
    desk.ask((A, 6_000))
    desk.fly()
    refused = desk.ask((A, 10), (B, 20))
    desk.fly()
    assert isinstance(refused.decision, Denied)
    assert desk.lease("b").balance == 50


def test_too_large_is_said_before_all_else() -> None:
    desk = Desk()
    desk.ask((B, 6_000))
    desk.fly()
    desk.ask((B, 10))
    desk.fly()
    decision = desk.admit([(B, 10), (A, 6_001)], NOW)
    assert decision == Denied(Why.TOO_LARGE, 0, A)


def test_a_call_that_left_gives_its_tokens_to_the_lease() -> None:
    desk = Desk()
    waiter = desk.ask((A, 100))
    batch = desk.broker.take_batch("", NOW)
    assert batch is not None
    desk.broker.drop(waiter)
    desk.broker.drop(waiter)
    desk.land(batch)
    assert desk.lease("a").balance == 100
    gone = desk.ask((B, 100))
    desk.broker.drop(gone)
    assert desk.fly() is None


def test_one_flight_at_a_time_and_of_bounded_size() -> None:
    desk = Desk()
    waiters = [desk.ask((A, 1)) for _ in range(CALLS_MAX + 1)]
    batch = desk.broker.take_batch("", NOW)
    assert batch is not None and len(batch.calls) == CALLS_MAX
    assert desk.broker.take_batch("", NOW) is None
    desk.due.clear()
    desk.land(batch)
    assert desk.due == [""] and waiters[-1].decision is None
    desk.fly()
    assert waiters[-1].decision is ADMITTED


def test_a_flight_names_a_bounded_number_of_buckets() -> None:
    desk = Desk()
    many = [bucket(f"k{number}") for number in range(300)]
    desk.settle([(b, 1) for b in many], NOW)
    batches = [desk.fly(), desk.fly(), desk.fly()]
    sizes = [len(batch.question.requests) if batch else 0 for batch in batches]
    assert sum(sizes) == 300 and max(sizes) <= 200


def test_waiting_is_bounded() -> None:
    desk = Desk()
    for _ in range(WAITING_MAX):
        desk.ask((A, 1))
    denied = desk.admit([(A, 1)], NOW)
    assert isinstance(denied, Denied) and denied.why is Why.CROWDED


def test_a_hot_bucket_is_leased_ahead_and_given_back() -> None:
    desk = Desk()
    line = bucket("a", 60_000_000)
    now_ms, batches = NOW, 0
    for _ in range(2_000):
        now_ms += 1
        decision = desk.admit([(line, 500)], now_ms)
        batches += desk.fly(now_ms=now_ms) is not None
        assert decision is ADMITTED or isinstance(decision, Waiter)
    assert batches < 150
    assert desk.lease("a").balance > 0
    for _ in range(40):
        now_ms += 250
        desk.broker.sweep(now_ms)
        desk.fly(now_ms=now_ms)
    assert list(desk.broker.leases) == [], "nothing is held, so nothing is remembered"


def test_a_lease_cut_short_is_not_asked_for_again_at_once() -> None:
    desk = Desk()
    now_ms = NOW
    refused = batches = 0
    for _ in range(2_000):
        now_ms += 1
        decision = desk.admit([(A, 100)], now_ms)
        refused += isinstance(decision, Denied)
        batches += desk.fly(now_ms=now_ms) is not None
    assert refused > 1_500 and batches < 150


def test_a_lost_flight_keeps_debts_and_forgets_what_it_gave_back() -> None:
    desk = Desk()
    desk.settle([(A, 300), (B, -700)], NOW)
    desk.broker.sweep(NOW)
    batch = desk.broker.take_batch("", NOW)
    desk.broker.lose("", batch, NOW)
    assert desk.lease("a").balance == -300 and desk.lease("b").balance == 0
    assert desk.broker.take_batch("", NOW) is None, "only a probe flies while it is lost"
    desk.fly(probe=True)
    assert desk.used("a") == 300
    assert not desk.broker.is_lost("")


def test_whoever_waits_is_decided_from_the_share() -> None:
    desk = Desk()
    desk.broker.share_default = 0.5
    desk.settle([(B, -10)], NOW)
    aboard, waiting = desk.ask((A, 100), (B, 10)), None
    batch = desk.broker.take_batch("", NOW)
    waiting = desk.ask((A, 1))
    desk.broker.lose("", batch, NOW)
    assert isinstance(aboard.decision, Denied), "the share starts empty"
    assert isinstance(waiting.decision, Denied)
    assert desk.lease("b").balance == 10
    assert desk.admit([(A, 10), (B, 10)], NOW + 500) is ADMITTED


def test_the_share_is_kept_to_over_time() -> None:
    desk = Desk()
    desk.broker.shares = {"a": 0.5}
    desk.broker.lose("", None, NOW)
    admitted = sum(
        100 for step in range(1_000) if desk.admit([(A, 100)], NOW + 10 * step) is ADMITTED
    )
    assert admitted == pytest.approx(10_000 * ALONE_SHARE / 2, rel=0.05)
    assert desk.broker.lost_ms(NOW + 10_000) == 10_000
    desk.fly(now_ms=NOW + 10_000, probe=True)
    assert desk.broker.lost_ms(NOW + 20_000) == 10_000
    desk.broker.lose("", None, NOW + 20_000)
    assert isinstance(desk.admit([(A, 100)], NOW + 20_000), Denied)


@pytest.mark.parametrize(
    ("on_loss", "expected"), [(OnLoss.OPEN, ADMITTED), (OnLoss.CLOSED, Why.LOST)]
)
def test_a_bucket_may_open_or_close_instead(on_loss: OnLoss, expected: object) -> None:
    desk = Desk()
    kept = bucket("a", on_loss=on_loss)
    waiting = desk.ask((kept, 10))
    desk.broker.lose("", None, NOW)
    decision = desk.admit([(kept, 10)], NOW)
    for found in (waiting.decision, decision):
        assert found is expected or (isinstance(found, Denied) and found.why is expected)


def test_two_groups_grant_together() -> None:
    desk = Desk(by_tag=True)
    waiter = desk.ask((A, 100), (B, 100))
    desk.fly("a")
    assert waiter.decision is None
    desk.fly("b")
    assert waiter.decision is ADMITTED


def test_what_one_group_granted_comes_back_when_the_other_refuses() -> None:
    desk = Desk(by_tag=True)
    desk.ask((B, 6_000))
    desk.fly("b")
    waiter = desk.ask((A, 100), (B, 100))
    desk.fly("a")
    desk.fly("b")
    assert isinstance(waiter.decision, Denied)
    assert desk.lease("a").balance == 100
    late = desk.ask((A, 200), (B, 50))
    batch = desk.broker.take_batch("a", NOW)
    desk.fly("b")
    assert batch is not None and isinstance(late.decision, Denied)
    desk.land(batch)
    assert desk.lease("a").balance == 200


def test_a_group_that_is_lost_takes_from_its_share_while_the_other_is_asked() -> None:
    desk = Desk(by_tag=True)
    desk.broker.share_default = 1.0
    desk.broker.lose("a", None, NOW)
    assert isinstance(desk.admit([(A, 10), (B, 10)], NOW), Denied)
    waiter = desk.ask((A, 10), (B, 10), now_ms=NOW + 500)
    desk.fly("b", NOW + 500)
    assert waiter.decision is ADMITTED
    assert desk.used("b", NOW + 500) == 10


def test_standings_say_what_was_heard_last() -> None:
    desk = Desk()
    assert [s.remaining for s in desk.standings([(A, 1)], NOW)] == [6_000]
    desk.ask((A, 1_000))
    desk.fly()
    assert [s.remaining for s in desk.standings([(A, 1)], NOW)] == [5_000]
    assert [s.reset_ms for s in desk.standings([(A, 1)], NOW + 400)] == [600]


def test_a_changed_limit_keeps_its_lease() -> None:
    desk = Desk()
    desk.settle([(A, -70)], NOW)
    assert desk.admit([(bucket("a", 120_000), 60)], NOW) is ADMITTED
    assert desk.lease("a").bucket.rule.per_minute == 120_000
    assert desk.lease("a").balance == 10


def test_a_loss_is_one_groups_own_and_begins_once() -> None:
    desk = Desk(by_tag=True)
    desk.settle([(A, -10), (B, -10)], NOW)
    desk.broker.lose("a", None, NOW)
    assert isinstance(desk.admit([(A, 50)], NOW), Denied)
    desk.broker.lose("a", None, NOW + 500)
    desk.broker.share_default = 1.0
    assert desk.admit([(A, 50)], NOW + 500) is ADMITTED, "the share goes on filling"
    assert not desk.broker.is_lost("b")


def test_a_refusal_of_a_call_that_left_teaches_all_the_same() -> None:
    desk = Desk()
    desk.ask((A, 6_000))
    desk.fly()
    waiter = desk.ask((A, 1_000))
    batch = desk.broker.take_batch("", NOW)
    assert batch is not None
    desk.broker.drop(waiter)
    desk.land(batch)
    assert desk.admit([(A, 1_000)], NOW) == Denied(Why.EMPTY, 1_000, A)


def test_a_call_is_foreseen_without_taking_anything() -> None:
    desk = Desk()
    desk.ask((A, 6_000))
    desk.fly()
    desk.ask((A, 1_000))
    desk.fly()
    limit_set, costs = limit_set_of([(A, 1_000)])
    denied = desk.broker.foresee(limit_set, costs, NOW + 10)
    assert denied == Denied(Why.EMPTY, 990, A)
    assert desk.lease("a").spent == 7_000, "nobody has asked for more"
    assert desk.broker.foresee(*limit_set_of([(B, 1)]), NOW) is None


def test_what_an_upstream_has_closed_is_closed_for_everyone() -> None:
    desk, other = Desk(), Desk()
    other.buckets = desk.buckets
    limit_set, _ = limit_set_of([(A, 1)])
    desk.broker.hold_back(limit_set, 4_000, NOW)
    assert desk.admit([(A, 1)], NOW + 100) == Denied(Why.EMPTY, 3_900, A)
    desk.fly()
    assert desk.used("a") == 10_000, "all of the bucket, and four seconds"
    other.broker.hold_back(limit_set_of([(A, 1)])[0], 4_000, NOW)
    other.fly()
    assert desk.used("a") == 10_000, "the same news counts once"
    waiter = other.ask((A, 1), now_ms=NOW + 4_000)
    other.fly(now_ms=NOW + 4_000)
    assert isinstance(waiter.decision, Denied)
    waiter = desk.ask((A, 1), now_ms=NOW + 4_001)
    desk.fly(now_ms=NOW + 4_001)
    assert waiter.decision is ADMITTED


def test_what_an_upstream_has_closed_is_told_again_after_a_loss() -> None:
    desk = Desk()
    limit_set, _ = limit_set_of([(A, 1)])
    desk.broker.hold_back(limit_set, 4_000, NOW)
    batch = desk.broker.take_batch("", NOW)
    assert batch is not None
    desk.broker.lose("", batch, NOW + 50)
    desk.fly(now_ms=NOW + 300, probe=True)
    assert desk.used("a", NOW + 300) == 6_000 + 3_700


def test_a_call_that_outlives_its_lease_is_settled_on_the_next_one() -> None:
    desk = Desk()
    limit_set, costs = limit_set_of([(A, 100)])
    desk.broker.ask(limit_set, costs, NOW)
    desk.fly()
    for step in range(1, 100):
        desk.broker.sweep(NOW + 250 * step)
    assert list(desk.broker.leases) == []
    desk.broker.settle(limit_set, costs, [400], NOW + 30_000)
    assert desk.lease("a").balance == -300


def test_a_changed_limit_is_not_undone_by_a_call_that_began_before() -> None:
    desk = Desk()
    old, costs = limit_set_of([(A, 100)])
    desk.broker.ask(old, costs, NOW)
    desk.fly()
    wider = bucket("a", 120_000)
    desk.ask((wider, 100), now_ms=NOW)
    desk.broker.settle(old, costs, [50], NOW)
    assert desk.lease("a").bucket is wider


@pytest.mark.parametrize(
    ("outage_ms", "spent", "owed"),
    [
        (4_000, 1_900, 1_900),  # the bucket was empty, and has filled up for all of it
        (60_000, 28_500, 1_500),  # ...for most of it it had no room
        (60_000, 6_000, 0),  # less than flowed in
    ],
)
def test_what_was_spent_on_a_share_is_owed_when_the_bucket_can_be_asked_again(
    outage_ms: int, spent: int, owed: int
) -> None:
    desk = Desk()
    desk.broker.share_default = 0.5
    desk.ask((A, 6_000))
    desk.fly()
    assert desk.used("a") == 6_000, "it is empty"
    desk.broker.lose("", None, NOW)
    lease = desk.lease("a")
    lease.alone_ms = NOW
    lease.take_alone(spent, 0.5, NOW)
    back_ms = NOW + outage_ms
    desk.fly(now_ms=back_ms, probe=True)
    assert lease.balance == -owed
    before_ms = desk.used("a", back_ms)
    desk.fly(now_ms=back_ms)
    assert max(desk.used("a", back_ms), 0) == max(before_ms, 0) + owed
    assert lease.balance == 0
