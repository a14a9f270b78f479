"""Goal: a key's quota is one quota over four worker processes, whatever is asked at once.

Method: a relay of four workers, calls that may cost ten times what they do, and hundreds of them at
once on a key whose quota covers four such; a worker is killed in the middle of some. What was
charged is read from Postgres, and the audit is the last judge.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.config import Config
from relay.store import postgres
from relay.store.embedded.locate import database_url
from relay.store.postgres import Connection
from tests.live.conftest import begin
from tests.live.relay_process import (
    RELAY,
    RelayProcess,
    Stream,
    ask,
    question,
    settle,
    until,
    until_told,
)

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

TOKENS = 20
"""Of each answer, which may have ten times as many by what its client asks."""
COST = TOKENS * 1_000_000
HOLD = 10 * COST
QUOTA = 9 * HOLD // 2
ASKED = question("words", max_tokens=10 * TOKENS)
CROWD = 400
WORKERS = 4

CATALOG = """
[[channel]]
name = "mock"
base_url = "{upstream}"
models = ["words"]
[[line]]
name = "mock"
channels = ["mock"]
[[group]]
name = "folk"
lines = ["mock"]
[[price]]
model = "words"
input = "0"
output = "1000"
[[account]]
name = "folk"
group = "folk"
credit_limit = "1000"
"""


@pytest.fixture(scope="module")
def brief() -> Iterator[str]:
    """Base URL of an upstream whose streams take four seconds."""
    command = [RELAY, "mock", "--port", "0", "--chunks", str(TOKENS), "--interval-ms", "200"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = re.search(r"listens on (\S+)", process.stderr.readline())
        assert found is not None
        yield found[1]
        process.terminate()


@pytest.fixture(scope="module")
def four(reachable: Path, brief: str) -> Iterator[RelayProcess]:
    """A relay of four workers."""
    relay = RelayProcess.start(reachable / "four", workers=WORKERS)
    asyncio.run(begin(relay, CATALOG.format(upstream=brief)))
    yield relay
    asyncio.run(relay.end())


@pytest.fixture
async def books(four: RelayProcess) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url(Config(), four.data_dir))
    yield connection
    await connection.close()


async def make_key(relay: RelayProcess, name: str) -> str:
    usd = f"{QUOTA / 1e9:.9f}"
    words = ("--account", "folk", "--name", name, "--quota", usd, "--json")
    key: str = json.loads(await relay.cli("key", "create", *words))["key"]
    await settle(relay, key, 200)
    return key


async def spent(books: Connection, key: str) -> tuple[int, int, int]:
    """Return what a key has spent in nanos, what is leased of its quota, and its served calls."""
    row = await books.fetchrow(
        """SELECT spent_nanos, (SELECT count(*) FROM request_log
            WHERE key_id = keys.id AND status = 200) AS served,
        coalesce((SELECT sum(held) FROM budget_windows WHERE scope = 'key'
            AND owner_id = keys.id), 0) AS held
        FROM keys WHERE name = $1""",
        key,
    )
    assert row is not None
    return row["spent_nanos"], int(row["held"]), row["served"]


async def settled(books: Connection, key: str, served: int) -> int:
    """Return what a key has spent, once so many calls are booked and nothing is leased."""

    async def quiet() -> bool:
        _, held, booked = await spent(books, key)
        return booked == served and held == 0

    try:
        await until_told(quiet, "all calls are booked")
    except AssertionError:
        raise AssertionError(await spent(books, key), served) from None
    return (await spent(books, key))[0]


async def test_hundreds_of_calls_at_once_spend_a_quota_to_its_end_and_not_beyond(
    four: RelayProcess, books: Connection
) -> None:
    key = await make_key(four, "crowd")
    served = charged = 0
    for _ in range(QUOTA // COST):  # what calls left of their holds is there for the next crowd
        answers = await asyncio.gather(*(ask(four, key, ASKED) for _ in range(CROWD)))
        statuses = Counter(answer.status for answer in answers)
        assert statuses.keys() <= {200, 429}, statuses
        refused = [answer for answer in answers if answer.status == 429]
        assert {answer.error["code"] for answer in refused} == {"insufficient_quota"}
        served += statuses[200]
        charged = await settled(books, "crowd", served)
        assert charged == served * COST <= QUOTA
        if not statuses[200]:
            break
    assert charged > QUOTA - HOLD, "what is left does not cover a call"
    assert "no drift" in (await four.cli("audit")).lower()


async def test_a_worker_killed_in_the_middle_lets_nobody_spend_more(
    four: RelayProcess, books: Connection
) -> None:
    key = await make_key(four, "killed")
    streams = [Stream() for _ in range(CROWD)]
    async with asyncio.TaskGroup() as tasks:
        for stream in streams:
            tasks.create_task(stream.run(four, key, ASKED))

        def serving() -> list[str]:
            """Return the workers that serve streams, once these are all that is under way."""
            calls = four.in_flight()
            served = sum(1 for stream in streams if not stream.ended_s)
            return [slot for slot in calls if calls[slot]] if sum(calls.values()) == served else []

        slots = await until(serving, "only what was let in is under way")
        os.kill(four.workers()[slots[0]][0], signal.SIGKILL)
    begun = [stream for stream in streams if stream.status == 200]
    assert any(stream.broken for stream in begun)
    assert {stream.status for stream in streams} <= {0, 200, 429}, "0: it was never answered"
    await settle(four, key, 200)
    answers = await asyncio.gather(*(ask(four, key, ASKED) for _ in range(CROWD)))
    served = sum(answer.status == 200 for answer in answers)

    async def quiet() -> bool:
        _, held, booked = await spent(books, "killed")
        return held == 0 and booked >= served + sum(stream.whole for stream in begun)

    await until_told(quiet, "the journal of the dead is in")
    charged, _, booked = await spent(books, "killed")
    whole = served + sum(stream.whole for stream in begun)
    assert whole * COST <= charged <= min(QUOTA, booked * COST)
    assert "no drift" in (await four.cli("audit")).lower()
