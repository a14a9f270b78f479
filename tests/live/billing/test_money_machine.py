"""Goal: no sequence of money movements breaks the books.

Method: a hypothesis state machine on a real Postgres that recharges, calls back (twice, out of
order, at once), redeems, credits by hand, leases, serves, ships its journals (replayed, reordered,
cut off anywhere), changes prices; beside it a model in plain integers, compared after every step:

    I1  entries of a transfer add up to zero      I5  a request is settled at most once
    I2  a balance is the sum of its entries       I8  a paid order is credited exactly once
    I3  balance - held never below the limit      I9  replaying or cutting a journal changes nothing
    I4  held is the sum of open leases            I10 a price change touches no earlier call
"""

import asyncio
import os
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from relay.billing.price import charge
from relay.billing.purse import Purse
from relay.billing.recharge import Currency
from relay.config import Billing
from relay.errors import BadRequest, Conflict
from relay.model import Price
from relay.records import CallEnd, EndReason
from relay.store import postgres
from relay.store.billing import credit_leases, ledger, orders, recharges
from relay.store.billing.audit import run_audit
from relay.store.catalog.snapshot import PRICES, read_price
from relay.store.catalog.write import insert_price
from relay.store.log.writer import Mark, Part, write_batch
from relay.store.postgres import Connection
from relay.usage import Usage
from tests.live.money_rig import USD, give_back_from, lease_into, make_account

pytestmark = pytest.mark.live

BILLING = Billing(bonus={"50": "0.1"})
GROUP_PPM = 690_000
ACCOUNTS, WORKERS = 2, 3
CREDIT_LIMIT = USD // 2
ENOUGH = 10
"""So often each thing must have happened in the short run, else it proves nothing of it."""

_Result = TypeVar("_Result")


