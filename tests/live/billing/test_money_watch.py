"""Goal: what operators must know is told once and in time; who has earned it is promoted, once.

Method: the control process's watch on a real Postgres, one look at a time, two hosts where it
matters; rows written as the shipper writes them.
"""

import asyncio
import datetime
from collections.abc import AsyncIterator

import pytest

from relay.billing.recharge import Currency
from relay.config import Alerts, Billing, Config
from relay.control.watch.money import MoneyWatch
from relay.control.watch.notices import Notices
from relay.store.billing import ledger, promotions, recharges
from relay.store.billing.low_balances import set_threshold
from relay.store.log.addresses import list_addresses
from relay.store.postgres import Connection
from tests.live.money_rig import USD, Mailbox, connected, make_account

pytestmark = pytest.mark.live

BILLING = Billing(enterprise_group="enterprise")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[Connection]:
    async with connected(database_url) as connection:
        await make_account(connection, "vip", group="enterprise", multiplier_ppm=800_000)
        yield connection


class Host:
    """One host's watch and what it told."""

    def __init__(self, connection: Connection, *, familiar_s: float = 0.0) -> None:
        async def connect() -> Connection:
            raise AssertionError("one look needs no connection of its own")

        self.mailbox = Mailbox()
        config = Config(billing=BILLING, alerts=Alerts(familiar_s=familiar_s))
        self._watch = MoneyWatch(config, connect, Notices(self.mailbox, lambda: 0.0))
        self._connection = connection

    async def look(self) -> list[str]:
        """Return the events told by one look."""
        before = len(self.mailbox.sent)
        await self._watch.look(self._connection)
        return self.mailbox.events()[before:]


async def pay(connection: Connection, account_id: int, usd: int, ref: str) -> None:
    await ledger.credit(
        connection, account_id, usd * USD, ref=ref, actor="test", reason="a test of balances"
    )


class TestLowBalance:
    """Once when it falls, again only after it rose."""

    async def test_a_fall_is_told_once_and_again_after_a_recharge(
        self, connection: Connection
    ) -> None:
        account_id = await make_account(connection, "acme")
        host = Host(connection)
        await pay(connection, account_id, 10, "1")
        await set_threshold(connection, account_id, 5 * USD)
        assert await host.look() == []
        await pay(connection, account_id, -5, "2")
        assert await host.look() == []  # at the threshold is not below it
        await pay(connection, account_id, -1, "3")
        assert await host.look() == ["low_balance"]
        told = host.mailbox.sent[0]
        assert (told["account"], told["balance_usd"], told["threshold_usd"]) == ("acme", "4", "5")
        await pay(connection, account_id, -1, "4")
        assert await host.look() == []
        await pay(connection, account_id, 10, "5")
        assert await host.look() == ["low_balance_over"]
        assert host.mailbox.sent[-1]["balance_usd"] == "13"
        assert await host.look() == []
        await pay(connection, account_id, -10, "6")
        assert await host.look() == ["low_balance"]

    async def test_one_of_many_hosts_tells(self, database_url: str, connection: Connection) -> None:
        for number in range(20):
            account_id = await make_account(connection, f"a{number}")
            await set_threshold(connection, account_id, USD)
        async with connected(database_url) as other:
            hosts = [Host(connection), Host(other)]
            await asyncio.gather(*(host.look() for host in hosts))
        told = [one["account"] for host in hosts for one in host.mailbox.sent]
        assert sorted(told) == sorted(f"a{number}" for number in range(20))

    async def test_without_a_threshold_nobody_is_told(self, connection: Connection) -> None:
        account_id = await make_account(connection, "acme")
        await set_threshold(connection, account_id, USD)
        await set_threshold(connection, account_id, None)
        assert await Host(connection).look() == []


