"""Goal: a batch is charged once, and its hold freed once, whoever dies before it has ended.

Method: a whole relay before the scripted upstream, in the test's own process, which ends batches
when the test says so. Its workers are killed with kill -9, one relay as a whole; the log, the
balances and the audit are the judges.
"""

import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI

from relay.config import Config
from relay.mock.options import MockOptions
from relay.mock.server import start
from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.locate import database_url
from relay.store.postgres import Connection
from tests.flow import gemini_batches
from tests.flow.gemini_batches import GeminiBatches
from tests.flow.test_batches import CHUNKS, line
from tests.flow.test_content_batches import body_of
from tests.live.relay_process import RelayProcess, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

NANOS_IN, NANOS_OUT = 1_000_000, 2_000_000
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
input = "2000"
output = "4000"
[[price.service_tiers]]
name = "batch"
input = "1000"
output = "2000"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""


async def _begin(client: AsyncOpenAI, count: int) -> str:
    lines = b"".join(line(f"r{at}", "deep", max_tokens=100) for at in range(count))
    sent = await client.files.create(file=("b.jsonl", lines), purpose="batch")
    made = await client.batches.create(
        input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    return made.id


async def _kill(relay: RelayProcess) -> None:
    """Kill all workers with kill -9, and wait until each has a successor."""
    before = {slot: pid for slot, (pid, _) in relay.workers().items()}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)

    def renewed() -> bool:
        now = relay.workers()
        return all(slot in now and now[slot][0] != pid for slot, pid in before.items())

    await until(renewed, "every worker has a successor")


async def _held_nanos(database: Connection) -> int:
    held: int = await database.fetchval(
        "SELECT coalesce(sum(open_nanos), 0)::bigint FROM credit_leases"
        " WHERE owner LIKE 'unended-%'"
    )
    return held


async def test_batches_of_workers_that_are_killed_are_charged_once(reachable: Path) -> None:
    folder = reachable / "batches"
    mock = await start(MockOptions(chunks=CHUNKS))
    mock.batches.looks = 10**6
    relay = RelayProcess.start(folder)
    try:
        async with relay:
            await relay.apply(CATALOG.format(port=mock.port))
            database = await postgres.connect(database_url(Config(), folder))
            key = await relay.make_key("deep")
            async with AsyncOpenAI(base_url=relay.url, api_key=key, max_retries=0) as client:
                made = [await _begin(client, count) for count in (3, 5)]
                await _kill(relay)

                async def kept() -> bool:
                    found = await database.fetchval("SELECT count(*) FROM unended_calls")
                    return bool(found == 2)

                await until_told(kept, "both are waited for")
                held = await _held_nanos(database)
                assert held >= 8 * 100 * NANOS_OUT // 2
                mock.batches.end(made[0])
                await _kill(relay)  # whoever asks dies as well
                mock.batches.end(made[1])

                async def logged() -> list[Any]:
                    rows: list[Any] = await database.fetch(
                        "SELECT cost_nanos, reason, extras FROM request_log"
                        " WHERE endpoint = 'batches' ORDER BY cost_nanos"
                    )
                    return rows if len(rows) == 2 else []

                rows = await until_told(logged, "both are in the log", 60.0)
                each = (2 * NANOS_IN + CHUNKS * NANOS_OUT) // 2
                assert [row["cost_nanos"] for row in rows] == [3 * each, 5 * each]
                assert {row["reason"] for row in rows} == {"completed"}
                assert await _held_nanos(database) == 0
                assert (await run_audit(database)).drifts == []
                done = await client.batches.retrieve(made[1])
                assert done.output_file_id is not None
                told = (await client.files.content(done.output_file_id)).text
                assert told.count("\n") == 5
                assert [one.id async for one in client.batches.list()] == made[::-1]
            await database.close()
    finally:
        await mock.close()


async def test_geminis_batches_of_workers_that_are_killed_are_charged_once(
    reachable: Path,
) -> None:
    folder = reachable / "contents"
    catalog = CATALOG.replace('base_url = "http://127.0.0.1:{port}/v1"', 'protocol = "gemini"\n')
    async with GeminiBatches() as provider, RelayProcess.start(folder) as relay:
        provider.looks = 10**6
        address = f'base_url = "http://127.0.0.1:{provider.port}"'
        await relay.apply(catalog.replace('name = "keeper"', f'name = "keeper"\n{address}'))
        database = await postgres.connect(database_url(Config(), folder))
        key = await relay.make_key("deep")
        root = f"{relay.url.removesuffix('/v1')}/v1beta"
        async with aiohttp.ClientSession(headers={"x-goog-api-key": key}) as http:
            asked = body_of(*"abcd")
            async with http.post(f"{root}/models/deep:batchGenerateContent", json=asked) as told:
                assert told.status == 200, await told.text()
                name = (await told.json())["name"]
            await _kill(relay)

            async def kept() -> bool:
                return bool(await database.fetchval("SELECT count(*) = 1 FROM unended_calls"))

            await until_told(kept, "it is waited for")
            assert await _held_nanos(database) >= 4 * 100 * NANOS_OUT // 2
            provider.end(name)

            async def logged() -> list[Any]:
                rows: list[Any] = await database.fetch(
                    "SELECT cost_nanos, reason FROM request_log"
                    " WHERE endpoint = 'models:batchGenerateContent'"
                )
                return rows

            (row,) = await until_told(logged, "it is in the log", 60.0)
            each = gemini_batches.TOKENS_IN * NANOS_IN + gemini_batches.TOKENS_OUT * NANOS_OUT
            assert (row["cost_nanos"], row["reason"]) == (4 * each // 2, "completed")
            assert await _held_nanos(database) == 0
            assert (await run_audit(database)).drifts == []
            async with http.get(f"{root}/batches") as told:
                assert [one["name"] for one in (await told.json())["operations"]] == [name]
        await database.close()
