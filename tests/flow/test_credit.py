"""Goal: calls hold credit that is leased ahead, wait for it briefly, and no purse promises twice.

Method: the reservation with a lender in memory that keeps the ledger's rules, and can lose its
answers, be slow or be down; calls are plain objects. Another worker is played by spending its
balance.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from relay.billing.purse import lease_nanos
from relay.billing.shapes import CreditLease, CreditRequest
from relay.billing.tariff import Tariff
from relay.config import Billing
from relay.errors import CreditExhausted, DependencyDown, RelayError, Unavailable
from relay.flow.call import Call
from relay.flow.ports import Client
from relay.flow.request import RequestFacts, Rights, unread_head
from relay.flow.reserve import leasing
from relay.flow.reserve.credit import Credit
from relay.flow.reserve.credit_account import RESERVE_HOLDS
from relay.model import Account, Dialect, Group, Price
from relay.records import Endpoint
from relay.usage import Usage

USD = 1_000_000_000
CENT = USD // 100
FREE = Price(id=1, model="free", input=0, output=0, cached_input=0)
PRICE = Price(id=2, model="cent", input=0, output=0, cached_input=0, per_call=CENT)
TOKENS = Price(id=3, model="tokens", input=USD, output=2 * USD, cached_input=0)
HUGE = Price(id=4, model="huge", input=USD, output=2_000 * USD, cached_input=0)


class Bank:
    """A lender with the ledger's rules for balances in memory."""

    def __init__(self, **balances: int) -> None:
        self.balances = {int(name[1:]): nanos for name, nanos in balances.items()}
        self.open: Counter[int] = Counter()
        self.total: Counter[int] = Counter()
        self.others: Counter[int] = Counter()
        """What other workers have leased."""
        self.questions: list[list[CreditRequest]] = []
        self.fault: RelayError | None = None
        self.loses = False
        """The answers get lost, though the leases are made."""
        self.gate = asyncio.Event()
        self.gate.set()

    async def lease(
        self, asks: Sequence[CreditRequest], surplus: Mapping[int, int]
    ) -> Mapping[int, CreditLease]:
        await self.gate.wait()
        self.questions.append(list(asks))
        if self.fault is not None:
            raise self.fault
        for account_id, nanos in surplus.items():
            returned = min(nanos, self.open[account_id])
            self.open[account_id] -= returned
            self.total[account_id] -= returned
        told = {ask.account_id: self._lease(ask) for ask in asks if ask.account_id in self.balances}
        if self.loses:
            raise DependencyDown("lost")
        return told

    def _lease(self, ask: CreditRequest) -> CreditLease:
        one = ask.account_id
        free = self.balances[one] - self.open[one] - self.others[one]
        granted = lease_nanos(free, needed_nanos=ask.needed_nanos, wanted_nanos=ask.wanted_nanos)
        self.open[one] += granted
        self.total[one] += granted
        return CreditLease(self.total[one], free - granted, self.balances[one])

    def settle(self, account_id: int, nanos: int) -> None:
        """Do what the shipper does with an ended call."""
        self.balances[account_id] -= nanos
        spent = min(nanos, self.open[account_id])
        self.open[account_id] -= spent
        self.total[account_id] += nanos - spent


def make_call(account_id: int = 1, price: Price = PRICE, **fields: Any) -> Call:
    call = Call(bytes(16), cast("Client", None), 0)
    account = Account(id=account_id, name="a", group_id=1)
    group = Group(id=1, name="g", line_ids=())
    call.rights = Rights(None, account, group, None, Tariff(price, group.multiplier_ppm))
    call.head = unread_head(Dialect.OPENAI, fields.pop("endpoint", Endpoint.CHAT))
    call.request = RequestFacts("m", **fields)
    return call


@contextlib.asynccontextmanager
async def working(bank: Bank, **limits: Any) -> AsyncIterator[Credit]:
    reservation = Credit(bank, Billing(**limits))
    reservation.leasing.start()
    try:
        yield reservation
    finally:
        await reservation.leasing.stop()


async def pay(reservation: Credit, call: Call) -> None:
    if not reservation.take(call):
        await reservation.wait(call)


async def until(condition: Callable[[], object], wait_s: float = 5.0) -> None:
    async with asyncio.timeout(wait_s):
        while not condition():
            await asyncio.sleep(0.005)


async def test_the_first_call_waits_for_one_answer_and_the_next_ones_for_none() -> None:
    bank = Bank(a1=100 * USD)
    async with working(bank) as reservation:
        first = make_call()
        assert not reservation.take(first)
        await reservation.wait(first)
        assert first.hold_nanos == CENT
        for _ in range(RESERVE_HOLDS):
            assert reservation.take(make_call())
        assert len(bank.questions) == 1


