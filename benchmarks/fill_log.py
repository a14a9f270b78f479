"""Fill a request log as months of traffic leave it, and time the console's questions to it.

    python -m benchmarks.fill_log fill URL --rows 10000000 --days 90
    python -m benchmarks.fill_log sums URL
    python -m benchmarks.fill_log time URL [--runs 20] [--json]

`fill` is for a database of its own with the relay's schema. Calls are made by Postgres itself, a
day at a time; the sums by minute and hour are made from them, as the shipper would have. Account
"acme" has 60 % of the calls; of each filter there is a common value and a rare one. `sums` makes
the sums again, where a fill was stopped before it had them: without them nothing that `time` says
would be true, so it looks first.
"""

import argparse
import asyncio
import datetime
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg
import click

from relay.console.queries import overview, usage
from relay.console.queries.calls import read_page
from relay.console.queries.forms import LogQuery, to_filter
from relay.store.log.hours import STEP_BOUNDS_US, STEPS
from relay.store.migrate import migrate
from relay.store.postgres import Connection

SUMS: Final = ("usage_minutes", "usage_hours", "usage_days", "usage_failures", "key_addresses")
_WHOLE: Final = """
    SELECT (SELECT sum(requests) FROM usage_days) = (SELECT sum(requests) FROM usage_hours)
        AND (SELECT sum(requests) FROM usage_days) = (SELECT sum(requests) FROM usage_minutes)
        AND (SELECT sum(requests) FROM usage_failures) > 0"""
ACCOUNTS: Final = 20
KEYS: Final = 200
TARGET_MS: Final = {"log": 300.0, "usage": 500.0}

_CATALOG: Final = """
    INSERT INTO groups (name) VALUES ('bench');
    INSERT INTO accounts (name, group_id)
        SELECT CASE n WHEN 1 THEN 'acme' ELSE 'account-' || n END, 1
        FROM generate_series(1, {accounts}) AS n;
    INSERT INTO lines (name) SELECT 'line-' || n FROM generate_series(1, 5) AS n;
    INSERT INTO channels (name, base_url, models)
        SELECT 'channel-' || n, 'http://127.0.0.1', '{{}}' FROM generate_series(1, 10) AS n;
    INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4)
        SELECT 1 + n % {accounts}, 'key-' || n, decode(md5(n::text) || md5('k' || n), 'hex'), '',
            '', lpad(n::text, 4, '0')
        FROM generate_series(0, {keys} - 1) AS n"""
# A day: where a partition is missing it is made first. r: dice from 0 to 1.
_DAY: Final = """
    INSERT INTO request_log (request_id, ended_at, account_id, key_id, line_id, channel_id,
        input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, ttft_us,
        total_us, cost_nanos, price_id, group_multiplier_ppm, model_multiplier_ppm, attempts,
        status, stream, estimated, ip, endpoint, model, served_model, reason, error_code)
    SELECT
        (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(r1::text), 1, 3) || '8' || substr(md5(r2::text), 1, 15))::uuid,
        at, account_id,
        -- A key of the account; its second one is rare.
        account_id + {accounts} * CASE WHEN r3 < 0.00001 THEN 1 WHEN r3 < 0.6 THEN 0
            ELSE 2 + floor(r3 * 7)::int END,
        CASE WHEN r4 < 0.00001 THEN 5 ELSE 1 + floor(r4 * 4)::int END, 1 + floor(r5 * 10)::int,
        input, input / 3, 0, output, 0,
        CASE status WHEN 200 THEN (total_us * 0.2)::bigint ELSE 0 END, total_us,
        input * 150 + output * 600, 0, 1000000, 1000000, 1, status, r1 < 0.5, false,
        CASE WHEN r6 < 0.000005 THEN '198.51.100.7'::inet
            ELSE '203.0.113.0'::inet + floor(r6 * 40)::int END,
        'chat/completions',
        CASE WHEN r7 < 0.00001 THEN 'rare' WHEN r7 < 0.01 THEN 'seldom'
            ELSE 'model-' || floor(r7 * 8)::int END,
        'upstream', CASE status WHEN 200 THEN 'completed' ELSE 'rejected' END,
        CASE status WHEN 200 THEN '' WHEN 429 THEN 'rate_limit_exceeded'
            WHEN 404 THEN 'model_not_found' ELSE 'upstream_error' END
    FROM (
        SELECT *, $1::date + interval '1 day' * ((n + r1) / $2) AS at,
            CASE WHEN r2 < 0.6 THEN 1 ELSE 1 + floor((r2 - 0.6) * 2.5 * {accounts})::int END
                AS account_id,
            CASE WHEN r5 < 0.000005 THEN 404 WHEN r5 < 0.0005 THEN 502 WHEN r5 < 0.005 THEN 429
                ELSE 200 END AS status,
            (exp(6 + 2 * r3))::bigint AS input, (exp(4 + 2 * r4))::bigint AS output,
            CASE WHEN r6 < 0.00001 THEN 600000000 ELSE (exp(13 + 3 * r7))::bigint END AS total_us
        FROM (SELECT n, random() r1, random() r2, random() r3, random() r4, random() r5,
            random() r6, random() r7 FROM generate_series(0, $2 - 1) AS n) AS dice
    ) AS calls"""