class World:
    """One loop and two connections for all examples; each example has accounts of its own."""

    def __init__(self, url: str) -> None:
        self.runner = asyncio.Runner()
        self.connection: Connection = self.do(postgres.connect(url))
        self.rival: Connection = self.do(postgres.connect(url))
        self.examples = 0
        self.seen: Counter[str] = Counter()
        """What happened, over all examples: a machine that does nothing finds nothing."""

    def do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a piece of work to its end."""
        return self.runner.run(work)

    def close(self) -> None:
        self.do(self.connection.close())
        self.do(self.rival.close())
        self.runner.close()


class Worker:
    """A life of a worker: its purses, and its journal as it was written."""

    def __init__(self, owner: str, accounts: list[int]) -> None:
        self.owner = owner
        self.purses = {account_id: Purse() for account_id in accounts}
        self.journal: list[CallEnd] = []
        self.shipped = 0


account_numbers = st.integers(0, ACCOUNTS - 1)
repeats = st.integers(1, 3)
worker_numbers = st.integers(0, WORKERS - 1)
usages = st.builds(
    lambda given, cached, made: Usage(given + cached, cached, output_tokens=made),
    st.integers(0, 20_000),
    st.integers(0, 20_000),
    st.integers(0, 20_000),
)


class Money(RuleBasedStateMachine):
    """The books, and a model of what must be in them."""

    world: World
    opened = Bundle("opened")
    codes = Bundle("codes")

    @initialize()
    def begin(self) -> None:
        """Open the accounts and hire the workers."""
        self.world.examples += 1
        self.name = f"x{self.world.examples}"
        self.accounts = [
            self.world.do(make_account(self.world.connection, f"{self.name}-{number}"))
            for number in range(ACCOUNTS)
        ]
        self.world.do(
            self.world.connection.execute(
                "UPDATE accounts SET credit_limit_nanos = $2 WHERE id = ANY($1::bigint[])",
                self.accounts,
                CREDIT_LIMIT,
            )
        )
        self.workers = [self.hire(number) for number in range(WORKERS)]
        self.dead: list[Worker] = []
        self.numbers = 0
        self.paid: set[str] = set()
        self.owed = dict.fromkeys(self.accounts, 0)
        """What came in, by account: the model's own sum."""
        self.settled: dict[bytes, CallEnd] = {}
        self.set_price(1_000, 2_000)
        for number in range(ACCOUNTS):
            self.credit_by_hand(number, USD)

    def hire(self, number: int) -> Worker:
        self.lives = getattr(self, "lives", 0) + 1
        return Worker(f"{self.name}.{number}.{self.lives}", self.accounts)

    def next_number(self) -> int:
        self.numbers += 1
        return self.numbers

    # --- money comes in -----------------------------------------------------------------------

    @rule(target=opened, at=account_numbers, cents=st.lists(st.integers(1, 20_000), max_size=4))
    def open_orders(self, at: int, cents: list[int]) -> MultipleResults[tuple[int, str, str]]:
        """Open orders that may be paid later, or never."""
        made = []
        for each in cents:
            amount, order_no = f"{each / 100:.2f}", f"{self.name}-{self.next_number()}"
            order = self.world.do(self.compose(at, amount, order_no))
            assert self.world.do(orders.open_order(self.world.connection, order)) == "pending"
            made.append((at, amount, order_no))
        return multiple(*made)

    @rule(at=account_numbers, cents=st.integers(1, 20_000), times=repeats, at_once=st.booleans())
    def call_back_unopened(self, at: int, cents: int, times: int, *, at_once: bool) -> None:
        """A callback that overtook the opening of its order; the opening changes nothing then."""
        terms = at, f"{cents / 100:.2f}", f"{self.name}-{self.next_number()}"
        self.pay(terms, times, at_once=at_once)
        order = self.world.do(self.compose(*terms))
        assert self.world.do(orders.open_order(self.world.connection, order)) == "credited"

    @rule(terms=opened, times=repeats, at_once=st.booleans())
    def call_back(self, terms: tuple[int, str, str], times: int, *, at_once: bool) -> None:
        """Pay an order, for the first time or not."""
        self.pay(terms, times, at_once=at_once)

    def pay(self, terms: tuple[int, str, str], times: int, *, at_once: bool) -> None:
        """Call back so many times, one after the other or on two connections at once."""
        order = self.world.do(self.compose(*terms))

        async def pay(connection: Connection) -> int:
            fresh = 0
            for _ in range(times):
                await orders.mark_paid(connection, order)
                fresh += (await orders.credit_order(connection, order.order_no)).fresh
            return fresh

        async def pay_at_once() -> int:
            return sum(await asyncio.gather(pay(self.world.connection), pay(self.world.rival)))

        fresh = self.world.do(pay_at_once() if at_once else pay(self.world.connection))
        assert fresh == (order.order_no not in self.paid)
        self.world.seen["paid at once" if at_once else "paid"] += fresh
        self.note_paid(order)

    @rule(terms=opened)
    def die_between_paid_and_credited(self, terms: tuple[int, str, str]) -> None:
        """Keep the payment; the next sweep credits it."""
        order = self.world.do(self.compose(*terms))
        self.world.do(orders.mark_paid(self.world.connection, order))
        for order_no, _ in self.world.do(orders.list_uncredited(self.world.connection)):
            self.world.do(orders.credit_order(self.world.rival, order_no))
        self.note_paid(order)

    @rule(terms=opened, cents=st.integers(1, 5))
    def call_back_with_another_amount(self, terms: tuple[int, str, str], cents: int) -> None:
        """A callback that contradicts its order changes nothing."""
        account, amount, order_no = terms
        other = self.world.do(self.compose(account, f"{float(amount) + cents:.2f}", order_no))
        with pytest.raises(Conflict):
            self.world.do(orders.mark_paid(self.world.connection, other))

    @rule(at=account_numbers, cents=st.integers(1, 20_000), currency=st.sampled_from(Currency))
    def recharge(self, at: int, cents: int, currency: Currency) -> None:
        """Credit an order that nobody opened, twice."""
        order_no = f"{self.name}-{self.next_number()}"
        order = self.world.do(self.compose(at, f"{cents / 100:.2f}", order_no, currency))
        for fresh in (True, False):
            done, _ = self.world.do(recharges.recharge(self.world.connection, BILLING, order))
            assert done.fresh is fresh
        self.note_paid(order)

    @rule(target=codes, nanos=st.integers(1, 5 * USD))
    def issue_code(self, nanos: int) -> tuple[bytes, int]:
        """Make a code; here its digest is all there is of it."""
        digest = f"{self.name}-{self.next_number()}".encode().ljust(32, b"\0")
        self.world.do(orders.issue_code(self.world.connection, digest, nanos, actor="test"))
        return digest, nanos

    @rule(code=consumes(codes), at=account_numbers)
    def redeem(self, code: tuple[bytes, int], at: int) -> None:
        """Redeem a code on two connections at once: one of them gets it."""
        digest, nanos = code

        async def redeem(connection: Connection) -> int:
            try:
                return await orders.redeem(connection, digest, self.accounts[at])
            except BadRequest:
                return 0

        async def at_once() -> list[int]:
            return [*await asyncio.gather(redeem(self.world.connection), redeem(self.world.rival))]

        assert sorted(self.world.do(at_once())) == [0, nanos]
        self.world.seen["redeemed"] += 1
        self.owed[self.accounts[at]] += nanos

    @rule(at=account_numbers, nanos=st.integers(1, 3 * USD))
    def credit(self, at: int, nanos: int) -> None:
        """Credit with who and why; the same ticket a second time changes nothing."""
        self.credit_by_hand(at, nanos)

    def credit_by_hand(self, at: int, nanos: int) -> None:
        ticket = f"{self.name}-{self.next_number()}"
        for booked in (True, False):
            done = self.world.do(
                ledger.credit(
                    self.world.connection,
                    self.accounts[at],
                    nanos,
                    ref=ticket,
                    actor="test",
                    reason="a test",
                )
            )
            assert done is booked
        self.owed[self.accounts[at]] += nanos

    # --- money goes out -----------------------------------------------------------------------

    @rule(rate=st.integers(0, 20_000), output=st.integers(0, 60_000))
    def change_price(self, rate: int, output: int) -> None:
        """Put another price in force; calls that ended before keep theirs (I10)."""
        self.set_price(rate, output)

    @rule(number=worker_numbers, at=account_numbers, needed=st.integers(0, USD))
    def lease_ahead(self, number: int, at: int, needed: int) -> None:
        """Lease credit; what is granted is there, and never below the limit (I3, I4)."""
        self.lease(number, at, needed)

    def lease(self, number: int, at: int, needed: int) -> None:
        worker, account_id = self.workers[number], self.accounts[at]
        purse = worker.purses[account_id]
        granted = lease_into(
            purse, self.world.connection, worker.owner, account_id, needed, 2 * USD
        )
        self.world.seen["leased"] += self.world.do(granted) > 0

    @rule(number=worker_numbers, at=account_numbers, asked=st.lists(usages, min_size=1, max_size=6))
    def serve(self, number: int, at: int, asked: list[Usage]) -> None:
        """Serve calls out of the purse; it leases what is missing, as a worker does."""
        worker, account_id = self.workers[number], self.accounts[at]
        purse = worker.purses[account_id]
        for usage in asked:
            nanos = charge(usage, self.price, group_multiplier_ppm=GROUP_PPM).cost_nanos
            if purse.free_nanos < nanos:
                self.lease(number, at, nanos - purse.free_nanos)
            if purse.hold(nanos):
                purse.settle(nanos, nanos)
                worker.journal.append(self.end_of(account_id, usage, self.price))
                self.world.seen["served"] += nanos > 0

    @rule(number=worker_numbers, share=st.floats(0, 1), seed=st.randoms(use_true_random=False))
    def ship(self, number: int, share: float, seed: Any) -> None:
        """Ship a part of a journal in any order, what was shipped before among it (I5, I9)."""
        worker = self.workers[number]
        ends = worker.journal[: round(len(worker.journal) * share)]
        seed.shuffle(ends)
        self.write(worker, ends + ends[: len(ends) // 2])

    @rule(number=worker_numbers, at=account_numbers, keep=st.integers(0, USD))
    def give_back(self, number: int, at: int, keep: int) -> None:
        """Give surplus credit back."""
        worker, account_id = self.workers[number], self.accounts[at]
        back = give_back_from(
            worker.purses[account_id],
            self.world.connection,
            worker.owner,
            account_id,
            keep_nanos=keep,
        )
        self.world.seen["given back"] += self.world.do(back) > 0

    @rule(number=worker_numbers)
    def crash(self, number: int) -> None:
        """A worker dies: its journal is shipped whole, then its leases are closed, twice."""
        worker = self.workers[number]
        self.write(worker, worker.journal)
        for _ in range(2):
            self.world.do(credit_leases.close_owner(self.world.connection, worker.owner))
        self.dead.append(worker)
        self.workers[number] = self.hire(number)

    @rule(seed=st.randoms(use_true_random=False))
    def replay_the_dead(self, seed: Any) -> None:
        """Journals of the dead come back from a backup: they are in already (I9)."""
        for worker in self.dead:
            ends = list(worker.journal)
            seed.shuffle(ends)
            self.write(worker, ends)

    # --- what must hold -----------------------------------------------------------------------

    @invariant()
    def the_model_agrees(self) -> None:
        """Balances are what came in less what was served and shipped; nobody is over its limit."""
        for account_id in self.accounts:
            found = self.world.do(ledger.read_balance(self.world.connection, account_id))
            spent = sum(
                end.cost_nanos for end in self.settled.values() if end.account_id == account_id
            )
            assert found.balance_nanos == self.owed[account_id] - spent
            assert found.free_nanos >= 0
            unshipped = sum(
                end.cost_nanos
                for worker in self.workers
                for end in worker.journal
                if end.account_id == account_id and end.request_id not in self.settled
            )
            leased = sum(worker.purses[account_id].leased_nanos for worker in self.workers)
            assert found.held_nanos == leased + unshipped

    @invariant()
    def the_audit_finds_nothing(self) -> None:
        """I1, I2, I4, I5, I8 and I10, by the same audit that operators run."""
        assert self.world.do(run_audit(self.world.connection)).drifts == []

    # --- parts --------------------------------------------------------------------------------

    async def compose(
        self, at: int, amount: str, order_no: str, currency: Currency = Currency.USD
    ) -> orders.Order:
        return await recharges.compose_order(
            self.world.connection,
            BILLING,
            f"{self.name}-{at}",
            (amount, currency),
            order_no=order_no,
            actor="test",
        )

    def note_paid(self, order: orders.Order) -> None:
        if order.order_no not in self.paid:
            self.paid.add(order.order_no)
            self.owed[order.account_id] += order.credit.paid_nanos + order.credit.bonus_nanos

    def set_price(self, rate: int, output: int) -> None:
        model = f"{self.name}-m"
        price = Price(
            id=0,
            model=model,
            input=rate * 1_000_000,
            output=output * 1_000_000,
            cached_input=rate * 250_000,
        )
        self.world.do(insert_price(self.world.connection, price))
        rows = self.world.do(self.world.connection.fetch(PRICES))
        self.price = next(read_price(row) for row in rows if row["model"] == model)

    def write(self, worker: Worker, ends: list[CallEnd]) -> None:
        self.world.seen["replayed"] += sum(end.request_id in self.settled for end in ends)
        part = Part(worker.owner, Mark(segment=1, offset=1), ends)
        self.world.do(write_batch(self.world.connection, [part]))
        self.settled.update((end.request_id, end) for end in ends)

    def end_of(self, account_id: int, usage: Usage, price: Price) -> CallEnd:
        bill = charge(usage, price, group_multiplier_ppm=GROUP_PPM)
        now_us = 1_795_000_000_000_000 + self.next_number()
        unique = self.world.examples.to_bytes(4) + self.numbers.to_bytes(4)
        return CallEnd(
            request_id=(now_us // 1000).to_bytes(6) + b"\x70\x00" + unique,
            time_us=now_us,
            account_id=account_id,
            key_id=0,
            ip="192.0.2.1",
            endpoint="chat/completions",
            model=price.model,
            line_id=1,
            stream=True,
            channel_id=1,
            served_model=price.model,
            status=200,
            reason=EndReason.COMPLETED.value,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            cache_write_tokens=0,
            output_tokens=usage.output_tokens,
            reasoning_tokens=0,
            estimated=False,
            ttft_us=1,
            total_us=2,
            attempts=1,
            cost_nanos=bill.cost_nanos,
            price_id=bill.price_id,
            group_multiplier_ppm=bill.group_multiplier_ppm,
            model_multiplier_ppm=bill.model_multiplier_ppm,
            error_code="",
        )


@pytest.fixture
def machine(database_url: str) -> Iterator[type[Money]]:
    """The machine, on a database of its own."""
    world = World(database_url)

    class Bound(Money):
        """The machine on this test's database."""

    Bound.world = world
    yield Bound
    world.close()


def run_machine(machine: type[Money], *, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=not os.environ.get("RELAY_TEST_RANDOM"),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


@pytest.mark.timeout(240)
def test_no_sequence_of_movements_breaks_the_books(machine: type[Money]) -> None:
    run_machine(machine, examples=100, steps=40)
    happened = {"paid", "paid at once", "redeemed", "leased", "served", "replayed", "given back"}
    assert {name for name, count in machine.world.seen.items() if count >= ENOUGH} == happened


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_long_sequence_of_movements_breaks_the_books(machine: type[Money]) -> None:
    run_machine(machine, examples=250, steps=50)
