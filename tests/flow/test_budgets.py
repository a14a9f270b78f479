"""Goal: calls hold what they may use of budgets, workers together never serve more, windows end.

Method: the reservation with a lender in memory that keeps the rules of budget windows; several
workers share it. Calls are plain objects that arrive when the test says.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

import pytest

from relay.billing.budget import parse_budgets
from relay.billing.purse import lease_nanos
from relay.billing.shapes import BudgetRequest, CreditLease
from relay.billing.tariff import Tariff
from relay.clock import wall_us
from relay.config import Billing
from relay.errors import (
    BudgetSpent,
    DependencyDown,
    QuotaExhausted,
    RelayError,
    Unavailable,
)
from relay.flow.call import Call
from relay.flow.ports import Client
from relay.flow.request import RequestFacts, Rights, unread_head
from relay.flow.reserve import leasing
from relay.flow.reserve.budgets import Budgets
from relay.model import Account, Dialect, Key, Price
from relay.records import Endpoint
from relay.usage import Usage

CENT = 10_000_000
DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
PRICE = Price(id=2, model="cent", input=0, output=0, cached_input=0, per_call=CENT)
ANSWERED = Usage(input_tokens=3, output_tokens=2)


class Bank:
    """Windows in memory."""

    def __init__(self) -> None:
        self.used: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.amounts: dict[str, int] = {}
        self.fault: RelayError | None = None
        self.workers: list[Budgets] = []

    def worker(self) -> "Desk":
        return Desk(self)


class Desk:
    """What one worker has of the bank."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.open: Counter[str] = Counter()
        self.total: Counter[str] = Counter()

    async def lease(
        self, asks: Sequence[BudgetRequest], surplus: Mapping[str, int]
    ) -> Mapping[str, CreditLease]:
        await asyncio.sleep(0)
        bank = self.bank
        if bank.fault is not None:
            raise bank.fault
        for name, amount in surplus.items():
            returned = min(amount, self.open[name])
            self.open[name] -= returned
            self.total[name] -= returned
            bank.held[name] -= returned
        return {ask.window.name: self._lease(ask) for ask in asks}

    def _lease(self, ask: BudgetRequest) -> CreditLease:
        bank, name = self.bank, ask.window.name
        bank.amounts[name] = ask.amount
        left = ask.amount - bank.used[name]
        free = left - bank.held[name]
        granted = lease_nanos(free, needed_nanos=ask.needed, wanted_nanos=ask.wanted)
        self.open[name] += granted
        self.total[name] += granted
        bank.held[name] += granted
        if not granted and 0 < ask.needed <= left:
            for worker in bank.workers:
                worker.recall(name)
        return CreditLease(self.total[name], free - granted, left)


def make_call(
    budgets: Sequence[str] = (),
    of_account: Sequence[str] = (),
    *,
    at_us: int = 0,
    quota_nanos: int | None = None,
    **facts: Any,
) -> Call:
    call = Call(bytes(16), cast("Client", None), at_us or wall_us())
    bounds: dict[str, Any] = {"budgets": parse_budgets(budgets), "quota_nanos": quota_nanos}
    key = Key(id=7, account_id=1, name="k", digest=b"", last4="", **bounds)
    account = Account(id=1, name="a", group_id=1, budgets=parse_budgets(of_account))
    call.rights = Rights(key, account, None, None, Tariff(PRICE, 1_000_000))
    call.head = unread_head(Dialect.OPENAI, Endpoint.CHAT)
    call.request = RequestFacts("m", **facts)
    return call


@contextlib.asynccontextmanager
async def working(*desks: Desk) -> AsyncIterator[list[Budgets]]:
    workers = [Budgets(desk, Billing()) for desk in desks]
    desks[0].bank.workers = workers
    for worker in workers:
        worker.leasing.start()
    try:
        yield workers
    finally:
        for worker in workers:
            await worker.leasing.stop()


async def pay(worker: Budgets, call: Call) -> bool:
    try:
        if not worker.take(call):
            await worker.wait(call)
    except (BudgetSpent, QuotaExhausted):
        return False
    return True


async def test_a_call_without_a_budget_takes_nothing() -> None:
    async with working(Bank().worker()) as (worker,):
        call = make_call()
        assert worker.take(call)
        assert call.budget_holds is None
        worker.close(call, ANSWERED, CENT)


async def test_three_hundred_calls_at_once_on_budgets_for_fifty_serve_fifty() -> None:
    for budget in ("50 requests/day", "0.50 usd/month@Europe/Berlin"):
        bank = Bank()
        async with working(*(bank.worker() for _ in range(4))) as workers:
            calls = [(workers[n % 4], make_call([budget])) for n in range(300)]
            served = await asyncio.gather(*(pay(*one) for one in calls))
            assert sum(served) == 50, budget
            for (worker, call), paid in zip(calls, served, strict=True):
                if paid:
                    worker.close(call, ANSWERED, CENT)
            more = await asyncio.gather(*(pay(worker, make_call([budget])) for worker in workers))
            assert not any(more)


async def test_a_key_s_quota_is_one_over_all_workers() -> None:
    bank = Bank()
    async with working(*(bank.worker() for _ in range(4))) as workers:
        calls = [(workers[n % 4], make_call(quota_nanos=5 * CENT)) for n in range(60)]
        served = await asyncio.gather(*(pay(*one) for one in calls))
        assert sum(served) == 5
        for (worker, call), paid in zip(calls, served, strict=True):
            if paid:
                worker.close(call, ANSWERED, CENT)
        last = make_call(quota_nanos=5 * CENT)
        with pytest.raises(QuotaExhausted, match="quota does not cover"):
            workers[0].take(last)
            await workers[0].wait(last)
        await asyncio.sleep(leasing.REFUSED_S)
        raised = [await pay(workers[3], make_call(quota_nanos=7 * CENT)) for _ in range(3)]
        assert raised == [True, True, False]


