"""Goal: no account spends what it does not have, and none is refused while it has.

Method: a real relay with two workers, a model at a cent a call, accounts with a known balance, and
floods of calls over both workers; then the books are compared with what was served.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest

from relay.config import Config
from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.locate import database_url
from relay.store.postgres import Connection
from tests.live.relay_process import Answer, RelayProcess, ask, question, streaming, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(90)]

CATALOG = """
[[channel]]
name = "till"
base_url = "{upstream}"
models = ["cent", "gift", "long"]
[[line]]
name = "till"
channels = ["till"]
[[group]]
name = "till"
lines = ["till"]
[[price]]
model = "cent"
input = "0"
output = "0"
per_call = "0.01"
[[price]]
model = "gift"
input = "0"
output = "0"
[[price]]
model = "long"
input = "1000"
output = "1000"
"""
ACCOUNT = """
[[account]]
name = "{name}"
group = "till"
credit_limit = "{limit}"
"""


@pytest.fixture(scope="module")
def till(relay: RelayProcess, upstream: str) -> RelayProcess:
    """The relay with models that have prices, and accounts, of this file."""
    accounts = {
        "fifty": "0",
        "indebted": "0.10",
        "broke": "0",
        "poor": "0",
        "lone": "0",
        "streamer": "0",
    }
    listed = "".join(ACCOUNT.format(name=name, limit=limit) for name, limit in accounts.items())
    asyncio.run(relay.apply(CATALOG.format(upstream=upstream) + listed))
    return relay


@pytest.fixture
async def books(relay: RelayProcess) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url(Config(), relay.data_dir))
    yield connection
    await connection.close()


async def recharge(relay: RelayProcess, account: str, usd: str, order: str) -> None:
    await relay.cli("recharge", "--account", account, "--amount", usd, "--order", order)


async def standing(books: Connection, account: str) -> tuple[Decimal, Decimal]:
    """Return balance and what is leased, in USD."""
    row = await books.fetchrow(
        """SELECT balance_nanos, held_nanos FROM balances JOIN accounts ON id = account_id
        WHERE name = $1""",
        account,
    )
    assert row is not None
    return Decimal(row[0]) / 10**9, Decimal(row[1]) / 10**9


async def flood(relay: RelayProcess, key: str, count: int) -> list[Answer]:
    """Make so many calls at once."""
    body = question("cent", max_tokens=1)
    return list(await asyncio.gather(*(ask(relay, key, body) for _ in range(count))))


async def all_settled(relay: RelayProcess, books: Connection, account: str, usd: str) -> None:
    """Wait until the balance is `usd` and nothing is leased."""

    async def looks_so() -> bool:
        return await standing(books, account) == (Decimal(usd), Decimal(0))

    try:
        await until_told(looks_so, "the balance settles")
    except AssertionError:
        raise AssertionError(await standing(books, account)) from None


async def test_five_hundred_calls_on_a_balance_for_fifty(
    till: RelayProcess, books: Connection
) -> None:
    key = await till.make_key("fifty", "fifty")
    await recharge(till, "fifty", "0.50", "fifty-1")
    answers = await flood(till, key, 500)
    statuses = Counter(answer.status for answer in answers)
    assert statuses == {200: 50, 429: 450}
    await all_settled(till, books, "fifty", "0")
    for refused in (answer for answer in answers if answer.status == 429):
        assert refused.error["type"] == "insufficient_quota"
        assert refused.error["code"] == "credit_balance_exhausted"
        assert refused.headers["x-should-retry"] == "false"
    assert (await run_audit(books)).drifts == []


async def test_the_credit_limit_is_the_last_cent(till: RelayProcess, books: Connection) -> None:
    key = await till.make_key("indebted", "indebted")
    statuses = Counter(answer.status for answer in await flood(till, key, 40))
    assert statuses == {200: 10, 429: 30}
    await all_settled(till, books, "indebted", "-0.1")


async def test_a_recharge_shows_within_a_second(till: RelayProcess) -> None:
    key = await till.make_key("broke", "broke")
    body = question("cent", max_tokens=1)
    assert {(await ask(till, key, body)).status for _ in range(6)} == {429}
    await recharge(till, "broke", "1", "broke-1")

    async def served() -> bool:
        return (await ask(till, key, body)).status == 200

    await until_told(served, "the recharge is seen", 1.0)


async def test_what_costs_nothing_needs_no_balance(till: RelayProcess) -> None:
    key = await till.make_key("poor", "poor")
    assert (await ask(till, key, question("gift"))).status == 200
    assert (await ask(till, key, question("cent"))).status == 429


async def test_one_call_after_the_other_finds_the_last_cent_on_any_worker(
    till: RelayProcess, books: Connection
) -> None:
    """What one worker has leased and does not need, the other one gets."""
    key = await till.make_key("lone", "lone")
    await recharge(till, "lone", "0.20", "lone-1")
    statuses = Counter([(await ask(till, key, question("cent"))).status for _ in range(24)])
    assert statuses == {200: 20, 429: 4}
    await all_settled(till, books, "lone", "0")


async def test_a_stream_holds_what_it_may_cost(till: RelayProcess, books: Connection) -> None:
    """Two streams of 100 tokens at 0.1 cent each: the balance is for one and a half."""
    key = await till.make_key("streamer", "streamer")
    await recharge(till, "streamer", "0.18", "streamer-1")
    body = question("long", max_tokens=100)
    async with streaming(till, key, 1, body) as streams:
        assert (await ask(till, key, body)).status == 429
    assert streams[0].whole
    assert (await ask(till, key, question("long", max_tokens=1))).status == 200
