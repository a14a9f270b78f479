"""Goal: whoever waits is served fairly by account, within bounds, and nobody who left stays behind.

Method: the queue alone, simulated: accounts that offer a hundred times as much as others, calls of
one to a hundred thousand tokens, random cancels; what is served is compared with fair shares.
"""

import random
from collections import Counter

import pytest

from relay.limits.fair_queue import QUANTUM, FairQueue, Ticket


def serve(queue: FairQueue, tokens: int) -> Counter[int]:
    """Serve as many tokens as there are; return what each account got."""
    served: Counter[int] = Counter()
    while tokens > 0 and (ticket := queue.first()) is not None:
        tokens -= ticket.cost
        served[ticket.account_id] += ticket.cost
        queue.take(ticket)
    return served


@pytest.mark.parametrize("seed", range(5))
def test_ten_accounts_get_their_share_though_one_offers_a_hundred_times_as_much(seed: int) -> None:
    dice = random.Random(seed)
    queue = FairQueue(calls_max=1_000, bytes_max=10**9)
    served: Counter[int] = Counter()
    # A line of 10,000 tokens a tick: each of the ten has a tenth of that as its share.
    for _ in range(2_000):
        for account_id in range(10):
            offered = 100_000 if account_id == 0 else 1_100
            while offered > 0:
                ticket = Ticket(account_id, min(int(dice.lognormvariate(6.5, 1.0)) + 1, 60_000), 1)
                offered -= ticket.cost
                queue.push(ticket)
        served += serve(queue, 10_000)
    fair = sum(served.values()) / 10
    for account_id in range(1, 10):
        assert served[account_id] >= 0.95 * fair, (account_id, served)


def test_a_large_call_is_not_starved_by_small_ones() -> None:
    queue = FairQueue(calls_max=10_000, bytes_max=10**9)
    large = Ticket(1, 120_000, 1)
    queue.push(large)
    for _ in range(9_000):
        queue.push(Ticket(2, 100, 1))
    served = 0
    while (ticket := queue.first()) is not large:
        assert ticket is not None
        queue.take(ticket)
        served += ticket.cost
    assert served <= 120_000 + 2 * 4_096


def test_bounds_hold_and_who_has_most_goes_first() -> None:
    queue = FairQueue(calls_max=10, bytes_max=100)
    mine = [Ticket(1, 1, 10) for _ in range(10)]
    for ticket in mine:
        assert queue.push(ticket) == []
    assert queue.push(Ticket(1, 1, 10)) is None
    assert queue.push(Ticket(2, 1, 10)) == [mine[9]]
    assert queue.push(Ticket(3, 1, 25)) == [mine[8], mine[7], mine[6]]
    assert (len(queue), queue.held_bytes) == (8, 95)
    assert queue.push(Ticket(4, 1, 101)) is None
    assert (len(queue), queue.held_bytes) == (8, 95)


def test_what_is_ahead_is_no_more_than_everybody_s_like() -> None:
    queue = FairQueue(calls_max=1_000, bytes_max=1_000)
    for _ in range(100):
        queue.push(Ticket(1, 1_000, 1))
    queue.push(Ticket(2, 500, 1))
    assert queue.ahead(3, 1_000) == 1_000 + 500
    assert queue.ahead(1, 1_000) == 100_000 + 500


def test_a_limit_that_holds_all_accounts_up_favours_none_of_them() -> None:
    queue = FairQueue(calls_max=500, bytes_max=10**9)
    for account_id in (1, 2, 3):
        for _ in range(100):
            queue.push(Ticket(account_id, QUANTUM // 4, 10))
    served: Counter[int] = Counter()
    for _ in range(90):  # a room for one call opens, again and again
        first = queue.first()
        assert first is not None
        queue.take(first)
        served[first.account_id] += 1
        for _ in range(queue.accounts):
            queue.first()
            queue.skip()
    assert all(abs(count - 30) <= 4 for count in served.values()), served


def test_ten_thousand_random_cancels_leave_nobody() -> None:
    dice = random.Random(3)
    queue = FairQueue(calls_max=500, bytes_max=10**9)
    waiting: set[Ticket] = set()
    cancelled = 0
    while cancelled < 10_000:
        ticket = Ticket(dice.randrange(20), dice.randrange(1, 9_000), dice.randrange(1, 99))
        gone = queue.push(ticket)
        if gone is not None:
            waiting.add(ticket)
            waiting.difference_update(gone)
        if waiting and dice.random() < 0.7:
            one = dice.choice(sorted(waiting, key=id))
            queue.drop(one)
            queue.drop(one)
            waiting.discard(one)
            cancelled += 1
        if dice.random() < 0.2 and (first := queue.first()) is not None:
            queue.take(first)
            waiting.discard(first)
        if dice.random() < 0.1 and queue.first() is not None:
            queue.skip()
        assert len(queue) == len(waiting)
    for ticket in waiting:
        queue.drop(ticket)
    assert (len(queue), queue.held_bytes, queue.accounts, queue.first()) == (0, 0, 0, None)
