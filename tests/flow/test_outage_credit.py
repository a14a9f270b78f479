"""Goal: while nobody can be asked for credit, idle accounts may spend so much and no more.

Method: the reservation with the lender in memory of test_credit, which is down; what is spent then
is settled by the lender as the ledger does it, and the purse must agree with it afterwards.
"""

import asyncio
import functools
from collections import Counter

import pytest

from relay.config import Billing
from relay.errors import CreditExhausted, DependencyDown, Unavailable
from relay.flow.reserve.credit import Credit
from relay.usage import Usage
from tests.flow.test_credit import CENT, USD, Bank, make_call, pay, until

DOWN = DependencyDown("down")


class Advances:
    """An outage in which each account may spend five cents, and account 9 nothing."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.ends = 0

    def advance_nanos(self, account_id: int) -> int:
        self.asked[account_id] += 1
        return 0 if account_id == 9 else 5 * CENT

    def end(self) -> None:
        self.ends += 1


def _has_asked(bank: Bank, before: int) -> bool:
    return len(bank.questions) > before


async def spend(reservation: Credit, bank: Bank) -> None:
    call = make_call()
    await pay(reservation, call)
    reservation.close(call, Usage(), CENT)
    bank.settle(1, CENT)


async def test_an_idle_account_spends_its_advance_and_not_a_cent_more() -> None:
    bank, advances = Bank(a1=USD), Advances()
    bank.fault = DOWN
    reservation = Credit(bank, Billing(), advances)
    reservation.leasing.start()
    try:
        for _ in range(5):
            await spend(reservation, bank)
        with pytest.raises(Unavailable):
            await pay(reservation, make_call())
        assert advances.asked == {1: 1}
    finally:
        await reservation.leasing.stop()


async def test_a_worker_that_starts_in_the_outage_spends_the_same() -> None:
    """It has asked once before anybody calls, and asks again while they do."""
    bank, advances = Bank(a1=USD), Advances()
    bank.fault = DOWN
    reservation = Credit(bank, Billing(lease_ttl_s=0.2), advances)
    reservation.leasing.start()
    try:
        await until(lambda: bank.questions)
        for _ in range(4):
            asked = len(bank.questions)
            await spend(reservation, bank)
            await until(functools.partial(_has_asked, bank, asked))
    finally:
        await reservation.leasing.stop()


async def test_what_was_spent_is_owed_when_the_lender_is_back() -> None:
    bank, advances = Bank(a1=6 * CENT), Advances()
    bank.fault = DOWN
    reservation = Credit(bank, Billing(), advances)
    reservation.leasing.start()
    try:
        for _ in range(4):
            await spend(reservation, bank)
        bank.fault = None
        await until(lambda: advances.ends)
        calls = [make_call() for _ in range(3)]
        for call in calls[:2]:
            await pay(reservation, call)
        with pytest.raises(CreditExhausted):
            await pay(reservation, calls[2])
        assert bank.total[1] == 4 * CENT + 2 * CENT
    finally:
        await reservation.leasing.stop()


async def test_an_account_without_money_is_told_that_nobody_knows() -> None:
    bank, advances = Bank(a9=0), Advances()
    bank.fault = DOWN
    reservation = Credit(bank, Billing(), advances)
    reservation.leasing.start()
    try:
        with pytest.raises(Unavailable):
            await pay(reservation, make_call(9))
    finally:
        await reservation.leasing.stop()


async def test_a_lease_that_ran_out_in_the_outage_is_not_what_is_spent() -> None:
    """Past its time to live nobody knows whether the lease is still ours; the advance is."""
    bank, advances = Bank(a1=USD), Advances()
    reservation = Credit(bank, Billing(lease_ttl_s=0.2), advances)
    reservation.leasing.start()
    try:
        await spend(reservation, bank)
        bank.fault = DOWN
        await asyncio.sleep(0.3)
        spent = 0
        while True:
            try:
                await spend(reservation, bank)
            except Unavailable:
                break
            spent += 1
        assert 5 <= spent <= 6
    finally:
        await reservation.leasing.stop()
