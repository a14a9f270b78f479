"""Goal: a video is charged once, and its hold freed once, whoever dies meanwhile.

Method: a whole relay before a provider in the test's own process, which ends videos when the test
says so. All workers are killed with kill -9; log, balances and audit are the judges.
"""

from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.config import Config
from relay.store import postgres
from relay.store.embedded.locate import database_url
from tests.flow.studio import Studio
from tests.live.relay_process import RelayProcess, send
from tests.live.whole.test_relay_background import Town

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

SECOND_NANOS = 100_000_000
CATALOG = """
[[channel]]
name = "studio"
base_url = "http://127.0.0.1:{port}/v1"
models = ["film"]
[[line]]
name = "town"
channels = ["studio"]
[[group]]
name = "folk"
multiplier = "0.5"
lines = ["town"]
[[price]]
model = "film"
input = "0"
output = "0"
per_video_second = "0.1"
[[price.video_classes]]
size = "1792x1024"
per_second = "0.5"
[[account]]
name = "folk"
group = "folk"
credit_limit = "100"
"""


class Lot(Town):
    """A relay that sells films, and a look at its database."""

    async def shoot(self, **fields: Any) -> str:
        body = {"model": "film", "prompt": "a dog", "seconds": "8", "size": "1280x720"} | fields
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = await send(f"{self.relay.url}/videos", orjson.dumps(body), headers)
        assert answer.status == 200, answer.body
        name: str = orjson.loads(answer.body)["id"]
        return name

    async def rows(self) -> list[dict[str, Any]]:
        rows = await self.database.fetch(
            "SELECT cost_nanos, reason, estimated, extras FROM request_log"
            " WHERE endpoint = 'videos' ORDER BY cost_nanos"
        )
        return [dict(row) for row in rows]


async def test_what_a_killed_worker_left_is_charged_once_and_its_hold_freed_once(
    reachable: Path,
) -> None:
    async with Studio(1) as studio, RelayProcess.start(reachable / "videos") as relay:
        await relay.apply(CATALOG.format(port=studio.port))
        database = await postgres.connect(database_url(Config(), reachable / "videos"))
        try:
            lot = Lot(relay, studio, database)
            lot.key = await relay.make_key("film")
            plain, failed = await lot.shoot(), await lot.shoot()
            wide = await lot.shoot(seconds="12", size="1792x1024")
            await lot.kill_workers()
            await lot.waiting(3)
            assert await lot.held_nanos() >= (8 + 8 + 12 * 5) * SECOND_NANOS // 2
            assert await lot.rows() == []
            studio.finish(plain)
            studio.finish(failed, "failed")
            await lot.waiting(1)
            await lot.kill_workers()  # those who ask die as well
            studio.finish(wide)
            rows = await lot.settled(3)
            costs = [row["cost_nanos"] for row in rows]
            assert costs == [0, 8 * SECOND_NANOS // 2, 12 * 5 * SECOND_NANOS // 2]
            spent = await lot.count(
                "SELECT -balance_nanos FROM balances JOIN accounts ON id = account_id"
                " WHERE name = 'folk'"
            )
            assert spent == sum(costs)
        finally:
            await database.close()