async def test_what_is_free_holds_nothing() -> None:
    async with working(Bank()) as reservation:
        call = make_call(price=FREE, output_tokens_max=10**6)
        assert reservation.take(call)
        reservation.close(call, Usage(), 0)


async def test_a_hold_is_what_the_call_may_cost_within_the_cap() -> None:
    async with working(
        Bank(a1=100 * USD), hold_usd_max="0.5", hold_output_tokens=1000
    ) as reservation:
        cases: list[tuple[dict[str, Any], int]] = [
            ({"input_estimate": 100, "output_tokens_max": 10}, 120_000),
            ({"input_estimate": 100, "output_tokens_max": 10, "choices": 3}, 160_000),
            ({"input_estimate": 100}, 2_100_000),
            ({"input_estimate": 100, "endpoint": Endpoint.EMBEDDINGS}, 100_000),
            # What the client bounded is held whole; what is our guess is capped, for each answer.
            ({"output_tokens_max": 10**6}, 2 * USD),
            ({"input_estimate": 100, "price": HUGE}, 100_000 + USD // 2),
            ({"input_estimate": 100, "price": HUGE, "choices": 3}, 100_000 + 3 * USD // 2),
        ]
        for fields, held in cases:
            call = make_call(**{"price": TOKENS, **fields})
            await pay(reservation, call)
            assert call.hold_nanos == held
            reservation.close(call, Usage(), held)


async def test_a_cap_of_nothing_still_asks_for_credit() -> None:
    async with working(Bank(a1=0), hold_usd_max="0") as reservation:
        with pytest.raises(CreditExhausted):
            await pay(reservation, make_call())


async def test_many_accounts_are_asked_for_in_turns() -> None:
    bank = Bank(**{f"a{number}": USD for number in range(1, 1201)})
    async with working(bank) as reservation:
        calls = [make_call(number) for number in range(1, 1201)]
        await asyncio.gather(*(pay(reservation, call) for call in calls))
        assert max(map(len, bank.questions)) <= leasing.ASKS_MAX
        assert all(call.hold_nanos == CENT for call in calls)


async def test_a_balance_for_five_serves_five_of_fifty_at_once() -> None:
    bank = Bank(a1=5 * CENT)

    async def run(call: Call) -> bool:
        try:
            await pay(reservation, call)
        except CreditExhausted:
            return False
        reservation.close(call, Usage(), CENT)
        bank.settle(1, CENT)
        return True

    async with working(bank) as reservation:
        served = await asyncio.gather(*(run(make_call()) for _ in range(50)))
    assert sum(served) == 5
    assert bank.balances[1] == bank.open[1] == 0


async def test_a_refused_account_is_not_asked_for_again_at_once() -> None:
    bank = Bank(a1=0)
    async with working(bank) as reservation:
        with pytest.raises(CreditExhausted):
            await pay(reservation, make_call())
        for _ in range(100):
            with pytest.raises(CreditExhausted):
                reservation.take(make_call())
        assert len(bank.questions) == 1
        bank.balances[1] = USD

        def served() -> bool:
            with contextlib.suppress(CreditExhausted):
                return not reservation.take(make_call())
            return False

        await until(served, 1.0)
        await pay(reservation, make_call())


async def test_what_another_worker_holds_is_waited_for() -> None:
    bank = Bank(a1=CENT)
    bank.others[1] = CENT
    async with working(bank) as reservation:
        call = make_call()
        waiting = asyncio.create_task(pay(reservation, call))
        await until(lambda: len(bank.questions) >= 2)
        bank.others[1] = 0
        await waiting
        assert call.hold_nanos == CENT


async def test_what_another_worker_keeps_is_refused_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leasing, "WAIT_S", 0.1)
    bank = Bank(a1=CENT)
    bank.others[1] = CENT
    async with working(bank) as reservation:
        with pytest.raises(CreditExhausted):
            await pay(reservation, make_call())


async def test_a_recall_gives_back_what_is_free_and_keeps_what_is_held() -> None:
    bank = Bank(a1=10 * USD)
    async with working(bank) as reservation:
        call = make_call()
        await pay(reservation, call)
        assert bank.open[1] > CENT
        reservation.leasing.recall(1)
        await until(lambda: bank.open[1] == CENT)
        reservation.close(call, Usage(), CENT // 2)
        await until(lambda: bank.open[1] == CENT // 2)  # the rest is spent, and on its way
        reservation.leasing.recall(999)


async def test_without_the_bank_calls_go_on_inside_what_is_leased(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leasing, "WAIT_S", 0.1)
    bank = Bank(a1=10 * USD)
    async with working(bank) as reservation:
        await pay(reservation, make_call())
        bank.fault = DependencyDown("down")
        held = 1
        with pytest.raises(Unavailable) as refused:
            while True:
                await pay(reservation, make_call())
                held += 1
        assert refused.value.retry_after_s
        assert not isinstance(refused.value, CreditExhausted)
        assert held * CENT == bank.open[1]
        bank.fault = None
        await until(lambda: bank.open[1] > held * CENT)
        await pay(reservation, make_call())


async def test_a_lost_answer_is_made_up_for_by_the_next() -> None:
    bank = Bank(a1=10 * USD)
    async with working(bank) as reservation:
        bank.loses = True
        call = make_call()
        waiting = asyncio.create_task(pay(reservation, call))
        await until(lambda: bank.open[1] > 0)
        bank.loses = False
        await waiting
        account = reservation.leasing._accounts[1]
        assert account.purse.leased_nanos == bank.open[1]


async def test_an_expired_lease_is_spent_no_more() -> None:
    bank = Bank(a1=10 * USD)
    async with working(bank, lease_ttl_s=0.05) as reservation:
        await pay(reservation, make_call())
        bank.gate.clear()
        await asyncio.sleep(0.06)  # the time to live itself is what is tested
        assert not reservation.take(make_call())
        bank.gate.set()
        await pay(reservation, make_call())


async def test_a_call_that_leaves_while_it_waits_holds_nothing() -> None:
    bank = Bank(a1=CENT)
    async with working(bank) as reservation:
        bank.gate.clear()
        leaving = [asyncio.create_task(pay(reservation, make_call())) for _ in range(3)]
        await asyncio.sleep(0)
        for task in leaving[:2]:
            task.cancel()
        bank.gate.set()
        await leaving[2]
        await asyncio.gather(*leaving, return_exceptions=True)
        assert reservation.leasing._accounts[1].purse.held_nanos == CENT


async def test_a_stream_that_outgrows_its_hold_holds_more() -> None:
    bank = Bank(a1=100 * USD)
    async with working(bank) as reservation:
        call = make_call(price=TOKENS, output_tokens_max=10)
        await pay(reservation, call)
        reservation.update(call, Usage(output_tokens=10))
        assert call.hold_nanos == 20_000
        reservation.update(call, Usage(output_tokens=50))
        assert call.hold_nanos == 100_000
        reservation.close(call, Usage(output_tokens=60), 120_000)
        assert reservation.leasing._accounts[1].purse.held_nanos == 0


async def test_an_unknown_account_is_refused() -> None:
    async with working(Bank()) as reservation:
        with pytest.raises(CreditExhausted):
            await pay(reservation, make_call(7))


@pytest.mark.parametrize("seed", range(5))
async def test_purse_and_bank_agree_whatever_happens(seed: int) -> None:
    """Random calls, costs beyond the hold, lost answers, outages, cancellations, recalls."""
    dice = random.Random(seed)
    bank = Bank(a1=3 * USD, a2=CENT * 30)
    shipping = asyncio.get_running_loop()

    async def run(reservation: Credit) -> None:
        call = make_call(dice.choice([1, 2]))
        assert call.rights.account is not None
        try:
            await pay(reservation, call)
        except RelayError:
            return
        cost = dice.choice([0, CENT // 3, CENT, 2 * CENT])
        try:
            await asyncio.sleep(dice.random() * 0.02)
        finally:
            reservation.close(call, Usage(), cost)
            shipping.call_later(dice.random() * 0.02, bank.settle, call.rights.account.id, cost)

    async with working(bank) as reservation:
        calls = []
        for _ in range(300):
            calls.append(asyncio.create_task(run(reservation)))
            bank.loses = dice.random() < 0.2
            if dice.random() < 0.1:
                reservation.leasing.recall(dice.choice([1, 2]))
            if dice.random() < 0.1:
                dice.choice(calls).cancel()
            await asyncio.sleep(0.001)
        bank.loses = False
        await asyncio.gather(*calls, return_exceptions=True)

        def agree() -> bool:
            purse = {one.id: one.purse for one in reservation.leasing._accounts.values()}
            assert all(one.held_nanos == 0 for one in purse.values())
            return all(max(one.leased_nanos, 0) == bank.open[id_] for id_, one in purse.items())

        await until(lambda: not reservation.leasing._backoff.failures)
        reservation.leasing.recall(1)
        reservation.leasing.recall(2)
        try:
            await until(lambda: bank.open[1] == 0 and bank.open[2] == 0 and agree())
        except TimeoutError:
            raise AssertionError(
                (reservation.leasing._accounts, bank.open, bank.total, bank.balances)
            ) from None