_PARTITION: Final = """
    CREATE TABLE {part} (LIKE {parent} INCLUDING DEFAULTS);
    ALTER TABLE {parent} ATTACH PARTITION {part} FOR VALUES FROM ('{day}') TO ('{next}')"""
_SUMS: Final = """count(*), count(*) FILTER (WHERE reason <> 'completed'),
    count(*) FILTER (WHERE status = 429), sum(input_tokens), sum(cached_tokens),
    sum(output_tokens), sum(cost_nanos)"""


def _steps() -> str:
    """Return the SQL that counts times to the first byte by steps."""
    parts = []
    for at in range(STEPS):
        low = STEP_BOUNDS_US[at - 1] if at else 0
        high = f" AND ttft_us <= {STEP_BOUNDS_US[at]}" if at < STEPS - 1 else ""
        parts.append(f"count(*) FILTER (WHERE ttft_us > {low}{high})::int")
    return f"ARRAY[{', '.join(parts)}]"


async def fill(connection: Connection, rows: int, days: int) -> None:
    """Fill an empty database."""
    await migrate(connection)
    await connection.execute(_CATALOG.format(accounts=ACCOUNTS, keys=KEYS))
    today = datetime.datetime.now(datetime.UTC).date()
    began_s = time.monotonic()
    for back in range(days, 0, -1):
        day = today - datetime.timedelta(days=back)
        for parent in ("request_log", "usage_minutes"):
            part = f"{parent}_{day:%Y%m%d}"
            following = day + datetime.timedelta(days=1)
            await connection.execute(
                _PARTITION.format(part=part, parent=parent, day=day, next=following)
            )
        await connection.execute(_DAY.format(accounts=ACCOUNTS), day, rows // days, timeout=3600)
        done = rows // days * (days - back + 1)
        click.echo(f"{done:,} rows, {done / (time.monotonic() - began_s):,.0f}/s", err=True)
    await sum_up(connection)


async def sum_up(connection: Connection) -> None:
    """Make the sums of the log that is there, and have Postgres know what there is."""
    await _sum_up(connection)
    await connection.execute("VACUUM ANALYZE", timeout=3600)


async def _sum_up(connection: Connection) -> None:
    """Make the sums anew; in the order of time, as the shipper writes them."""
    await connection.execute(f"TRUNCATE {', '.join(SUMS)}")
    group = "account_id, key_id, model, line_id"
    for table, unit, more in (
        ("usage_minutes", "minute", f", {_steps()}"),
        ("usage_hours", "hour", f", max(total_us), max(cost_nanos), {_steps()}"),
        ("usage_days", "day", f", {_steps()}"),
    ):
        await connection.execute(
            f"""INSERT INTO {table} SELECT date_trunc('{unit}', ended_at, 'UTC'), {group}, {_SUMS}
            {more} FROM request_log GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2""",  # noqa: S608
            timeout=3600,
        )
    await connection.execute(
        f"""INSERT INTO usage_failures SELECT date_trunc('minute', ended_at, 'UTC'), {group},
        status, error_code, {_SUMS} FROM request_log WHERE status <> 200
        GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2""",  # noqa: S608
        timeout=3600,
    )
    await connection.execute(
        """INSERT INTO key_addresses SELECT key_id, ip, min(ended_at), max(ended_at), count(*)
        FROM request_log GROUP BY 1, 2""",
        timeout=3600,
    )


FILTERS: Final = {
    "none": {},
    "key (common)": {"key": "1"},
    "key (rare)": {"key": "21"},
    "model (common)": {"model": "model-3"},
    "model (1 %)": {"model": "seldom"},
    "model (rare)": {"model": "rare"},
    "line (common)": {"line": "line-2"},
    "line (rare)": {"line": "line-5"},
    "status 200": {"status": "200"},
    "status 429": {"status": "429"},
    "status 5xx": {"status": "5xx"},
    "code (rare)": {"code": "model_not_found"},
    "address (common)": {"ip": "203.0.113.9"},
    "address (rare)": {"ip": "198.51.100.7"},
    "network": {"ip": "203.0.113.0/24"},
    "network (rare)": {"ip": "198.51.100.0/24"},
    "over 2 s": {"min_ms": 2_000},
    "over 10 min": {"min_ms": 600_000},
    "over 0.0005 USD": {"min_usd": "0.0005"},
    "over 0.001 USD (none)": {"min_usd": "0.001"},
    "key, status 5xx": {"key": "1", "status": "5xx"},
    "key, model": {"key": "1", "model": "seldom"},
    "model, over 2 s": {"model": "seldom", "min_ms": 2_000},
    "model (rare), 429": {"model": "rare", "status": "429"},
    "address, key": {"ip": "203.0.113.9", "key": "1"},
    "address, 429": {"ip": "203.0.113.9", "status": "429"},
    "address, 5xx": {"ip": "203.0.113.9", "status": "5xx"},
    "address, model (1 %)": {"ip": "203.0.113.9", "model": "seldom"},
    "address, model (rare)": {"ip": "203.0.113.9", "model": "rare"},
    "address, over 2 s": {"ip": "203.0.113.9", "min_ms": 2_000},
    "address, over 10 min": {"ip": "203.0.113.9", "min_ms": 600_000},
    "address (rare), key": {"ip": "198.51.100.7", "key": "1"},
    "network, key (rare)": {"ip": "203.0.113.0/24", "key": "21"},
    "key, over 2 s": {"key": "1", "min_ms": 2_000},
    "key, over 10 min": {"key": "1", "min_ms": 600_000},
    "key, over 0.0005 USD": {"key": "1", "min_usd": "0.0005"},
    "key, line (rare)": {"key": "1", "line": "line-5"},
    "key, 429": {"key": "1", "status": "429"},
    "model, 5xx": {"model": "model-3", "status": "5xx"},
    "line, 429": {"line": "line-2", "status": "429"},
}
"""Of account "acme", over 90 days."""


async def time_all(connection: Connection, runs: int) -> list[dict[str, Any]]:
    """Return how long each question takes: first pages of each filter, charts, the overview."""
    found = []
    now = datetime.datetime.now(datetime.UTC)
    for name, fields in FILTERS.items():
        query = LogQuery(since="90d", **fields)  # type: ignore[arg-type]
        wanted = to_filter(query, 1, now)

        async def page(wanted: Any = wanted) -> int:
            return len((await read_page(connection, wanted, 50)).logs)

        found.append(await _time(f"log: {name}", page, runs))
    day = to_filter(LogQuery(id=await _any_id(connection), since="90d"), 1, now)
    found.append(await _time("log: id", lambda: _count(read_page(connection, day, 50)), runs))
    for by, since, group in (
        ("minute", "24h", ""),
        ("hour", "7d", "model"),
        ("hour", "30d", "status"),
        ("day", "90d", ""),
        ("day", "90d", "key"),
        ("day", "90d", "status"),
    ):
        wanted = to_filter(LogQuery(since=since), 1, now)

        async def chart(wanted: Any = wanted, by: Any = by, group: Any = group) -> int:
            return len(await usage.list_usage(connection, wanted, by, group))

        found.append(await _time(f"usage: {since} by {by} x {group or 'all'}", chart, runs))
    quarter = to_filter(LogQuery(since="90d"), 1, now)
    found.append(await _time("usage: totals", lambda: _sum(connection, quarter), runs))
    found.append(await _time("overview: choices", lambda: _choices(connection), runs))
    return found


async def _any_id(connection: Connection) -> str:
    row = await connection.fetchval(
        """SELECT request_id FROM request_log WHERE account_id = 1
        AND ended_at < now() - interval '40 days' ORDER BY ended_at DESC LIMIT 1"""
    )
    return f"req_{row.hex}"


async def _count(page: Awaitable[Any]) -> int:
    return len((await page).logs)


async def _sum(connection: Connection, wanted: Any) -> int:
    return (await usage.sum_up(connection, wanted)).whole.requests


async def _choices(connection: Connection) -> int:
    return len((await overview.list_choices(connection, 1)).models)


async def _time(name: str, work: Callable[[], Awaitable[int]], runs: int) -> dict[str, Any]:
    times = []
    rows = 0
    for _ in range(runs):
        began_s = time.perf_counter()
        rows = await work()
        times.append((time.perf_counter() - began_s) * 1000)
    times.sort()
    target = TARGET_MS["log" if name.startswith("log") else "usage"]
    p95 = times[math.ceil(len(times) * 0.95) - 1]
    return {
        "question": name,
        "rows": rows,
        "p50_ms": round(statistics.median(times), 1),
        "p95_ms": round(p95, 1),
        "max_ms": round(times[-1], 1),
        "target_ms": target,
        "met": p95 <= target,
    }


async def _run(options: argparse.Namespace) -> int:
    random.seed(1)
    connection = await asyncpg.connect(
        options.url, server_settings={"timezone": "UTC", "jit": "off"}, command_timeout=3600
    )
    try:
        if options.work == "fill":
            await fill(connection, options.rows, options.days)
            return 0
        if options.work == "sums":
            await sum_up(connection)
            return 0
        if not await connection.fetchval(_WHOLE):
            raise SystemExit("the sums are not those of the log: `fill_log sums` makes them")
        found = await time_all(connection, options.runs)
    finally:
        await connection.close()
    if options.json:
        click.echo(json.dumps(found, indent=1))
    else:
        for row in found:
            mark = "" if row["met"] else "   MISSED"
            click.echo(
                f"{row['question']:34} {row['rows']:>6} rows  p50 {row['p50_ms']:>8.1f} ms"
                f"  p95 {row['p95_ms']:>8.1f} ms  max {row['max_ms']:>8.1f} ms{mark}"
            )
    return 0 if all(row["met"] for row in found) else 3


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    works = parser.add_subparsers(dest="work", required=True)
    filling = works.add_parser("fill")
    filling.add_argument("url")
    filling.add_argument("--rows", type=int, default=10_000_000)
    filling.add_argument("--days", type=int, default=90)
    works.add_parser("sums").add_argument("url")
    timing = works.add_parser("time")
    timing.add_argument("url")
    timing.add_argument("--runs", type=int, default=20)
    timing.add_argument("--json", action="store_true")
    return asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
