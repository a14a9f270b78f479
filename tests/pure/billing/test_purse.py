"""Goal: leases let workers spend on their own without ever spending money twice.

Method: a state machine drives purses against a small model of the ledger, with replayed batches,
duplicate orders, crashes and returns, and checks I1 to I5 and I8 after every step.

Source: docs/reliability.md, "Invariants of money".
"""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.billing.purse import SHARE_MAX, Purse, lease_nanos

CREDIT_LIMIT = 20
amounts = st.integers(0, 60)
workers = st.sampled_from(["a", "b", "c"])


class Books:
    """What 0003_ledger.sql does, for one account: the same guards, in memory."""

    def __init__(self) -> None:
        self.transfers: list[dict[str, int]] = []
        self.balance = 0
        self.open: Counter[str] = Counter()
        self.settled: dict[int, int] = {}
        self.orders: dict[str, int] = {}

    @property
    def held(self) -> int:
        return self.open.total()

    @property
    def free(self) -> int:
        return self.balance - self.held + CREDIT_LIMIT

    def recharge(self, order_no: str, amount: int) -> None:
        if order_no not in self.orders:
            self.orders[order_no] = amount
            self._book({"customer": amount, "cash": -amount})

    def lease(self, owner: str, needed: int, wanted: int) -> int:
        granted = lease_nanos(self.free, needed_nanos=needed, wanted_nanos=wanted)
        self.open[owner] += granted
        return granted

    def settle(self, owner: str, ended: dict[int, int]) -> None:
        fresh = {call: cost for call, cost in ended.items() if call not in self.settled}
        self.settled |= fresh
        cost = sum(fresh.values())
        self._book({"customer": -cost, "revenue": cost})
        self.open[owner] -= min(self.open[owner], cost)

    def give_back(self, owner: str, surplus: int) -> None:
        self.open[owner] -= min(self.open[owner], surplus)

    def close(self, owner: str) -> None:
        del self.open[owner]

    def _book(self, moved: dict[str, int]) -> None:
        self.transfers.append(moved)
        self.balance += moved["customer"]


