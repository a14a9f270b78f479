"""VACUUM and ANALYZE where they pay, REINDEX CONCURRENTLY where an index is mostly air.

Postgres's own autovacuum does most of it; what is left for the night is what it comes to late: a
day that is over and was only ever added to, a table below its threshold of a fifth, the partitioned
tables as a whole, whose statistics nobody else makes. Nothing here takes a lock that a call, the
shipper or the console would wait for. Only a table's owner may: a role that merely serves leaves
all of it to autovacuum, and says so.
"""

import datetime
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from relay.control.night.shapes import Plan, Step, Turn, limit_statements
from relay.store.log.partitions import PARENTS
from relay.store.postgres import Connection

ROWS_MIN: Final = 1_000
"""Fewer changed rows than this are not worth a scan."""
SHARE_MIN: Final = 0.05
"""...nor are fewer than this share of a table; autovacuum comes at 0.2."""
BLOAT_MIN: Final = 2.0
"""An index that is this many times as large as its rows need is built anew."""
INDEX_BYTES_MIN: Final = 16 * 1024 * 1024
LOCK_S: Final = 3.0
REINDEX_LOCK_S: Final = 60.0
"""What REINDEX waits for: transactions that are older than it. Nobody queues up behind it."""

Do: TypeAlias = Callable[[Turn], Awaitable[str]]

_STALE: Final = """
    SELECT relname AS name, n_dead_tup AS dead, pg_has_role(pg_class.relowner, 'USAGE') AS ours
    FROM pg_stat_user_tables AS told JOIN pg_class USING (relname)
    WHERE pg_class.oid = told.relid AND schemaname = current_schema()
        AND (n_dead_tup > greatest($1, $2 * n_live_tup)
            OR n_mod_since_analyze > greatest($1, $2 * n_live_tup)
            OR n_ins_since_vacuum > greatest($1, $2 * n_live_tup))
    ORDER BY n_dead_tup DESC, relname"""
_PARENTS: Final = """
    SELECT relname AS name, pg_has_role(relowner, 'USAGE') AS ours FROM pg_class
    WHERE oid = ANY($1::text[]::regclass[]) ORDER BY relname"""
# A B-tree's row is its columns, 8 bytes of head and 4 of a pointer to it, and pages are filled to
# nine tenths. Duplicates take less than that, so what is found is air. Statistics are of the table.
_BLOATED: Final = """
    SELECT index.relname AS name, size.bytes, need.bytes AS needed_bytes
    FROM pg_index JOIN pg_class AS index ON index.oid = indexrelid
    JOIN pg_class AS owner ON owner.oid = indrelid
    JOIN pg_am ON pg_am.oid = index.relam AND amname = 'btree'
    CROSS JOIN LATERAL (SELECT pg_relation_size(index.oid) AS bytes) AS size
    CROSS JOIN LATERAL (
        SELECT 12 + 8 * ceil(sum(coalesce(avg_width, CASE WHEN attlen > 0 THEN attlen ELSE 16 END))
            / 8.0) AS bytes
        FROM unnest(indkey::smallint[]) AS key
        JOIN pg_attribute ON attrelid = indrelid AND attnum = key
        LEFT JOIN pg_stats ON schemaname = current_schema() AND tablename = owner.relname
            AND pg_stats.attname = pg_attribute.attname
    ) AS row
    CROSS JOIN LATERAL (
        SELECT (8192 * (2 + ceil(index.reltuples * row.bytes / (0.9 * 8152))))::bigint AS bytes
    ) AS need
    WHERE index.relnamespace = current_schema()::regnamespace AND index.relkind = 'i'
        AND index.reltuples >= 0 AND indisvalid AND 0 <> ALL (indkey::smallint[])
        AND size.bytes >= $1 AND size.bytes > $2 * need.bytes
        AND pg_has_role(index.relowner, 'USAGE')
    ORDER BY size.bytes - need.bytes DESC"""
_LEFT_OVER: Final = """
    SELECT relname AS name FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE NOT indisvalid AND relname ~ '_cc(new|old)[0-9]*$'
        AND relnamespace = current_schema()::regnamespace AND relkind = 'i'
        AND pg_has_role(relowner, 'USAGE')
    ORDER BY relname"""


async def plan_vacuum(connection: Connection, _now: datetime.datetime) -> Plan:
    """Return a step for each table that has changed enough, the worst first."""
    stale = await connection.fetch(_STALE, ROWS_MIN, SHARE_MIN)
    parents = await connection.fetch(_PARENTS, list(PARENTS))
    steps = [Step(row["name"], _vacuum(row["name"])) for row in stale if row["ours"]]
    steps += [Step(row["name"], _analyze(row["name"])) for row in parents if row["ours"]]
    strangers = sum(not row["ours"] for row in (*stale, *parents))
    note = f"{strangers} tables belong to another role: left to autovacuum" if strangers else ""
    return Plan(steps, note)


async def plan_reindex(
    connection: Connection, _now: datetime.datetime, *, bytes_min: int = INDEX_BYTES_MIN
) -> Plan:
    """Return a step for each index that is mostly air, and for what a stopped night left over."""
    left = await connection.fetch(_LEFT_OVER)
    bloated = await connection.fetch(_BLOATED, bytes_min, BLOAT_MIN)
    steps = [Step(row["name"], _remove(row["name"])) for row in left]
    return Plan([*steps, *(Step(row["name"], _reindex(row["name"])) for row in bloated)])


def _vacuum(table: str) -> Do:
    # Cutting off an empty end would lock readers out.
    return _statement(f'VACUUM (ANALYZE, TRUNCATE false) "{table}"', f"vacuumed {table}")


def _analyze(table: str) -> Do:
    return _statement(f'ANALYZE "{table}"', f"analyzed {table}")


def _remove(index: str) -> Do:
    return _statement(f'DROP INDEX CONCURRENTLY "{index}"', f"removed {index}")


def _statement(sql: str, said: str) -> Do:
    async def do(turn: Turn) -> str:
        await limit_statements(turn, lock_s=LOCK_S)
        await turn.connection.execute(sql, timeout=turn.left_s)
        return said

    return do


def _reindex(index: str) -> Do:
    async def do(turn: Turn) -> str:
        await limit_statements(turn, lock_s=REINDEX_LOCK_S)
        before = await _size_mib(turn.connection, index)
        await turn.connection.execute(f'REINDEX INDEX CONCURRENTLY "{index}"', timeout=turn.left_s)
        after = await _size_mib(turn.connection, index)
        return f"{index}: {before} -> {after} MiB"

    return do


async def _size_mib(connection: Connection, index: str) -> int:
    size: int = await connection.fetchval("SELECT pg_relation_size($1::text::regclass)", index)
    return size // 2**20
