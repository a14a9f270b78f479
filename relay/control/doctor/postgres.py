"""Is Postgres there, fast and new enough, is its schema ours, do its keys fit our secrets?"""

import datetime
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from relay.config import Config
from relay.control.doctor.diagnosis import Diagnosis, judge
from relay.errors import ConfigError
from relay.store.log.partitions import DAYS_AHEAD
from relay.store.log.writer import Mark
from relay.store.migrate import pending, read_records, read_scripts
from relay.store.postgres import Connection
from relay.store.secrets.vault import channel_owner, load_pepper, open_vault

MAJOR_MIN: Final = 14
LATENCY_MS_MAX: Final = 20.0
"""No call waits for Postgres, but credit is leased from it, and every batch of rows."""
ASKS: Final = 5
SKEW_S_MAX: Final = 1.0
"""Leases and windows of several hosts go by their own clocks."""
PARENTS: Final = ("request_log", "usage_minutes", "settlements")
PARTITIONS_AHEAD_MIN: Final = 2
"""A week is made ahead each day: two days left means five nights of it failed."""

_PARTITIONS: Final = """
    SELECT parent.relname AS parent, count(*) FILTER (
        WHERE part.relname ~ '_[0-9]{8}$' AND right(part.relname, 8) > $1) AS ahead
    FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid
        JOIN pg_class parent ON parent.oid = inhparent
    WHERE parent.relname = ANY($2) GROUP BY 1"""
_PEPPERS: Final = (
    "SELECT pepper_id, count(*) AS keys FROM keys WHERE deleted_at IS NULL GROUP BY 1 ORDER BY 2"
)
_SEALED: Final = "SELECT name, api_key_sealed FROM channels WHERE deleted_at IS NULL"
_MARKS: Final = "SELECT generation, segment, byte_offset, closed FROM journal_offsets"


async def check_postgres(connection: Connection) -> list[Diagnosis]:
    """Judge the server behind a connection."""
    took_ms = []
    for _ in range(ASKS):
        began_s = time.perf_counter()
        await connection.fetchval("SELECT 1")
        took_ms.append((time.perf_counter() - began_s) * 1000)
    before_s = time.time_ns() / 1e9
    theirs_s = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())"))
    skew_s = abs(theirs_s - (before_s + time.time_ns() / 1e9) / 2)
    version = connection.get_server_version()
    standby = await connection.fetchval("SELECT pg_is_in_recovery()")
    return [
        judge_latency("postgres latency", min(took_ms), LATENCY_MS_MAX),
        judge(
            "postgres version",
            f"{version.major}.{version.minor}",
            f"upgrade to Postgres {MAJOR_MIN} or newer (pg_upgradecluster on Debian)",
            ok=version.major >= MAJOR_MIN,
        ),
        judge_skew(skew_s),
        judge(
            "postgres primary",
            "a standby: nothing can be written" if standby else "takes writes",
            "name the primary in [database] url",
            ok=not standby,
        ),
    ]


def judge_latency(check: str, took_ms: float, bound_ms: float) -> Diagnosis:
    """Judge a round trip."""
    mend = f"ping its host: above {bound_ms:g} ms it is too far away or overloaded"
    return judge(check, f"{took_ms:.2f} ms a round trip", mend, ok=took_ms <= bound_ms)


def judge_skew(skew_s: float) -> Diagnosis:
    """Judge how far our clock is from Postgres's."""
    return judge(
        "clock skew",
        f"{skew_s:.2f} s from Postgres's clock",
        "timedatectl set-ntp true, here and on the database's host",
        ok=skew_s <= SKEW_S_MAX,
    )


async def check_schema(connection: Connection) -> Diagnosis:
    """Judge whether the tables are those of this release."""
    recorded, contracted = await read_records(connection)
    try:
        missing = pending(read_scripts(), recorded, contracted)
    except ConfigError as error:
        mend = "install the release that this database was migrated by"
        return Diagnosis("schema", ok=False, value=error.message, mend=mend)
    return judge(
        "schema",
        f"{len(missing)} migrations behind"
        if missing
        else f"up to date ({len(recorded)} migrations)",
        "relay db migrate",
        ok=not missing,
    )


