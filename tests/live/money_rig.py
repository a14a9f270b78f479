"""What the tests of money have in common: a shop that signs callbacks, an admin API, a reader."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import orjson
from prometheus_client import CollectorRegistry

from relay.billing.purse import Purse
from relay.billing.shapes import CreditRequest
from relay.billing.signature import sign
from relay.config import Alerts, Billing, Config, Database
from relay.control.api.api import AdminApi
from relay.control.watch.notices import Notices
from relay.control.watch.webhook import Notice, Webhook
from relay.model import Secret
from relay.store import postgres
from relay.store.billing import credit_leases
from relay.store.billing.audit import run_audit
from relay.store.billing.ledger import CallCharge, book_calls, record_calls
from relay.store.postgres import Connection
from tests.local_app import serve_app

USD = 1_000_000_000


class Settled(NamedTuple):
    """What a batch booked: calls that had not been settled before, and their cost."""

    calls: int = 0
    cost_nanos: int = 0


async def settle_batch(connection: Connection, rows: Sequence[CallCharge]) -> Settled:
    """Record and book calls in one transaction, as the log's writer does."""
    async with connection.transaction():
        charges = await record_calls(connection, rows)
        await book_calls(connection, charges)
    return Settled(charges.calls, sum(charges.spent.values()))


TOKEN = "admin-token"
SECRET = "hook-secret"
TIMEOUT = aiohttp.ClientTimeout(total=20)


class Mailbox(Webhook):
    """A webhook that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__(Secret("http://127.0.0.1:1/"))
        self.sent: list[dict[str, Any]] = []

    def send(self, notice: Notice) -> None:
        self.sent.append(msgspec.to_builtins(notice))

    def events(self) -> list[str]:
        return [one["event"] for one in self.sent]


async def make_account(
    connection: Connection, name: str, *, group: str = "default", multiplier_ppm: int = 1_000_000
) -> int:
    """Return the id of an account in a group that is made where it is not there."""
    await connection.execute(
        """INSERT INTO groups (name, multiplier_ppm) VALUES ($1, $2)
        ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING""",
        group,
        multiplier_ppm,
    )
    account_id: int = await connection.fetchval(
        """INSERT INTO accounts (name, group_id) SELECT $1, id FROM groups WHERE name = $2
        RETURNING id""",
        name,
        group,
    )
    return account_id


async def balance_of(connection: Connection, account_id: int) -> int:
    nanos: int = await connection.fetchval(
        "SELECT balance_nanos FROM balances WHERE account_id = $1", account_id
    )
    return nanos


async def assert_no_drift(connection: Connection) -> None:
    """Audit all but the request log, where a test writes none."""
    found = await run_audit(connection)
    assert [drift for drift in found.drifts if "logged" not in drift.what] == []


async def lease_into(
    purse: Purse, connection: Connection, owner: str, account_id: int, needed: int, wanted: int
) -> int:
    """Lease credit for a purse, as a worker does; return by how much it grew."""
    before = purse.leased_nanos
    ask = CreditRequest(account_id, needed, wanted)
    told = await credit_leases.lease(connection, owner, [ask], ttl_s=60)
    purse.catch_up(told[account_id].total_nanos)
    return purse.leased_nanos - before


async def give_back_from(
    purse: Purse, connection: Connection, owner: str, account_id: int, *, keep_nanos: int
) -> int:
    """Give back what a purse has to spare; return how much."""
    surplus = purse.take_back(keep_nanos)
    await credit_leases.lease(connection, owner, [], ttl_s=60, surplus={account_id: surplus})
    return surplus


class Shop:
    """The admin listener in this process, and the shop that calls it."""

    def __init__(self, url: str, mailbox: Mailbox, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.mailbox = mailbox
        self._session = session

    async def pay(self, order: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Send a callback as the shop would; return status and body."""
        body = orjson.dumps(payment(order, **fields))
        return await self.post(body, signed(body))

    async def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        async with self._session.post(
            f"{self.url}/hooks/payment", data=body, headers=headers
        ) as answer:
            return answer.status, orjson.loads(await answer.read())

    async def api(
        self, method: str, path: str, body: Any = None, *, token: str = TOKEN
    ) -> tuple[int, dict[str, Any]]:
        headers = {"Authorization": f"Bearer {token}"}
        content = None if body is None else orjson.dumps(body)
        async with self._session.request(
            method, f"{self.url}/admin/v1{path}", data=content, headers=headers
        ) as answer:
            return answer.status, orjson.loads(await answer.read())


def payment(order: str, **fields: Any) -> dict[str, Any]:
    """Return the body of a callback."""
    plain = {"account": "acme", "amount": "100.00", "currency": "USD", "status": "paid"}
    return {"order": order, **plain, **fields}


def signed(body: bytes, secret: str = SECRET, age_s: int = 0) -> dict[str, str]:
    """Return the headers that a callback needs."""
    at = str(time.time_ns() // 1_000_000_000 - age_s)
    return {"x-relay-timestamp": at, "x-relay-signature": sign(secret.encode(), at, body)}


@asynccontextmanager
async def opening(
    database_url: str, data_dir: Path, *, billing: Billing | None = None
) -> AsyncIterator[Shop]:
    """Serve the admin API on a free port."""
    if billing is None:
        file = data_dir / "hook.secret"
        file.write_text(SECRET)
        billing = Billing(payment_secret=f"file:{file}", bonus={"100": "0.05"})
    config = Config(database=Database(url=database_url), billing=billing, alerts=Alerts())
    mailbox = Mailbox()
    notices = Notices(mailbox, time.monotonic)
    api = AdminApi(config, data_dir, Secret(TOKEN), CollectorRegistry(), notices)
    async with (
        serve_app(api.application()) as port,
        aiohttp.ClientSession(timeout=TIMEOUT) as session,
    ):
        yield Shop(f"http://127.0.0.1:{port}", mailbox, session)


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[Connection]:
    """Give a connection of one's own."""
    connection = await postgres.connect(database_url)
    try:
        yield connection
    finally:
        await connection.close()
