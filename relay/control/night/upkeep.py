"""What cannot wait for a night that may be skipped: partitions ahead, credit of the dead set free.

At the start, and every six hours.
"""

import asyncio
import datetime
import logging
from pathlib import Path
from typing import Final

import asyncpg

from relay.config import Config
from relay.errors import RelayError
from relay.store import postgres
from relay.store.billing.credit_leases import free_abandoned
from relay.store.embedded.locate import database_url
from relay.store.log.partitions import prepare_partitions
from relay.store.migrate import connect_migrated

EVERY_S: Final = 6 * 3600.0
RETRY_S: Final = 60.0

_log = logging.getLogger(__name__)


async def keep_up_forever(config: Config, data_dir: Path) -> None:
    """Do it now, and every so often; longer than the living take to renew their leases."""
    suspects: dict[str, datetime.datetime] = {}
    while True:
        try:
            await _keep_up(config, data_dir, suspects)
        except (RelayError, asyncpg.PostgresError) as exc:
            # A week of partitions is made ahead, and a default one takes what has none: no hurry.
            _log.warning("log upkeep failed", extra={"error": type(exc).__name__})
            await asyncio.sleep(RETRY_S)
        else:
            await asyncio.sleep(EVERY_S)


async def _keep_up(config: Config, data_dir: Path, suspects: dict[str, datetime.datetime]) -> None:
    url = database_url(config, data_dir)
    connection = await connect_migrated(url, application="relay upkeep")
    try:
        with postgres.border():
            await prepare_partitions(connection)
            freed_nanos = await free_abandoned(connection, suspects)
        if freed_nanos:
            _log.warning("credit of workers that never came back was set free")
    finally:
        await connection.close()
