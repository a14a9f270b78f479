"""Goal: a budget is served to its end by all workers together, and not a call beyond it.

Method: a real relay with two workers; floods over both on budgets for fifty calls, a worker killed
with calls under way, budgets set by commands and files; then the windows in Postgres are compared
with what was served.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from relay.config import Config
from relay.store import postgres
from relay.store.embedded.locate import database_url
from relay.store.postgres import Connection
from tests.live.relay_process import (
    Answer,
    RelayProcess,
    ask,
    question,
    send,
    settle,
    streaming,
    until,
    until_told,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

CATALOG = """
[[channel]]
name = "purse"
base_url = "{upstream}"
models = ["cents", "words"]
[[line]]
name = "purse"
channels = ["purse"]
[[group]]
name = "purse"
lines = ["purse"]
[[price]]
model = "cents"
input = "0"
output = "0"
per_call = "0.01"
[[price]]
model = "words"
input = "1000"
output = "1000"
[[account]]
name = "purse"
group = "purse"
credit_limit = "1000"
"""


@pytest.fixture(scope="module")
def purse(relay: RelayProcess, upstream: str) -> RelayProcess:
    """The relay with models that have prices, and an account, of this file."""
    asyncio.run(relay.apply(CATALOG.format(upstream=upstream)))
    return relay


@pytest.fixture
async def books(relay: RelayProcess) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url(Config(), relay.data_dir))
    yield connection
    await connection.close()


async def make_key(relay: RelayProcess, name: str, *budgets: str) -> str:
    words = [word for budget in budgets for word in ("--budget", budget)]
    made = await relay.cli("key", "create", "--account", "purse", "--name", name, *words, "--json")
    key: str = json.loads(made)["key"]
    await settle(relay, key, 200)
    return key


async def standing(books: Connection, key: str) -> tuple[int, int]:
    row = await books.fetchrow(
        """SELECT used, held FROM budget_windows JOIN keys ON keys.id = owner_id
        WHERE scope = 'key' AND keys.name = $1""",
        key,
    )
    return (0, 0) if row is None else (row["used"], row["held"])


async def flood(relay: RelayProcess, key: str, count: int) -> Counter[int]:
    body = question("cents", max_tokens=1)
    answers: list[Answer] = await asyncio.gather(*(ask(relay, key, body) for _ in range(count)))
    return Counter(answer.status for answer in answers)


@pytest.mark.parametrize(
    ("name", "budget", "used"),
    [
        ("counted", "50 requests/day", 50),
        ("priced", "0.50 usd/month@Europe/Berlin", 500_000_000),
    ],
)
async def test_three_hundred_calls_on_a_budget_for_fifty(
    purse: RelayProcess, books: Connection, name: str, budget: str, used: int
) -> None:
    key = await make_key(purse, name, budget)
    assert await flood(purse, key, 300) == {200: 50, 429: 250}

    async def booked() -> bool:
        return (await standing(books, name))[0] == used

    await until_told(booked, "all that was served is booked")
    # By another process, of which no worker has heard: nothing is left either.
    assert await flood(purse, key, 10) == {429: 10}


async def test_a_refusal_speaks_each_dialect_and_names_the_reset(purse: RelayProcess) -> None:
    key = await make_key(purse, "out-of-budget", "0 requests/week@Asia/Tokyo")
    answer = await ask(purse, key, question("cents"))
    assert answer.status == 429
    assert answer.error["code"] == "budget_exceeded"
    assert "00:00 (Asia/Tokyo)" in answer.error["message"]
    assert 0 < int(answer.headers["retry-after"]) <= 7 * 86_400
    assert answer.headers["x-should-retry"] == "false"


async def test_a_killed_worker_loses_nothing(purse: RelayProcess, books: Connection) -> None:
    key = await make_key(purse, "budget-killed", "20 requests/day")
    assert await flood(purse, key, 8) == {200: 8}
    body = question("words", max_tokens=2_000, stream=True)
    async with streaming(purse, key, 2, body) as streams:
        await until(
            lambda: all(len(stream.events) > 320 for stream in streams), "checkpoints are written"
        )
        for pid, _ in purse.workers().values():
            os.kill(pid, signal.SIGKILL)

    async def freed() -> bool:
        return await standing(books, "budget-killed") == (10, 0)

    try:
        await until_told(freed, "the journals of the dead are in")
    except AssertionError:
        raise AssertionError(await standing(books, "budget-killed")) from None
    await settle(purse, key, 200)
    assert await flood(purse, key, 30) == {200: 10, 429: 20}


async def test_budgets_by_command_and_by_file(purse: RelayProcess, upstream: str) -> None:
    key = await make_key(purse, "unbudgeted")
    assert (await ask(purse, key, question("cents"))).status == 200
    await purse.cli("account", "set", "purse", "--budget", "1000000 requests/month")
    await purse.cli("key", "limit", "purse/unbudgeted", "--budget", "0 usd/day", "--json")
    await settle(purse, key, 429, "chat/completions", question("cents"))
    told = json.loads(await purse.cli("limits", "explain", "--key", "purse/unbudgeted", "--json"))
    shown = {(row["scope"], row["budget"]) for row in told["budgets"]}
    assert shown == {("key", "0 usd/day"), ("account", "1000000 requests/month")}
    await purse.cli("key", "limit", "purse/unbudgeted", "--budget", "none")
    await settle(purse, key, 200, "chat/completions", question("cents"))
    catalog = CATALOG.format(upstream=upstream) + 'budgets = ["5 usd / day"]\n'
    assert "5 usd/day" in await purse.apply(catalog)
    assert await purse.apply(catalog) == "no changes\n"
    listed = json.loads(await purse.cli("account", "show", "purse", "--json"))
    assert listed["budgets"] == ["5 usd/day"]
    await purse.cli("account", "set", "purse", "--budget", "none")


async def test_a_budget_that_runs_low_is_told(purse: RelayProcess) -> None:
    key = await make_key(purse, "budget-low", "5 requests/day")
    assert await flood(purse, key, 4) == {200: 4}

    async def counted() -> bool:
        return 'relay_money_notices_total{event="budget_low"} 0' not in await purse.metrics()

    await until_told(counted, "somebody is told")
    answer = await send(f"{purse.url}/models", None, {"Authorization": f"Bearer {key}"})
    assert answer.status == 200
