"""Goal: permits are never more than their limit has, none leaks, and none in use is taken away.

Method: workers over one imaginary concurrency limit, whose replies come in any order a test likes.
"""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from relay.limits.decision import ADMITTED, Denied, PermitRequest
from relay.limits.permits import (
    PATIENCE_MS,
    RENEW_MS,
    SETTLE_MS,
    Permits,
    PermitWaiter,
    grant_permits,
)
from relay.limits.scopes import ConcurrencyLimit, Scope
from relay.model import OnLoss

HALL = ConcurrencyLimit("relay:{l:1}:seats", "{l:1}", Scope.LINE, 10)
DESK = ConcurrencyLimit("relay:{a:1}:seats", "{a:1}", Scope.ACCOUNT, 2)


def worker() -> tuple[Permits, list[str]]:
    due: list[str] = []
    return Permits(lambda _: "", due.append), due


@given(*[st.integers(0, 50)] * 5)
def test_blocks_fit_the_room(permits: int, others: int, used: int, need: int, spare: int) -> None:
    leased = grant_permits(permits, others, used, need, spare)
    assert used <= leased <= used + need + spare
    assert leased <= max(used, permits - others)


def permit(
    permits: Permits, concurrencies: list[ConcurrencyLimit], granted: list[int], now_ms: float = 0.0
) -> object:
    waiter = permits.ask(concurrencies, now_ms)
    assert isinstance(waiter, PermitWaiter)
    permits.take_permit_requests("", now_ms)
    permits.land("", granted, now_ms)
    return waiter.decision


def test_the_first_call_asks_and_the_next_sits_down() -> None:
    permits, due = worker()
    waiter = permits.ask([HALL], 0.0)
    assert isinstance(waiter, PermitWaiter) and due == [""]
    heard = []
    waiter.decide = lambda: heard.append(waiter.decision)
    assert permits.take_permit_requests("", 0.0) == [PermitRequest(HALL.key, 10, 0, 1, 2)]
    assert permits.take_permit_requests("", 0.0) == [], "one question at a time"
    permits.land("", [2], 1.0)
    assert heard == [ADMITTED]
    assert permits.ask([HALL], 2.0) is ADMITTED


def test_no_seat_in_one_room_is_a_seat_in_none() -> None:
    permits, _ = worker()
    waiter = permits.ask([HALL, DESK], 0.0)
    assert isinstance(waiter, PermitWaiter)
    permits.take_permit_requests("", 0.0)
    permits.land("", [3, 0], 1.0)
    assert waiter.decision is None, "others hold what it lacks, perhaps for nobody"
    assert permits.ask([HALL], 1.0) is ADMITTED
    permits.take_permit_requests("", PATIENCE_MS)
    permits.land("", [2, 0], PATIENCE_MS)
    assert isinstance(waiter.decision, Denied) and waiter.decision.limit is DESK


def test_whose_worker_holds_all_is_refused_at_once_and_not_asked_about_again() -> None:
    permits, _ = worker()
    assert permit(permits, [DESK], [2]) is ADMITTED
    assert permits.ask([DESK], 1.0) is ADMITTED
    denied = permit(permits, [DESK], [2], 2.0)
    assert isinstance(denied, Denied) and denied.limit is DESK
    assert isinstance(permits.ask([DESK], 3.0), Denied)
    assert isinstance(permits.ask([DESK], 100.0), PermitWaiter)


def test_a_block_of_a_limit_that_is_near_goes_back_with_the_end_of_its_call() -> None:
    permits, due = worker()
    assert permit(permits, [DESK], [1]) is ADMITTED
    due.clear()
    permits.release([DESK])
    assert due == [""]
    assert permits.take_permit_requests("", 1.0) == [PermitRequest(DESK.key, 2, 0, 0, 0)]


def test_a_call_that_came_after_the_question_waits_for_the_next() -> None:
    permits, due = worker()
    first = permits.ask([HALL], 0.0)
    permits.take_permit_requests("", 0.0)
    late = permits.ask([HALL], 0.0)
    due.clear()
    permits.land("", [1], 1.0)
    assert isinstance(first, PermitWaiter) and first.decision is ADMITTED
    assert isinstance(late, PermitWaiter) and late.decision is None and due == [""]


def test_a_call_that_left_takes_no_seat() -> None:
    permits, _ = worker()
    waiter = permits.ask([HALL], 0.0)
    assert isinstance(waiter, PermitWaiter)
    permits.drop(waiter)
    permits.drop(waiter)
    permits.take_permit_requests("", 0.0)
    permits.land("", [], 1.0)
    permits.sweep(1.0)
    assert permits._leases == {}
    kept = permits.ask([HALL], 2.0)
    permits.take_permit_requests("", 2.0)
    assert isinstance(kept, PermitWaiter)
    permits.drop(kept)
    permits.land("", [1], 3.0)
    assert permits.ask([HALL], 4.0) is ADMITTED


