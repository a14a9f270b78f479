"""All checks of one relay, in the order in which an operator would ask.

What does not answer is one diagnosis, not an error: the others still say what they know.
"""

import asyncio
import datetime
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from relay.config import Config
from relay.control.doctor.certificates import check_certificate
from relay.control.doctor.diagnosis import Diagnosis
from relay.control.doctor.disk import check_backlog, check_disk, journal_folder
from relay.control.doctor.host import PROC, check_host, check_packages
from relay.control.doctor.postgres import (
    check_master_key,
    check_partitions,
    check_pepper,
    check_postgres,
    check_schema,
    read_channels,
    read_marks,
)
from relay.control.doctor.redis import check_redis
from relay.control.doctor.upstreams import check_upstreams, find_hosts, judge_plain
from relay.errors import RelayError
from relay.store import postgres
from relay.store.embedded.locate import database_url, redis_url
from relay.store.limits import resp
from relay.store.limits.node_lists import find_nodes
from relay.store.postgres import Connection

REDIS_S: Final = 3.0
POSTGRES_MEND: Final = "psql with [database] url, as the relay's user; is the server running?"
REDIS_MEND: Final = "redis-cli -u with [redis] url, PING; is the server running?"
_CERTIFICATES: Final = ("cert", "certificate", "certs", "certificates")


class Case(msgspec.Struct, frozen=True):
    """What is examined, and what is believed while it is."""

    config: Config
    data_dir: Path
    environ: Mapping[str, str]
    certificates: Sequence[Path]
    """Files beside those that the configuration names: a TLS front's."""
    trust: ssl.SSLContext
    now: datetime.datetime
    proc: Path = PROC


async def examine(case: Case) -> list[Diagnosis]:
    """Return what every check found."""
    found = list(check_host(case.config, case.data_dir, case.proc))
    found += check_packages(case.config)
    found += check_disk(case.config, case.data_dir)
    files = [*certificate_files(case.config), *case.certificates]
    found += [check_certificate(file, case.now) for file in dict.fromkeys(files)]
    found += await _examine_postgres(case)
    found += await _examine_redis(case)
    return found


def certificate_files(config: Config) -> Iterator[Path]:
    """Yield the certificate files that a configuration names, whichever section they stand in."""
    for section in msgspec.structs.astuple(config):
        for name, value in msgspec.structs.asdict(section).items():
            if name.rpartition("_")[2] in _CERTIFICATES:
                values: list[Any] = value if isinstance(value, list) else [value]
                yield from (Path(file) for file in values if isinstance(file, str) and file)


async def _examine_postgres(case: Case) -> list[Diagnosis]:
    try:
        url = database_url(case.config, case.data_dir)
        connection = await postgres.connect(
            url, application="relay doctor", connect_s=case.config.database.connect_s
        )
    except RelayError as error:
        return [Diagnosis("postgres", ok=False, value=error.message, mend=POSTGRES_MEND)]
    try:
        with postgres.border():
            return await _ask_postgres(case, connection)
    except (RelayError, asyncpg.PostgresError) as error:
        reason = error.message if isinstance(error, RelayError) else type(error).__name__
        return [Diagnosis("postgres", ok=False, value=str(reason), mend=POSTGRES_MEND)]
    finally:
        connection.terminate()


async def _ask_postgres(case: Case, connection: Connection) -> list[Diagnosis]:
    found = await check_postgres(connection)
    schema = await check_schema(connection)
    found.append(schema)
    if not await connection.fetchval("SELECT to_regclass('keys') IS NOT NULL"):
        return found
    where = (case.config, case.data_dir, case.environ)
    found.append(await check_partitions(connection, case.now.date()))
    folder = journal_folder(case.config, case.data_dir)
    found.append(check_backlog(case.config, folder, await read_marks(connection)))
    found.append(await check_pepper(connection, *where))
    found.append(await check_master_key(connection, *where))
    hosts = find_hosts(await read_channels(connection))
    found += judge_plain(hosts, allowed=case.config.server.allow_plain_upstreams)
    return found + await check_upstreams(hosts, case.trust, case.now)


async def _examine_redis(case: Case) -> list[Diagnosis]:
    try:
        nodes = await find_nodes(case.config, lambda: redis_url(case.config, case.data_dir))
    except RelayError as error:
        return [Diagnosis("redis", ok=False, value=error.message, mend=REDIS_MEND)]
    found = []
    for at, locate in enumerate(nodes.locates):
        where = f"shard {at}" if len(nodes.locates) > 1 else ""
        try:
            async with asyncio.timeout(REDIS_S):
                connection = await resp.connect(await locate())
                try:
                    found += await check_redis(connection, where)
                finally:
                    connection.close()
        except (TimeoutError, RelayError) as error:
            reason = error.message if isinstance(error, RelayError) else "no answer in time"
            check = f"redis {where}".strip()
            found.append(Diagnosis(check, ok=False, value=reason, mend=REDIS_MEND))
    return found