async def check_partitions(connection: Connection, today: datetime.date) -> Diagnosis:
    """Judge how many days ahead there are partitions for, of the table that has the fewest."""
    rows = await connection.fetch(_PARTITIONS, f"{today:%Y%m%d}", PARENTS)
    ahead = dict.fromkeys(PARENTS, 0) | {row["parent"]: row["ahead"] for row in rows}
    worst = min(ahead, key=lambda parent: ahead[parent])
    sql = "; ".join(f"SELECT partitions_prepare('{parent}', {DAYS_AHEAD})" for parent in PARENTS)
    return judge(
        "partitions ahead",
        f"{ahead[worst]} days ({worst})",
        f'psql -c "{sql}"',
        ok=ahead[worst] >= PARTITIONS_AHEAD_MIN,
    )


async def check_pepper(
    connection: Connection, config: Config, data_dir: Path, environ: Mapping[str, str]
) -> Diagnosis:
    """Judge whether the keys were stored under the pepper that is here: else all get 401."""
    rows = await connection.fetch(_PEPPERS)
    counts: dict[str, int] = {row["pepper_id"]: row["keys"] for row in rows}
    file = data_dir / "secrets" / "pepper.key"
    others = ", ".join(counts)
    mend = f"put the pepper {others} back: {file} from the back-up, or [secrets] pepper"
    if not config.secrets.pepper and not file.is_file():
        value = f"none at {file}; the keys need {others}" if counts else "none yet, and no keys"
        return judge("pepper", value, mend, ok=not counts)
    try:
        mine = load_pepper(config, data_dir, environ).id
    except ConfigError as error:
        return Diagnosis("pepper", ok=False, value=error.message, mend=mend)
    strangers = {pepper: count for pepper, count in counts.items() if pepper != mine}
    said = ", ".join(f"{count} keys need {pepper}" for pepper, count in strangers.items())
    value = f"{mine} is here; {said}" if said else f"{mine}, as all {counts.get(mine, 0)} keys need"
    mend = (
        f"put the pepper {', '.join(strangers)} back: {file} from the back-up, or [secrets] pepper"
    )
    return judge("pepper", value, mend, ok=not strangers)


async def check_master_key(
    connection: Connection, config: Config, data_dir: Path, environ: Mapping[str, str]
) -> Diagnosis:
    """Judge whether the channels' credentials can be opened: else the channels are out of use."""
    sealed = [(row["name"], row["api_key_sealed"]) for row in await connection.fetch(_SEALED)]
    needed = [name for name, box in sealed if box]
    file = data_dir / "secrets" / "master.key"
    mend = f"put {file} back from the back-up, or apply the catalog again with its credentials"
    if not config.secrets.master_key and not file.is_file():
        value = f"none at {file}; {len(needed)} credentials need it" if needed else "none yet"
        return judge("master key", value, mend, ok=not needed)
    try:
        vault = open_vault(config, data_dir, environ)
    except ConfigError as error:
        return Diagnosis("master key", ok=False, value=error.message, mend=mend)
    closed = [name for name, box in sealed if vault.open(box, channel_owner(name)) is None]
    value = f"does not open {', '.join(closed[:3])}" if closed else f"opens all {len(needed)}"
    return judge("master key", value, mend, ok=not closed)


async def read_channels(connection: Connection) -> list[tuple[str, str]]:
    """Return (name, base_url) of every channel."""
    rows = await connection.fetch("SELECT name, base_url FROM channels WHERE deleted_at IS NULL")
    return [(row["name"], row["base_url"]) for row in rows]


async def read_marks(connection: Connection) -> dict[str, Mark]:
    """Return how far each generation's journal is in the log."""
    rows = await connection.fetch(_MARKS)
    return {row["generation"]: Mark(*list(row)[1:]) for row in rows}
