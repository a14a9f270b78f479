"""Goal: the ledger keeps its invariants in a real Postgres, under concurrency and replay.

Method: run the same money movements at once, twice and in random order, then audit the books.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest

from relay.billing.purse import Purse
from relay.billing.recharge import Credit, Currency
from relay.billing.shapes import CreditLease, CreditRequest
from relay.errors import BadRequest, Conflict, NotFound
from relay.store import postgres
from relay.store.billing import credit_leases, ledger, orders
from relay.store.billing.audit import run_audit
from relay.store.billing.ledger import CallCharge
from relay.store.billing.orders import Order
from relay.store.postgres import Connection
from tests.live.money_rig import Settled, settle_batch

pytestmark = pytest.mark.live

USD = 1_000_000_000
Deed = Callable[[str, int], Awaitable[None]]


@pytest.fixture
async def rivals(database_url: str) -> AsyncIterator[list[Connection]]:
    """Connections that are used at the same time."""
    connections = [await postgres.connect(database_url) for _ in range(8)]
    yield connections
    for connection in connections:
        await connection.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url)
    yield connection
    await connection.close()


async def make_account(connection: Connection, name: str = "acme", credit_limit: int = 0) -> int:
    account_id: int = await connection.fetchval(
        """WITH made AS (
            INSERT INTO groups (name) VALUES ('group of ' || $1) RETURNING id
        )
        INSERT INTO accounts (name, group_id, credit_limit_nanos) SELECT $1, id, $2 FROM made
        RETURNING id""",
        name,
        credit_limit,
    )
    return account_id


def order(account_id: int, order_no: str = "A-1", usd: int = 100, bonus: int = 5) -> Order:
    return Order(
        order_no=order_no,
        account_id=account_id,
        amount_nanos=usd * USD,
        currency=Currency.USD,
        cny_per_usd_nanos=7_200_000_000,
        credit=Credit(usd * USD, bonus * USD),
        actor="test",
    )


def call_id(number: int) -> bytes:
    """Return a UUIDv7 of today, numbered."""
    ms = int(datetime.now(UTC).timestamp() * 1000)
    return ms.to_bytes(6) + b"\x70\x00\x80\x00" + number.to_bytes(6)


async def balance_of(connection: Connection, account_id: int) -> tuple[int, int]:
    balance = await ledger.read_balance(connection, account_id)
    return balance.balance_nanos, balance.held_nanos


async def assert_no_drift(connection: Connection) -> None:
    """Audit all but what the request log says: these tests write none."""
    found = await run_audit(connection)
    assert [drift for drift in found.drifts if "logged" not in drift.what] == []


class TestRecharge:
    """Each paid order is credited once."""

    async def test_concurrent_duplicates_credit_once(
        self, rivals: list[Connection], connection: Connection
    ) -> None:
        account_id = await make_account(connection)

        async def call_back(own: Connection) -> int:
            paid = [
                await orders.recharge(own, order(account_id, f"A-{number % 3}"))
                for number in range(9)
            ]
            return sum(one.fresh for one in paid)

        assert sum(await asyncio.gather(*map(call_back, rivals))) == 3
        assert await balance_of(connection, account_id) == (3 * 105 * USD, 0)
        await assert_no_drift(connection)

    async def test_an_opened_order_keeps_its_terms(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        await orders.open_order(connection, order(account_id, bonus=5))
        assert await balance_of(connection, account_id) == (0, 0)
        paid = await orders.recharge(connection, order(account_id, bonus=50))
        assert paid.credit.bonus_nanos == 5 * USD
        assert await balance_of(connection, account_id) == (105 * USD, 0)

    async def test_a_known_order_number_with_another_amount_is_refused(
        self, connection: Connection
    ) -> None:
        account_id = await make_account(connection)
        await orders.recharge(connection, order(account_id))
        with pytest.raises(Conflict):
            await orders.recharge(connection, order(account_id, usd=101))
        assert await balance_of(connection, account_id) == (105 * USD, 0)

    async def test_cny_is_summed_at_each_orders_rate(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        await orders.recharge(connection, order(account_id, usd=10))
        in_cny = msgspec.structs.replace(order(account_id, "A-2"), currency=Currency.CNY)
        await orders.recharge(connection, in_cny)
        assert await orders.sum_recharged_cny(connection, account_id) == (72 + 100) * USD


class TestCodes:
    """A redemption code is good for one time."""

    async def test_a_code_is_redeemed_once_by_whoever_is_first(
        self, rivals: list[Connection], connection: Connection
    ) -> None:
        accounts = [await make_account(connection, f"a{number}") for number in range(8)]
        await orders.issue_code(connection, b"d" * 32, 3 * USD, actor="test")

        async def redeem(own: Connection, account_id: int) -> int:
            try:
                return await orders.redeem(own, b"d" * 32, account_id)
            except BadRequest:
                return 0

        redeemed = await asyncio.gather(*map(redeem, rivals, accounts))
        assert sorted(redeemed) == [0] * 7 + [3 * USD]
        await assert_no_drift(connection)

    async def test_an_expired_or_unknown_code_is_refused(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        past = datetime.now(UTC) - timedelta(seconds=1)
        await orders.issue_code(connection, b"e" * 32, USD, actor="test", expires_at=past)
        for digest in (b"e" * 32, b"u" * 32):
            with pytest.raises(BadRequest):
                await orders.redeem(connection, digest, account_id)


class TestCredit:
    """A person may change a balance, with a name and a reason."""

    async def test_credit_is_booked_once_with_who_and_why(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        for expected in (True, False):
            booked = await ledger.credit(
                connection, account_id, -USD, ref="T-1", actor="ann", reason="test call"
            )
            assert booked is expected
        assert await balance_of(connection, account_id) == (-USD, 0)
        kept = await connection.fetchrow("SELECT actor, reason FROM transfers")
        assert tuple(kept or ()) == ("ann", "test call")

    async def test_nobody_for_no_reason_is_refused(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        with pytest.raises(asyncpg.CheckViolationError):
            await ledger.credit(connection, account_id, USD, ref="T-1", actor="", reason="")

    async def test_an_unknown_account_is_not_found(self, connection: Connection) -> None:
        with pytest.raises(NotFound):
            await ledger.read_balance(connection, 12345)


class TestSettle:
    """Each call is charged once, however often its record arrives."""

    async def test_batches_replayed_and_overlapping_charge_once(
        self, rivals: list[Connection], connection: Connection
    ) -> None:
        accounts = [await make_account(connection, f"a{number}") for number in range(4)]
        calls = [
            CallCharge(call_id(number), accounts[number % 4], 1_000 + number, number % 3)
            for number in range(200)
        ]

        async def ship(own: Connection, seed: int) -> int:
            mine = random.Random(seed).sample(calls, 120)
            return (await settle_batch(own, mine)).calls

        shipped = await asyncio.gather(*map(ship, rivals, range(8)))
        last = await settle_batch(connection, calls + calls)
        assert sum(shipped) + last.calls == 200
        assert await settle_batch(connection, calls) == Settled()
        for account_id in accounts:
            cost = sum(call.cost_nanos for call in calls if call.account_id == account_id)
            assert await balance_of(connection, account_id) == (-cost, 0)
        retry_nanos = await connection.fetchval(
            "SELECT sum(amount_nanos)::bigint FROM entries WHERE account_id = $1", ledger.RETRY_COST
        )
        assert retry_nanos == -sum(call.retry_nanos for call in calls)
        await assert_no_drift(connection)

    async def test_calls_that_cost_nothing_leave_no_trace(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        free = [CallCharge(call_id(1), account_id, 0)]
        assert await settle_batch(connection, free) == Settled()
        assert await connection.fetchval("SELECT count(*) FROM transfers") == 0

    async def test_it_stands_or_falls_with_the_callers_transaction(
        self, connection: Connection
    ) -> None:
        account_id = await make_account(connection)
        transaction = connection.transaction()
        await transaction.start()
        await settle_batch(connection, [CallCharge(call_id(1), account_id, 5)])
        await transaction.rollback()
        assert await balance_of(connection, account_id) == (0, 0)

    async def test_calls_lie_in_the_partition_of_their_day(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        calls = [
            CallCharge(call_id(1), account_id, 5),
            CallCharge(bytes(6) + call_id(1)[6:], account_id, 5),
        ]
        await settle_batch(connection, calls)
        parts = await connection.fetch("SELECT tableoid::regclass::text AS part FROM settlements")
        today = f"settlements_{datetime.now(UTC):%Y%m%d}"
        assert sorted(row["part"] for row in parts) == [today, "settlements_other"]
        assert await connection.fetchval("SELECT settlements_prepare(7)") == 0
        assert await connection.fetchval("SELECT settlements_prepare(9)") == 2
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        assert await connection.fetchval("SELECT settlements_drop($1)", tomorrow) == 1


class TestLeases:
    """Workers spend what they leased, and no more than there is is ever leased."""

    async def test_concurrent_leases_never_promise_more_than_there_is(
        self, rivals: list[Connection], connection: Connection
    ) -> None:
        account_id = await make_account(connection, credit_limit=10)
        await ledger.credit(connection, account_id, 40, ref="T", actor="a", reason="b")

        async def ask(own: Connection, number: int) -> None:
            asks = [CreditRequest(account_id, 1, 30)]
            granted = [
                await credit_leases.lease(own, f"w{number % 7}", asks, ttl_s=60) for _ in range(25)
            ]
            assert all(0 <= one[account_id].free_nanos <= 50 for one in granted)

        await asyncio.gather(*map(ask, rivals, range(8)))
        assert await connection.fetchval("SELECT sum(granted_nanos) FROM credit_leases") == 50
        assert await balance_of(connection, account_id) == (40, 50)
        assert (await ledger.read_balance(connection, account_id)).free_nanos == 0
        await assert_no_drift(connection)

    async def test_settling_spends_the_lease_and_keeps_what_is_free(
        self, connection: Connection
    ) -> None:
        account_id = await make_account(connection)
        await ledger.credit(connection, account_id, 100, ref="T", actor="a", reason="b")
        asks = [CreditRequest(account_id, 20, 20)]
        leased = await credit_leases.lease(connection, "w1", asks, ttl_s=60)
        assert leased == {account_id: CreditLease(20, 80, 100)}
        ended = [
            CallCharge(call_id(1), account_id, 15, owner="w1"),
            CallCharge(call_id(2), account_id, 8, owner="w1"),
            CallCharge(call_id(3), account_id, 0, retry_nanos=4, owner="w1"),
        ]
        await settle_batch(connection, ended)
        # 23 were spent, 20 of them leased: the rest is taken from what was free, as if leased.
        assert await balance_of(connection, account_id) == (77, 0)
        leased = await credit_leases.lease(
            connection, "w1", [CreditRequest(account_id, 0, 0)], ttl_s=60
        )
        assert leased == {account_id: CreditLease(23, 77, 77)}
        await assert_no_drift(connection)

    async def test_what_is_given_back_is_free_again(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        await ledger.credit(connection, account_id, 100, ref="T", actor="a", reason="b")
        await credit_leases.lease(connection, "w1", [CreditRequest(account_id, 20, 20)], ttl_s=60)
        await give_back(connection, "w1", {account_id: 5})
        assert await balance_of(connection, account_id) == (100, 15)
        await give_back(connection, "w1", {account_id: 50, 999: 1})
        assert await balance_of(connection, account_id) == (100, 0)
        await assert_no_drift(connection)

    async def test_a_dead_workers_leases_are_closed(self, connection: Connection) -> None:
        accounts = [await make_account(connection, name) for name in ("a", "b")]
        for account_id in accounts:
            await ledger.credit(
                connection, account_id, 100, ref=f"T{account_id}", actor="a", reason="b"
            )
        asks = [CreditRequest(account_id, 20, 20) for account_id in accounts]
        await credit_leases.lease(connection, "dead", asks, ttl_s=-1)
        await credit_leases.lease(connection, "alive", asks, ttl_s=60)
        assert await credit_leases.list_expired_owners(connection) == ["dead"]
        assert await credit_leases.close_owner(connection, "dead") == 40
        assert await credit_leases.close_owner(connection, "dead") == 0
        with pytest.raises(Conflict):  # a question that arrives late leases nothing
            await credit_leases.lease(connection, "dead", asks, ttl_s=60)
        assert [await balance_of(connection, one) for one in accounts] == [(100, 20), (100, 20)]
        await assert_no_drift(connection)

    async def test_a_worker_that_never_comes_back_is_closed_after_a_day(
        self, connection: Connection
    ) -> None:
        account_id = await make_account(connection)
        await ledger.credit(connection, account_id, 100, ref="T", actor="a", reason="b")
        asks = [CreditRequest(account_id, 20, 20)]
        await credit_leases.lease(connection, "silent", asks, ttl_s=-100)
        await credit_leases.lease(connection, "alive", asks, ttl_s=60)
        suspects: dict[str, datetime] = {}
        assert await credit_leases.free_abandoned(connection, suspects) == 0
        assert await credit_leases.free_abandoned(connection, suspects, silent_s=50) == 0
        assert set(suspects) == {"silent"}
        assert await credit_leases.free_abandoned(connection, suspects, silent_s=50) == 20
        # Its journal comes after all: what it spent is taken from the balance.
        ended = [CallCharge(call_id(1), account_id, 15, owner="silent")]
        await settle_batch(connection, ended)
        assert await balance_of(connection, account_id) == (85, 20)
        await assert_no_drift(connection)

    async def test_no_lease_for_the_disabled_and_the_broke(self, connection: Connection) -> None:
        rich, broke = [await make_account(connection, name) for name in ("a", "b")]
        await ledger.credit(connection, rich, 100, ref="T", actor="a", reason="b")
        await connection.execute("UPDATE accounts SET disabled = true WHERE id = $1", rich)
        asks = [CreditRequest(account_id, 1, 10) for account_id in (rich, broke)]
        leased = await credit_leases.lease(connection, "w1", asks, ttl_s=60)
        assert leased == {broke: CreditLease(0, 0, 0)}


async def give_back(connection: Connection, owner: str, surplus: dict[int, int]) -> None:
    await credit_leases.lease(connection, owner, [], ttl_s=60, surplus=surplus)


class Market:
    """Three workers that spend for two accounts: purses here, everything else in Postgres."""

    def __init__(self, connection: Connection, accounts: list[int], seed: int) -> None:
        self.connection = connection
        self.accounts = accounts
        self.dice = random.Random(seed)
        self.purses: dict[str, dict[int, Purse]] = {}
        self.journals: dict[str, list[CallCharge]] = {}

    async def step(self) -> None:
        """Do one thing at random."""
        while len(self.purses) < 3:
            owner = f"w{len(self.journals)}"
            self.purses[owner] = {one: Purse() for one in self.accounts}
            self.journals[owner] = []
        owner, account_id = self.dice.choice(list(self.purses)), self.dice.choice(self.accounts)
        calls: list[Deed] = [self.call] * 3
        deeds: list[Deed] = [self.recharge, self.lease, self.ship, self.give, self.crash]
        deed = self.dice.choice(calls + deeds)
        await deed(owner, account_id)

    async def recharge(self, _owner: str, account_id: int) -> None:
        order_no = f"{account_id}-{self.dice.randrange(5)}"
        await orders.recharge(self.connection, order(account_id, order_no, usd=1))

    async def lease(self, owner: str, account_id: int) -> None:
        asks = [CreditRequest(account_id, 10_000_000, 300_000_000)]
        granted = await credit_leases.lease(self.connection, owner, asks, ttl_s=60)
        if self.dice.random() < 0.8:  # else the answer gets lost, and the next one makes up for it
            self.purses[owner][account_id].catch_up(granted[account_id].total_nanos)

    async def call(self, owner: str, account_id: int) -> None:
        purse = self.purses[owner][account_id]
        held = self.dice.randrange(20_000_000)
        if purse.hold(held):
            cost = self.dice.randrange(held + 1)
            purse.settle(held, cost)
            number = sum(map(len, self.journals.values()))
            ended = CallCharge(call_id(number), account_id, cost, owner=owner)
            self.journals[owner].append(ended)

    async def ship(self, owner: str, _account_id: int = 0) -> None:
        """Ship the whole journal, what was shipped before included."""
        await settle_batch(self.connection, self.journals[owner])

    async def give(self, owner: str, account_id: int) -> None:
        surplus = {account_id: self.purses[owner][account_id].take_back(5_000_000)}
        await give_back(self.connection, owner, surplus)

    async def crash(self, owner: str, _account_id: int = 0) -> None:
        del self.purses[owner]
        await self.ship(owner)
        await credit_leases.close_owner(self.connection, owner)

    def spent(self, account_id: int) -> int:
        calls = (call for journal in self.journals.values() for call in journal)
        return sum(call.cost_nanos for call in calls if call.account_id == account_id)


async def test_random_money_movements_never_drift(connection: Connection) -> None:
    accounts = [await make_account(connection, name) for name in ("a", "b")]
    market = Market(connection, accounts, seed=2026)
    for _ in range(400):
        await market.step()
        for one in accounts:
            assert (await ledger.read_balance(connection, one)).free_nanos >= 0
    for owner in list(market.purses):
        await market.crash(owner)
    for one in accounts:
        recharged = await connection.fetchval(
            """SELECT coalesce(sum(paid_nanos + bonus_nanos), 0)::bigint
            FROM orders WHERE account_id = $1""",
            one,
        )
        assert market.spent(one) > 0
        assert await balance_of(connection, one) == (recharged - market.spent(one), 0)
    await assert_no_drift(connection)


class TestSchema:
    """What the database itself refuses, whoever asks."""

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE entries SET amount_nanos = amount_nanos + 1",
            "DELETE FROM entries",
            "TRUNCATE entries",
            "UPDATE transfers SET reason = 'x'",
            "DELETE FROM transfers",
            "UPDATE settlements SET cost_nanos = 1",
            "DELETE FROM settlements",
            "UPDATE balances SET balance_nanos = balance_nanos + 1",
        ],
    )
    async def test_history_cannot_be_rewritten(
        self, connection: Connection, statement: str
    ) -> None:
        account_id = await make_account(connection)
        await settle_batch(connection, [CallCharge(call_id(1), account_id, 5)])
        with pytest.raises(asyncpg.PostgresError, match=r"refused|entries only"):
            await connection.execute(statement)

    @pytest.mark.parametrize("amounts", [[5], [5, -4]])
    async def test_an_unbalanced_transfer_is_refused(
        self, connection: Connection, amounts: list[int]
    ) -> None:
        account_id = await make_account(connection)
        with pytest.raises(asyncpg.CheckViolationError, match="balance"):
            await connection.execute(
                """WITH made AS (
                    INSERT INTO transfers (kind, ref) VALUES ('order', 'x') RETURNING id
                )
                INSERT INTO entries SELECT id, account_id, nanos
                FROM made, unnest($1::bigint[], $2::bigint[]) AS moved (account_id, nanos)""",
                [account_id, ledger.CASH][: len(amounts)],
                amounts,
            )

    async def test_the_serving_role_may_add_and_not_rewrite(self, connection: Connection) -> None:
        account_id = await make_account(connection)
        role = f"relay_test_{account_id}_{random.randrange(10**9)}"
        await connection.execute(f"CREATE ROLE {role}")
        try:
            await connection.execute("SELECT ledger_grant($1)", role)
            await connection.execute(f"GRANT SELECT ON accounts TO {role}")
            await connection.execute(f"SET ROLE {role}")
            await orders.recharge(connection, order(account_id))
            await settle_batch(connection, [CallCharge(call_id(1), account_id, 5)])
            for statement in ("UPDATE entries SET amount_nanos = 1", "DELETE FROM transfers"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.execute("RESET ROLE")
            await connection.execute(f"DROP OWNED BY {role}")
            await connection.execute(f"DROP ROLE {role}")
