"""The night's work in the middle of a soak: `relay maintenance run`, with something to do.

Before the load begins, the request log is given days that are past their retention, which the night
archives and drops, and younger days of which half is deleted, which it vacuums. Their calls cost
nothing, so that the audit has nothing against them.
"""

import asyncio
import datetime
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import asyncpg

from relay.store.postgres import Connection

RETENTION_DAYS: Final = 90
"""The relay's default."""
DAYS: Final = (*range(70, 74), *range(95, 111))
"""How many days ago: four that stay, sixteen that are dropped."""
ROWS_A_DAY: Final = 30_000
ARCHIVE: Final = "archive"
"""Below the relay's folder."""
ENVIRON: Final = {"RELAY_MAINTENANCE__ARCHIVE_DIR": ARCHIVE}
_RUN_S: Final = 900.0

_PARTITION: Final = """
    CREATE TABLE IF NOT EXISTS request_log_{name} (LIKE request_log INCLUDING DEFAULTS);
    ALTER TABLE request_log ATTACH PARTITION request_log_{name}
        FOR VALUES FROM ('{day}') TO ('{after}')"""
_ROWS: Final = """
    INSERT INTO request_log (request_id, ended_at, account_id, key_id, line_id, channel_id,
        input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, ttft_us,
        total_us, cost_nanos, price_id, group_multiplier_ppm, model_multiplier_ppm, attempts,
        status, stream, estimated, ip, endpoint, model, served_model, reason, error_code)
    SELECT
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(n::text), 1, 3) || '8' || substr(md5(at::text), 1, 15))::uuid,
        at, 1, 1, 1, 1, 3200, 0, 0, 320, 0, 100000, 3000000, 0, 0, 1000000, 1000000, 1, 200, true,
        false, '127.0.0.1', 'chat/completions', 'mock-model', 'mock-model', 'completed', ''
    FROM (SELECT n, $1::date + interval '1 day' * n / $2 AS at
        FROM generate_series(0, $2 - 1) AS n) AS calls"""
_HALF: Final = """
    DELETE FROM request_log
    WHERE ended_at BETWEEN $1 AND now() - interval '60 days' AND random() < 0.5"""


def plant(url: str, today: datetime.date) -> None:
    """Give the log of the relay on a database days of long ago."""

    async def plant_there() -> None:
        connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
        try:
            await plant_days(connection, today)
        finally:
            await connection.close()

    asyncio.run(plant_there())


async def plant_days(connection: Connection, today: datetime.date) -> None:
    """Give the log days of long ago, and leave half of those that the night is to keep."""
    for back in DAYS:
        day = today - datetime.timedelta(days=back)
        after = day + datetime.timedelta(days=1)
        await connection.execute(_PARTITION.format(name=f"{day:%Y%m%d}", day=day, after=after))
        await connection.execute(_ROWS, day, ROWS_A_DAY)
    kept = today - datetime.timedelta(days=RETENTION_DAYS)
    await connection.execute(_HALF, datetime.datetime.combine(kept, datetime.time(), datetime.UTC))


class Night:
    """Has a relay do all works of the night after `after_s`, in a thread; `found` is how they went.

    Args:
        command: `relay maintenance run --json` of that relay.
        after_s: From `__enter__`.
        say: Told of it.
    """

    def __init__(self, command: list[str], after_s: float, say: Callable[[str], None]) -> None:
        self.found: dict[str, Any] = {}
        self._command = command
        self._after_s = after_s
        self._say = say
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Night":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        if self._stopped.wait(self._after_s):
            self.found = {"not_done": "the soak ended before it"}
            return
        begun_s = time.monotonic()
        self._say(f"soak {self._after_s:.0f} s: the night begins")
        try:
            done = subprocess.run(
                self._command, check=False, capture_output=True, text=True, timeout=_RUN_S
            )
            works = json.loads(done.stdout)
        except (subprocess.TimeoutExpired, ValueError) as error:
            self.found = {"not_done": str(error)[:500]}
        else:
            shown = ("work", "outcome", "started_at", "ended_at", "detail")
            self.found = {
                "at_s": self._after_s,
                "took_s": round(time.monotonic() - begun_s, 1),
                "works": [{name: work[name] for name in shown} for work in works],
                "failed": [work["work"] for work in works if work["outcome"] != "done"],
            }
        self._say(f"soak: the night: {json.dumps(self.found)}")


def archived_days(data_dir: Path) -> int:
    """Return how many days of its log a relay has archived."""
    return len(list((data_dir / ARCHIVE).glob("request_log_*.csv.gz")))
