"""Daily upkeep: tomorrow's partitions made, those past retention dropped, lost credit set free."""

import asyncio
import datetime
import logging
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import asyncpg

from relay.config import Config
from relay.errors import RelayError
from relay.store import postgres
from relay.store.billing.budget_leases import forget_ended
from relay.store.billing.credit_leases import free_abandoned
from relay.store.embedded.locate import database_url
from relay.store.log.writer import keep_partitions

RETRY_S: Final = 60.0

_log = logging.getLogger(__name__)


async def keep_log_forever(config: Config, data_dir: Path) -> None:
    """Do the upkeep now, and each day when the maintenance window opens."""
    while True:
        try:
            await _keep_log(config, data_dir)
        except (RelayError, asyncpg.PostgresError) as exc:
            # A week of partitions is made ahead, and a default one takes what has none: no hurry.
            _log.warning("log upkeep failed", extra={"error": type(exc).__name__})
            await asyncio.sleep(RETRY_S)
        else:
            await asyncio.sleep(seconds_to_window(config, datetime.datetime.now(datetime.UTC)))


def seconds_to_window(config: Config, now: datetime.datetime) -> float:
    """Return the seconds from `now` (aware) until the maintenance window next opens; above 0.

    The window is by the clock on the wall: where that skips its start in spring, it opens at the
    moment the clock jumps to.
    """
    name = config.maintenance.zone
    zone = datetime.UTC if name == "UTC" else ZoneInfo(name)
    hour, minute = map(int, config.maintenance.window.partition("-")[0].split(":"))
    today = now.astimezone(zone).date()
    for days in (0, 1, 2):
        day = today + datetime.timedelta(days=days)
        opens = datetime.datetime.combine(day, datetime.time(hour, minute), zone)
        wait_s = (opens.astimezone(datetime.UTC) - now).total_seconds()
        if wait_s > 0:
            return wait_s
    raise AssertionError("no day in three has a window ahead")


async def _keep_log(config: Config, data_dir: Path) -> None:
    connection = await postgres.connect(database_url(config, data_dir), application="relay upkeep")
    try:
        with postgres.border():
            await keep_partitions(connection, config.log.retention_days)
            freed_nanos = await free_abandoned(connection)
            await forget_ended(connection)
        if freed_nanos:
            _log.warning("credit of workers that never came back was set free")
    finally:
        await connection.close()