class TestUnfamiliarAddresses:
    """A known key at a new place."""

    @pytest.fixture
    async def key_id(self, connection: Connection) -> int:
        account_id = await make_account(connection, "acme")
        key_id: int = await connection.fetchval(
            """INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4)
            VALUES ($1, 'ci', decode(repeat('aa', 32), 'hex'), 'p', '', 'last') RETURNING id""",
            account_id,
        )
        return key_id

    async def use(self, connection: Connection, key_id: int, ip: str, at_s: int = 0) -> None:
        """Do what the shipper does when it ships a call."""
        await connection.execute(
            """INSERT INTO key_addresses AS kept (key_id, ip, first_seen, last_seen, requests)
            VALUES ($1, $2::text::inet, now() + make_interval(secs => $3), now(), 1)
            ON CONFLICT (key_id, ip) DO UPDATE SET requests = kept.requests + 1""",
            key_id,
            ip,
            at_s,
        )

    async def test_the_first_place_is_familiar_and_every_other_is_told_once(
        self, connection: Connection, key_id: int
    ) -> None:
        host = Host(connection)
        await self.use(connection, key_id, "192.0.2.1")
        assert await host.look() == []
        await self.use(connection, key_id, "192.0.2.1")
        await self.use(connection, key_id, "198.51.100.7", 1)
        await self.use(connection, key_id, "2001:db8::/64", 2)
        assert await host.look() == ["unfamiliar_ip"] * 2
        assert [one["address"] for one in host.mailbox.sent] == ["198.51.100.7", "2001:db8::/64"]
        assert host.mailbox.sent[0]["key_id"] == key_id
        await self.use(connection, key_id, "198.51.100.7")
        assert await host.look() == []
        shown = await list_addresses(connection, key_id, 10)
        assert [row["address"] for row in shown] == [
            "2001:db8::/64",
            "198.51.100.7",
            "192.0.2.1",
        ]

    async def test_places_of_one_look_are_judged_by_their_order(
        self, connection: Connection, key_id: int
    ) -> None:
        for number in range(5):
            await self.use(connection, key_id, f"192.0.2.{number}", number)
        host = Host(connection)
        assert await host.look() == ["unfamiliar_ip"] * 4
        assert [one["address"] for one in host.mailbox.sent] == [
            f"192.0.2.{number}" for number in range(1, 5)
        ]

    async def test_a_key_that_is_rolled_out_is_given_time(
        self, connection: Connection, key_id: int
    ) -> None:
        host = Host(connection, familiar_s=600)
        for number in range(5):
            await self.use(connection, key_id, f"192.0.2.{number}", number)
        assert await host.look() == []
        await self.use(connection, key_id, "198.51.100.7", 700)
        assert await host.look() == ["unfamiliar_ip"]

    async def test_one_of_many_hosts_tells(
        self, database_url: str, connection: Connection, key_id: int
    ) -> None:
        for number in range(9):
            await self.use(connection, key_id, f"192.0.2.{number}", number)
        async with connected(database_url) as other:
            hosts = [Host(connection), Host(other)]
            await asyncio.gather(*(host.look() for host in hosts))
        assert sum(len(host.mailbox.sent) for host in hosts) == 8