async def test_a_quota_binds_beside_budgets_and_frees_what_they_held() -> None:
    async with working(Bank().worker()) as (worker,):
        assert not await pay(worker, make_call(["9 requests/day"], quota_nanos=CENT - 1))
        purse = next(p for p in worker._purses.values() if p.window.measure == "requests")
        assert worker.leasing.account(purse.id).purse.held_nanos == 0


async def test_without_postgres_a_quota_is_left_to_each_worker() -> None:
    bank = Bank()
    bank.fault = DependencyDown("down")
    async with working(bank.worker()) as (worker,):
        assert await pay(worker, make_call(quota_nanos=2 * CENT))
        assert await pay(worker, make_call(quota_nanos=2 * CENT))
        with pytest.raises(Unavailable, match="Budget cannot be checked"):
            await worker.wait(make_call(["5 usd/day"], quota_nanos=2 * CENT))


async def test_what_a_call_did_not_use_is_there_for_others() -> None:
    async with working(Bank().worker()) as (worker,):
        first, second = (
            make_call(["100 tokens/day"], output_tokens_max=90),
            make_call(["100 tokens/day"], output_tokens_max=90),
        )
        assert await pay(worker, first)
        assert not await pay(worker, second)
        worker.close(first, ANSWERED, CENT)
        await asyncio.sleep(leasing.REFUSED_S)
        assert await pay(worker, second)


async def test_a_budget_of_the_account_binds_as_well_and_frees_what_its_key_held() -> None:
    bank = Bank()
    async with working(bank.worker()) as (worker,):
        assert await pay(worker, make_call(["9 requests/day"], ["1 requests/day"]))
        with pytest.raises(BudgetSpent, match="The account's budget of 1 requests a day"):
            await worker.wait(make_call(["9 requests/day"], ["1 requests/day"]))
        purse = next(p for p in worker._purses.values() if p.scope == "key")
        assert worker.leasing.account(purse.id).purse.held_nanos == 1


async def test_a_new_day_is_a_new_budget_and_late_ends_are_yesterdays() -> None:
    bank = Bank()
    today_us = wall_us() // DAY_US * DAY_US
    async with working(bank.worker()) as (worker,):
        late = make_call(["1 requests/day"], at_us=today_us - 1)
        assert await pay(worker, late)
        assert await pay(worker, make_call(["1 requests/day"], at_us=today_us))
        assert not await pay(worker, make_call(["1 requests/day"], at_us=today_us - 1))
        assert not await pay(worker, make_call(["1 requests/day"], at_us=today_us))
        worker.close(late, ANSWERED, CENT)
        assert len(worker._purses) == 2


async def test_windows_that_ended_are_forgotten() -> None:
    today_us = wall_us() // DAY_US * DAY_US
    async with working(Bank().worker()) as (worker,):
        for day in range(400, 0, -1):
            call = make_call(["1 requests/day"], at_us=today_us - day * DAY_US)
            assert await pay(worker, call)
            worker.close(call, ANSWERED, CENT)
        assert len(worker._purses) < 20


async def test_a_window_whose_end_comes_twice_is_not_granted_twice() -> None:
    """A clock that went past its end, and was set back: what was spent of it stays spent."""
    hour = wall_us() // HOUR_US % 24
    ahead = 24 - hour if hour > 9 else -hour
    budget = f"50 requests/day@Etc/GMT{-ahead:+}"  # a day has begun there within the hour
    yesterday_us = wall_us() - HOUR_US
    async with working(Bank().worker()) as (worker,):
        for _ in range(30):
            call = make_call([budget], at_us=yesterday_us)
            assert await pay(worker, call)
            worker.close(call, ANSWERED, CENT)
        for day in range(40, 2, -1):
            other = make_call(["9 requests/day"], at_us=yesterday_us - day * DAY_US)
            assert await pay(worker, other)
            worker.close(other, ANSWERED, CENT)
        assert await pay(worker, make_call([budget]))
        served = [await pay(worker, make_call([budget], at_us=yesterday_us)) for _ in range(25)]
        assert sum(served) == 20


async def test_a_raised_amount_holds_at_once() -> None:
    async with working(Bank().worker()) as (worker,):
        assert await pay(worker, make_call(["1 requests/day"]))
        assert not await pay(worker, make_call(["1 requests/day"]))
        await asyncio.sleep(leasing.REFUSED_S)
        assert await pay(worker, make_call(["2 requests/day"]))
        assert not await pay(worker, make_call(["2 requests/day"]))


async def test_a_refusal_says_when_the_budget_begins_anew() -> None:
    async with working(Bank().worker()) as (worker,):
        with pytest.raises(BudgetSpent) as told:
            await worker.wait(make_call(["0 usd/month@Europe/Berlin"]))
        error = told.value
        assert error.status == 429
        assert error.retry_after_s is not None and 0 < error.retry_after_s < 32 * 86_400
        assert error.should_retry is False
        assert "00:00 (Europe/Berlin)" in error.message


async def test_without_postgres_nobody_is_told_that_a_budget_is_spent() -> None:
    bank = Bank()
    bank.fault = DependencyDown("down")
    async with working(bank.worker()) as (worker,):
        with pytest.raises(Unavailable, match="Budget cannot be checked"):
            await worker.wait(make_call(["5 usd/day"]))