class Life:
    """One life of a worker: its purse, its running calls, and the journal it leaves behind."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.purse = Purse()
        self.running: dict[int, int] = {}
        self.journal: dict[int, int] = {}
        self.shipped: set[int] = set()

    @property
    def unshipped(self) -> int:
        return sum(cost for call, cost in self.journal.items() if call not in self.shipped)


class Money(RuleBasedStateMachine):
    """Three workers, one account, one ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.books = Books()
        self.lives: dict[str, Life] = {}
        self.dead: list[Life] = []
        self.births = 0
        self.calls = 0
        self.overrun = 0

    def life(self, worker: str) -> Life:
        if worker not in self.lives:
            self.births += 1
            self.lives[worker] = Life(f"{worker}-{self.births}")
        return self.lives[worker]

    @rule(order_no=st.sampled_from(["1", "2", "3", "4"]), amount=amounts)
    def recharge(self, order_no: str, amount: int) -> None:
        self.books.recharge(order_no, amount)

    @rule(worker=workers, needed=amounts, wanted=amounts)
    def lease(self, worker: str, needed: int, wanted: int) -> None:
        life = self.life(worker)
        life.purse.grant(self.books.lease(life.owner, needed, wanted))

    @rule(worker=workers, nanos=amounts)
    def admit(self, worker: str, nanos: int) -> None:
        life = self.life(worker)
        free = life.purse.free_nanos
        if life.purse.hold(nanos):
            assert nanos <= free
            self.calls += 1
            life.running[self.calls] = nanos
        else:
            assert nanos > free

    @rule(worker=workers, share=st.integers(0, 4), beyond=st.sampled_from([0, 0, 0, 7]))
    def end(self, worker: str, share: int, beyond: int) -> None:
        life = self.life(worker)
        if life.running:
            call, held = life.running.popitem()
            cost = held * share // 4 + beyond
            self.overrun += max(cost - held, 0)
            life.purse.settle(held, cost)
            life.journal[call] = cost

    @rule(worker=workers, again=st.booleans())
    def ship(self, worker: str, again: bool) -> None:
        self._ship(self.life(worker), again=again)

    @rule(worker=workers, keep=amounts)
    def give_back(self, worker: str, keep: int) -> None:
        life = self.life(worker)
        self.books.give_back(life.owner, life.purse.take_back(keep))

    @rule(worker=workers)
    def crash(self, worker: str) -> None:
        if life := self.lives.pop(worker, None):
            life.journal |= life.running  # a START without an END is closed from its checkpoint
            self.dead.append(life)

    @precondition(lambda self: self.dead)
    @rule()
    def recover(self) -> None:
        life = self.dead.pop()
        self._ship(life, again=True)
        self.books.close(life.owner)

    def _ship(self, life: Life, *, again: bool) -> None:
        fresh = life.journal.keys() - life.shipped
        batch = life.journal if again else {call: life.journal[call] for call in fresh}
        self.books.settle(life.owner, batch)
        life.shipped |= fresh

    @invariant()
    def i1_transfers_balance(self) -> None:
        assert all(sum(moved.values()) == 0 for moved in self.books.transfers)

    @invariant()
    def i2_balance_is_the_sum_of_entries(self) -> None:
        assert self.books.balance == sum(moved["customer"] for moved in self.books.transfers)

    @invariant()
    def i3_nothing_beyond_the_limit_is_promised(self) -> None:
        assert self.books.free >= -self.overrun

    @invariant()
    def i4_holds_lie_within_leases_and_leases_within_the_ledger(self) -> None:
        assert self.books.held == sum(self.books.open.values())
        for life in self.lives.values():
            purse = life.purse
            assert purse.held_nanos == sum(life.running.values())
            assert self.books.open[life.owner] >= purse.leased_nanos + life.unshipped

    @invariant()
    def i5_each_call_is_charged_once(self) -> None:
        revenue = sum(moved.get("revenue", 0) for moved in self.books.transfers)
        assert revenue == sum(self.books.settled.values())

    @invariant()
    def i8_each_order_is_credited_once(self) -> None:
        cash = -sum(moved.get("cash", 0) for moved in self.books.transfers)
        assert cash == sum(self.books.orders.values())

    def teardown(self) -> None:
        """Let everybody finish: then nothing is held, and every call was paid for."""
        for worker in list(self.lives):
            self.crash(worker)
        while self.dead:
            self.recover()
        assert self.books.held == 0
        assert len(self.books.settled) == self.calls


TestMoney = Money.TestCase
TestMoney.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@given(st.integers(-100, 1_000), st.integers(0, 200), st.integers(0, 200))
def test_a_lease_is_what_is_needed_or_a_fair_share(free: int, needed: int, wanted: int) -> None:
    granted = lease_nanos(free, needed_nanos=needed, wanted_nanos=wanted)
    assert 0 <= granted <= max(free, 0)
    assert granted == 0 or granted >= needed
    assert granted <= max(needed, wanted)
    assert granted <= max(needed, free // SHARE_MAX, 0)


@pytest.mark.parametrize(
    ("free", "granted"), [(400, 100), (399, 99), (40, 10), (39, 10), (10, 10), (9, 0), (-5, 0)]
)
def test_leases_shrink_with_the_balance_down_to_one_hold(free: int, granted: int) -> None:
    assert lease_nanos(free, needed_nanos=10, wanted_nanos=100) == granted


def test_fifty_calls_are_served_of_a_balance_for_fifty() -> None:
    purse = Purse(leased_nanos=50)
    assert sum(purse.hold(1) for _ in range(500)) == 50


def test_a_call_beyond_its_hold_is_paid_before_the_next_one() -> None:
    purse = Purse(leased_nanos=10)
    assert purse.hold(10)
    purse.settle(10, 15)
    assert not purse.hold(0)
    purse.grant(6)
    assert purse.hold(1)


def test_only_what_is_free_is_taken_back() -> None:
    purse = Purse(leased_nanos=10)
    assert purse.hold(4)
    assert purse.take_back(1) == 5
    assert purse.take_back(1) == 0
    assert (purse.leased_nanos, purse.held_nanos, purse.told_nanos) == (5, 4, -5)
