"""Goal: a background response is charged once, and its hold freed once, whoever dies meanwhile.

Method: a whole relay before a provider in the test's own process, which ends responses when the
test says so. Its workers are killed with kill -9, one of them or all; the log, the balances and the
audit are the judges.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from relay.config import Config
from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.locate import database_url
from relay.store.postgres import Connection
from tests.flow.provider import USAGE, Provider
from tests.live.relay_process import RelayProcess, send, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

NANOS_IN, NANOS_OUT = 3_000_000, 60_000_000
COST_NANOS = (USAGE["input_tokens"] * NANOS_IN + USAGE["output_tokens"] * NANOS_OUT) // 2
CATALOG = """
[[channel]]
name = "keeper"
base_url = "http://127.0.0.1:{port}/v1"
models = ["deep"]
[[line]]
name = "town"
channels = ["keeper"]
[[group]]
name = "folk"
multiplier = "0.5"
lines = ["town"]
[[price]]
model = "deep"
input = "3000"
output = "{output}"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""


class Town:
    """A relay, the provider behind it, and a look at its database."""

    def __init__(self, relay: RelayProcess, provider: Provider, database: Connection) -> None:
        self.relay = relay
        self.provider = provider
        self.database = database
        self.key = ""

    async def begin(self, **fields: Any) -> str:
        """Begin a background response; return its name."""
        body = {"model": "deep", "input": "think", "background": True, "max_output_tokens": 100}
        answer = await send(
            f"{self.relay.url}/responses",
            orjson.dumps(body | fields),
            {"Authorization": f"Bearer {self.key}"},
        )
        assert answer.status == 200, answer.body
        name: str = orjson.loads(answer.body)["id"]
        return name

    async def kill_workers(self) -> None:
        """Kill all of them with kill -9, and wait until each has a successor."""
        before = {slot: pid for slot, (pid, _) in self.relay.workers().items()}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        await self.renewed(before)

    async def renewed(self, before: dict[str, int]) -> None:
        """Wait until each worker has a successor."""

        def all_new() -> bool:
            now = self.relay.workers()
            return all(slot in now and now[slot][0] != pid for slot, pid in before.items())

        await until(all_new, "every worker has a successor")

    async def count(self, query: str) -> int:
        found: int = await self.database.fetchval(query)
        return found

    async def waiting(self, count: int) -> None:
        """Wait until so many calls are kept for whoever asks for them."""

        async def kept() -> bool:
            return await self.count("SELECT count(*) FROM unended_calls") == count

        await until_told(kept, f"{count} calls are waited for")

    async def held_nanos(self) -> int:
        return await self.count(
            "SELECT coalesce(sum(open_nanos), 0)::bigint FROM credit_leases"
            " WHERE owner LIKE 'unended-%'"
        )

    async def rows(self) -> list[dict[str, Any]]:
        rows = await self.database.fetch(
            "SELECT request_id, cost_nanos, reason, estimated, output_tokens FROM request_log"
            " WHERE endpoint = 'responses' ORDER BY request_id"
        )
        return [dict(row) for row in rows]

    async def settled(self, count: int) -> list[dict[str, Any]]:
        """Return the rows, once there are so many; the books are well then."""

        async def all_there() -> list[dict[str, Any]]:
            rows = await self.rows()
            return rows if len(rows) >= count else []

        rows = await until_told(all_there, f"{count} calls are in the log", 40.0)
        assert len(rows) == count
        await self.waiting(0)
        assert await self.held_nanos() == 0
        assert (await run_audit(self.database)).drifts == []
        return rows


@asynccontextmanager
async def town(folder: Path) -> AsyncIterator[Town]:
    async with Provider(1) as provider:
        relay = RelayProcess.start(folder)
        async with relay:
            await relay.apply(CATALOG.format(port=provider.port, output=NANOS_OUT // 1000))
            database = await postgres.connect(database_url(Config(), folder))
            try:
                found = Town(relay, provider, database)
                found.key = await relay.make_key("deep")
                yield found
            finally:
                await database.close()


async def test_what_a_killed_worker_left_is_charged_once_and_its_hold_freed_once(
    reachable: Path,
) -> None:
    async with town(reachable / "background") as it:
        ended, failed, late = [await it.begin() for _ in range(3)]
        await it.kill_workers()
        await it.waiting(3)
        hold_nanos = await it.held_nanos()
        assert hold_nanos >= 3 * 100 * NANOS_OUT // 2  # each may write 100 tokens
        assert await it.rows() == []

        it.provider.end(ended)
        it.provider.end(failed, "failed", None)
        await it.waiting(1)
        rows = await it.rows()
        assert sorted(row["cost_nanos"] for row in rows) == [0, COST_NANOS]
        assert [row["estimated"] for row in rows] == [False, False]
        assert await it.held_nanos() == hold_nanos // 3

        # Those who ask die as well, as often as it takes.
        await it.kill_workers()
        it.provider.end(late)
        rows = await it.settled(3)
        assert sum(row["cost_nanos"] for row in rows) == 2 * COST_NANOS
        spent = await it.count(
            "SELECT -balance_nanos FROM balances JOIN accounts ON id = account_id"
            " WHERE name = 'folk'"
        )
        assert spent == 2 * COST_NANOS


async def test_a_stream_whose_worker_is_killed_is_charged_for_all_that_its_provider_made(
    reachable: Path,
) -> None:
    async with town(reachable / "stream") as it:
        it.provider.pause_after = 5
        body = {"model": "deep", "input": "x", "background": True, "stream": True}
        headers = {"Authorization": f"Bearer {it.key}"}
        url = f"{it.relay.url}/responses"
        reading = asyncio.create_task(send(url, orjson.dumps(body), headers))
        await until(lambda: it.provider.paused, "the stream is under way")
        await until(lambda: sum(it.relay.in_flight().values()) == 1, "its worker has it")
        await it.kill_workers()
        with pytest.raises(aiohttp.ClientError):  # cut in the middle
            await reading
        await it.waiting(1)
        (name,) = it.provider.responses
        it.provider.end(name)
        (row,) = await it.settled(1)
        assert (row["cost_nanos"], row["estimated"]) == (COST_NANOS, False)


async def test_a_restart_guesses_nothing(reachable: Path) -> None:
    async with town(reachable / "restart") as it:
        name = await it.begin()
        before = {slot: pid for slot, (pid, _) in it.relay.workers().items()}
        it.relay.process.send_signal(signal.SIGHUP)
        await it.renewed(before)
        await it.waiting(1)
        it.provider.end(name)
        (row,) = await it.settled(1)
        assert (row["cost_nanos"], row["reason"]) == (COST_NANOS, "completed")


async def test_what_its_provider_forgot_is_charged_as_it_was_last_counted(reachable: Path) -> None:
    async with town(reachable / "forgotten") as it:
        name = await it.begin()
        await it.kill_workers()
        await it.waiting(1)
        del it.provider.responses[name]
        (row,) = await it.settled(1)
        assert row["estimated"] and row["reason"] == "interrupted" and row["cost_nanos"] > 0