class TestPromotions:
    """Enterprise status moves an account once, and is not taken back or forced on anybody."""

    async def recharge(
        self, connection: Connection, account: str, amount: str, order_no: str
    ) -> promotions.Promotion | None:
        order = await recharges.compose_order(
            connection, BILLING, account, (amount, Currency.CNY), order_no=order_no, actor="test"
        )
        _, promotion = await recharges.recharge(connection, BILLING, order)
        return promotion

    async def group_of(self, connection: Connection, account_id: int) -> str:
        name: str = await connection.fetchval(
            """SELECT groups.name FROM accounts JOIN groups ON groups.id = group_id
            WHERE accounts.id = $1""",
            account_id,
        )
        return name

    async def spend(
        self, connection: Connection, account_id: int, days: list[int], last: datetime.date
    ) -> None:
        """Write the minutes of whole days, oldest first, up to `last`; dollars a day."""
        for ago, usd in enumerate(reversed(days)):
            at = datetime.datetime.combine(
                last - datetime.timedelta(days=ago), datetime.time(23, 59), datetime.UTC
            )
            await connection.execute(
                """INSERT INTO usage_minutes SELECT $1, $2, 1, model, 1, 1, 0, 0, 0, 0, 0, $3
                FROM unnest(ARRAY['a', 'b']) AS model""",
                at,
                account_id,
                usd * USD // 2,
            )

    async def test_recharges_promote_at_the_threshold_and_say_why(
        self, connection: Connection
    ) -> None:
        account_id = await make_account(connection, "acme")
        assert await self.recharge(connection, "acme", "2999.99", "A-1") is None
        assert await self.group_of(connection, account_id) == "default"
        promotion = await self.recharge(connection, "acme", "0.01", "A-2")
        assert promotion is not None
        assert (promotion.from_group, promotion.to_group) == ("default", "enterprise")
        assert await self.group_of(connection, account_id) == "enterprise"
        kept = await promotions.find_promotion(connection, "acme")
        assert kept is not None
        assert kept["reason"] == "recharged 3000 CNY in all"
        with pytest.raises(Exception, match="has happened"):
            await connection.execute("DELETE FROM promotions")

    async def test_what_a_person_does_afterwards_stands(self, connection: Connection) -> None:
        account_id = await make_account(connection, "acme")
        await self.recharge(connection, "acme", "3000", "A-1")
        await connection.execute(
            """UPDATE accounts SET group_id = (SELECT id FROM groups WHERE name = 'default')
            WHERE id = $1""",
            account_id,
        )
        assert await self.recharge(connection, "acme", "3000", "A-2") is None
        assert await Host(connection).look() == []
        assert await self.group_of(connection, account_id) == "default"

    async def test_nobody_is_moved_to_a_dearer_group(self, connection: Connection) -> None:
        account_id = await make_account(
            connection, "acme", group="negotiated", multiplier_ppm=500_000
        )
        assert await self.recharge(connection, "acme", "3000", "A-1") is None
        assert await self.group_of(connection, account_id) == "negotiated"

    async def test_a_week_of_spending_promotes_over_whole_days_only(
        self, connection: Connection
    ) -> None:
        today = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=10)).date()
        yesterday = today - datetime.timedelta(days=1)
        days = {
            "week": [100] * 7,
            "gap": [100] * 6 + [99] + [100] * 6,
            "today": [100] * 6,
            "earlier": [100] * 7 + [0, 0],
        }
        ids = {name: await make_account(connection, name) for name in days}
        for name, spent in days.items():
            await self.spend(connection, ids[name], spent, yesterday)
        await self.spend(connection, ids["today"], [100], today)
        host = Host(connection)
        assert await host.look() == ["enterprise"] * 2
        assert {one["account"] for one in host.mailbox.sent} == {"week", "earlier"}
        assert host.mailbox.sent[0]["reason"] == "spent 100 USD a day on 7 days in a row"
        assert await host.look() == []
        assert await self.group_of(connection, ids["week"]) == "enterprise"
        assert await self.group_of(connection, ids["gap"]) == "default"

    async def test_a_rule_that_is_new_finds_who_recharged_before(
        self, connection: Connection
    ) -> None:
        await make_account(connection, "acme")
        order = await recharges.compose_order(
            connection, Billing(), "acme", ("3000", Currency.CNY), order_no="A-1", actor="test"
        )
        assert (await recharges.recharge(connection, Billing(), order))[1] is None
        assert await Host(connection).look() == ["enterprise"]

    async def test_many_reviews_at_once_promote_once(
        self, database_url: str, connection: Connection
    ) -> None:
        account_id = await make_account(connection, "acme")
        order = await recharges.compose_order(
            connection, Billing(), "acme", ("3000", Currency.CNY), order_no="A-1", actor="test"
        )
        await recharges.recharge(connection, Billing(), order)

        async def review() -> promotions.Promotion | None:
            async with connected(database_url) as own:
                rule = recharges.enterprise_rule(BILLING)
                return await promotions.review_recharges(own, "enterprise", rule, account_id)

        found = await asyncio.gather(*(review() for _ in range(8)))
        assert sum(one is not None for one in found) == 1