def test_blocks_are_renewed_and_given_back() -> None:
    permits, due = worker()
    assert permit(permits, [HALL], [1]) is ADMITTED
    due.clear()
    permits.sweep(RENEW_MS - 1)
    assert due == []
    permits.sweep(RENEW_MS)
    assert due == [""]
    assert permits.take_permit_requests("", RENEW_MS) == [PermitRequest(HALL.key, 10, 1, 0, 2)]
    permits.land("", [3], RENEW_MS)
    permits.release([HALL])
    assert permits.take_permit_requests("", RENEW_MS + SETTLE_MS) == [
        PermitRequest(HALL.key, 10, 0, 0, 0)
    ]
    permits.land("", [0], RENEW_MS + SETTLE_MS)
    permits.sweep(RENEW_MS + SETTLE_MS)
    assert permits._leases == {}


def test_while_lost_a_worker_has_its_equal_part() -> None:
    permits, _ = worker()
    permits.share = 1 / 3
    assert permit(permits, [HALL], [1]) is ADMITTED
    permits.lose("", 1.0)
    assert [permits.ask([HALL], 2.0) for _ in range(2)] == [ADMITTED] * 2
    assert isinstance(permits.ask([HALL], 2.0), Denied)
    permits.release([HALL])
    assert permits.ask([HALL], 3.0) is ADMITTED


def test_while_lost_open_holds_nobody_back_and_closed_does_not_grow() -> None:
    for on_loss, more in ((OnLoss.OPEN, 100), (OnLoss.CLOSED, 0)):
        limit = msgspec.structs.replace(HALL, on_loss=on_loss)
        permits, _ = worker()
        permits.share = 0.5
        assert permit(permits, [limit], [1]) is ADMITTED
        permits.lose("", 1.0)
        assert all(permits.ask([limit], 2.0) is ADMITTED for _ in range(more))
        assert isinstance(permits.ask([limit], 2.0), Denied) is (on_loss is OnLoss.CLOSED)


def test_who_waits_when_redis_is_lost_is_decided_at_once() -> None:
    permits, _ = worker()
    assert permit(permits, [HALL], [1]) is ADMITTED
    waiting = permits.ask([HALL], 1.0)
    permits.take_permit_requests("", 1.0)
    permits.lose("", 2.0)
    assert isinstance(waiting, PermitWaiter) and isinstance(waiting.decision, Denied)
    assert isinstance(permits.ask([HALL], 200.0), Denied)
    permits.release([HALL])
    assert permits.ask([HALL], 200.0) is ADMITTED
    permits.regain("")
    assert isinstance(permits.ask([HALL], 200.0), PermitWaiter)


def test_rooms_of_two_groups_are_taken_together() -> None:
    due: list[str] = []
    permits = Permits(lambda concurrency: concurrency.tag, due.append)
    waiter = permits.ask([HALL, DESK], 0.0)
    assert isinstance(waiter, PermitWaiter)
    assert permits.take_permit_requests(HALL.tag, 0.0) == [PermitRequest(HALL.key, 10, 0, 1, 2)]
    permits.land(HALL.tag, [1], 1.0)
    assert waiter.decision is None
    assert permits.take_permit_requests(DESK.tag, 1.0) == [PermitRequest(DESK.key, 2, 0, 1, 2)]
    permits.land(DESK.tag, [1], 2.0)
    assert waiter.decision is ADMITTED


def test_a_seat_is_foreseen_without_taking_it() -> None:
    permits = Permits(lambda _: "", lambda _: None)
    assert permits.foresee([HALL], 0.0) is None, "nobody knows yet: the bank has to say"
    permits.lose("", 0.0)
    closed = msgspec.structs.replace(HALL, on_loss=OnLoss.CLOSED)
    denied = permits.foresee([closed], 0.0)
    assert isinstance(denied, Denied) and denied.limit is closed
    assert permits.take([closed], 0.0) == denied


def test_who_waits_for_other_workers_permits_is_woken_to_ask_again() -> None:
    permits, due = worker()
    waiter = permits.ask([DESK], 0.0)
    permits.take_permit_requests("", 0.0)
    permits.land("", [0], 1.0)
    due.clear()
    permits.wake(2.0)
    assert due == [] and 2.0 < permits.retry_ms < 100.0
    permits.wake(permits.retry_ms)
    assert due == [""]
    permits.take_permit_requests("", 20.0)
    permits.land("", [1], 21.0)
    assert isinstance(waiter, PermitWaiter) and waiter.decision is ADMITTED


def test_a_limit_that_was_full_a_moment_ago_is_foreseen_as_full_until_it_grants() -> None:
    permits, _ = worker()
    waiter = permits.ask([DESK], 0.0)
    permits.take_permit_requests("", 0.0)
    permits.land("", [0], 1.0)
    assert isinstance(permits.foresee([DESK], 2.0), Denied)
    assert isinstance(permits.ask([DESK], 2.0), PermitWaiter), "who has no other way waits"
    permits.take_permit_requests("", 16.0)
    permits.land("", [2], 17.0)
    assert isinstance(waiter, PermitWaiter) and waiter.decision is ADMITTED
    permits.release([DESK])
    assert permits.foresee([DESK], 18.0) is None


def test_who_leaves_wishes_for_nothing() -> None:
    permits = Permits(lambda concurrency: concurrency.tag, lambda _: None)
    permits.ask([HALL], 0.0)
    assert permits.leave() == {HALL.tag: [PermitRequest(HALL.key, HALL.permits, 0, 0, 0)]}
