"""Goal: the request log answers who called what, when, from where, and why it cost that much.

Method: calls written as the shipper writes them, read back by the queries and the commands.
"""

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from relay.cli.root import main
from relay.errors import BadRequest, NotFound
from relay.records import CallEnd, FailedTry
from relay.store import postgres
from relay.store.log import reports
from relay.store.log.reports import (
    CallFilter,
    ReportScope,
    list_calls,
    list_usage,
    parse_request_id,
    share_usage,
)
from relay.store.log.writer import Mark, Part, write_batch
from relay.store.postgres import Connection
from tests.live.journals import NOW_US, add_catalog, make_end, make_start

pytestmark = pytest.mark.live

CONTRACT = (
    *("request_id", "time", "account", "key_id", "key_name", "ip", "line", "channel", "model"),
    *("served_model", "endpoint", "stream", "status", "reason", "input_tokens", "cached_tokens"),
    *("cache_write_tokens", "output_tokens", "reasoning_tokens", "estimated", "cost_usd"),
    *("ttft_ms", "total_ms", "attempts"),
)
"""A row of `relay logs --json`, in this order: whoever reads the log may rely on it."""

MINUTE_US = 60_000_000
# 1,100 fresh at 0.15, 100 cached at 0.075, 345 out at 0.60 USD per 1M, x 0.8
COST_NANOS = 303_600


def at(minutes_ago: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(NOW_US / 1e6 - minutes_ago * 60, datetime.UTC)


def ended(minutes_ago: float, **fields: Any) -> CallEnd:
    time_us = NOW_US - round(minutes_ago * MINUTE_US)
    return make_end(make_start(), time_us=time_us, cost_nanos=COST_NANOS, **fields)


def name_of(end: CallEnd) -> str:
    return f"req_{end.request_id.hex()}"


async def write(connection: Connection, *ends: CallEnd) -> None:
    await write_batch(connection, [Part("w", Mark(), list(ends))])


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Connection]:
    connection = await postgres.connect(database_url)
    await add_catalog(connection)
    yield connection
    await connection.close()


async def found(connection: Connection, limit: int = 1000, **wanted: Any) -> list[str]:
    calls = list_calls(connection, CallFilter(**wanted), limit)
    return [row["request_id"] async for row in calls]


# --- the queries ------------------------------------------------------------------------------


async def test_each_filter_finds_its_calls(database: Connection) -> None:
    await database.execute(
        """INSERT INTO accounts (name, group_id) VALUES ('bolt', 1);
        INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4)
            VALUES (2, 'ci', decode(repeat('11', 32), 'hex'), 'p', 'sk', 'wxyz')"""
    )
    plain = ended(1)
    other = ended(2, account_id=2, key_id=2, ip="2001:db8::7", model="fast")
    failed = ended(3, status=502, reason="upstream_failed", channel_id=0)
    refused = ended(4, status=429, reason="rejected", line_id=0, channel_id=0)
    await write(database, refused, plain, failed, other)

    async def names(**wanted: Any) -> list[CallEnd]:
        known = {name_of(end): end for end in (plain, other, failed, refused)}
        return [known[name] for name in await found(database, **wanted)]

    assert await names() == [plain, other, failed, refused]
    assert await names(account="bolt") == [other]
    assert await names(account="id:1") == [plain, failed, refused]
    with pytest.raises(NotFound):  # a bare number is a name: an id would be somebody else's
        await names(account="1")
    await database.execute("INSERT INTO accounts (name, group_id) VALUES ('1', 1)")
    assert await names(account="1") == []
    assert await names(key="wxyz") == await names(key="id:2") == [other]
    assert await names(key="bolt/ci") == [other]
    assert await names(key="ci") == [plain, other, failed, refused]
    assert await names(model="fast") == [other]
    assert await names(line="acme-dedicated") == [plain, other, failed]
    assert await names(channel="openai-a") == [plain, other]
    assert await names(status=(500, 599)) == [failed]
    assert await names(reason="rejected") == [refused]
    assert await names(ip="2001:db8::/32") == [other]
    assert await names(ip="203.0.113.7", status=(200, 200)) == [plain]
    assert await names(since=at(2.5)) == [plain, other]
    assert await names(until=at(2.5)) == [failed, refused]


@pytest.mark.parametrize("noun", ["account", "key", "line", "channel"])
async def test_a_name_that_means_nothing_is_said(database: Connection, noun: str) -> None:
    wanted: dict[str, Any] = {noun: "nobody"}
    with pytest.raises(NotFound, match=f"no {noun} 'nobody'"):
        await found(database, **wanted)


async def test_an_address_that_is_none_is_said(database: Connection) -> None:
    with pytest.raises(BadRequest, match="address or a CIDR"):
        await found(database, ip="example.com")


async def test_pages_join_without_gap_or_repeat(
    database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "PAGE_ROWS", 3)
    ends = [ended(minutes) for minutes in (5, 5, 5, 5, 4, 4, 4, 3, 2, 1)]  # ties at the seams
    await write(database, *ends)
    order = sorted(ends, key=lambda end: (end.time_us, end.request_id), reverse=True)
    for limit in range(1, 12):
        assert await found(database, limit) == [name_of(end) for end in order[:limit]]


async def test_what_was_deleted_keeps_its_name(database: Connection) -> None:
    await write(database, ended(1))
    for table in ("keys", "lines", "channels", "accounts"):
        await database.execute(f"UPDATE {table} SET deleted_at = now()")
    await database.execute("INSERT INTO accounts (name, group_id) VALUES ('acme', 1)")
    rows = [row async for row in list_calls(database, CallFilter(account="acme"), 10)]
    (row,) = rows
    assert (row["account"], row["key_name"]) == ("acme", "ci")
    assert (row["line"], row["channel"]) == ("acme-dedicated", "openai-a")


async def test_a_page_reads_an_index_and_no_old_day(database: Connection) -> None:
    plan = await explain(database, account="acme", since=at(60))
    assert "request_log_default" in plan
    assert "Seq Scan on request_log_2" not in plan
    tomorrow = at(-24 * 60)
    assert f"request_log_{tomorrow:%Y%m%d}" in plan
    assert f"request_log_{tomorrow:%Y%m%d}" not in await explain(database, until=at(0))


async def explain(connection: Connection, **wanted: Any) -> str:
    """Return the plan of the first page, as Postgres logs it for itself."""
    statements: list[tuple[str, tuple[Any, ...]]] = []

    class Recorder:
        async def fetch(self, statement: str, *values: Any) -> Any:
            statements.append((statement, values))
            return await connection.fetch(statement, *values)

    recorder: Any = Recorder()
    await reports.read_page(recorder, CallFilter(**wanted), 10, None)
    statement, values = statements[-1]
    await connection.execute("SET enable_seqscan = off")
    rows = await connection.fetch(f"EXPLAIN {statement}", *values)
    return "\n".join(row[0] for row in rows)


async def test_usage_adds_up_by_span(database: Connection) -> None:
    await write(database, ended(1), ended(1, status=429, reason="rejected"), ended(200))
    by_day = await list_usage(database, ReportScope(), "day")
    assert sum(row["requests"] for row in by_day) == 3
    hour = await list_usage(database, ReportScope(since=at(61)), "minute")
    (row,) = hour
    assert row == {
        "time": f"{at(1):%Y-%m-%dT%H:%M}:00.000Z",
        "requests": 2,
        "errors": 1,
        "limited": 1,
        "input_tokens": 2400,
        "cached_tokens": 200,
        "cached_share": 0.0833,
        "output_tokens": 690,
        "tokens": 3090,
        "cost_usd": "0.0006072",
    }
    assert await list_usage(database, ReportScope(model="other"), "hour") == []
    with pytest.raises(NotFound):
        await list_usage(database, ReportScope(key="nobody"), "hour")


async def test_a_span_is_shared_out_with_what_came_from_caches(database: Connection) -> None:
    await write(database, ended(1), ended(2, cached_tokens=0, model="fast", channel_id=0))
    scope = ReportScope(since=at(60))
    by_channel = {row["channel"]: row for row in await share_usage(database, scope, "channel")}
    assert by_channel["openai-a"]["cached_share"] == 0.0833 and by_channel[""]["requests"] == 1
    (line,) = await share_usage(database, scope, "line")
    assert (line["line"], line["requests"], line["cached_share"]) == ("acme-dedicated", 2, 0.0417)
    by_model = {
        row["model"]: row["cached_tokens"] for row in await share_usage(database, scope, "model")
    }
    assert by_model["fast"] == 0 and sum(by_model.values()) == 100
    assert await share_usage(database, ReportScope(model="other"), "channel") == []


@pytest.mark.parametrize("unit", ["minute", "hour", "day"])
async def test_the_first_span_is_whole(database: Connection, unit: str) -> None:
    midnight = at(0).replace(hour=0, minute=0, second=0, microsecond=0)
    since_midnight = (at(0) - midnight).total_seconds() / 60
    await write(database, ended(since_midnight))
    spans = {"minute": 59, "hour": 59 * 60, "day": 23 * 3600}
    since = midnight + datetime.timedelta(seconds=spans[unit])
    (row,) = await list_usage(database, ReportScope(since=since), unit)
    assert row["time"] == f"{midnight:%Y-%m-%d}T00:00:00.000Z"


def test_request_ids_as_clients_see_them() -> None:
    text = "0190a5c8-7e6b-7def-8123-456789abcdef"
    for spelling in (text, text.replace("-", ""), f"req_{text.replace('-', '')}"):
        assert str(parse_request_id(spelling)) == text
    with pytest.raises(BadRequest):
        parse_request_id("req_1")


# --- the commands -----------------------------------------------------------------------------

Command = Callable[..., Result]


@pytest.fixture
def relay(database_url: str, tmp_path: Path) -> Command:
    """Run a relay command on a database of its own."""
    environ = {"RELAY_DATABASE__URL": database_url, "RELAY_DATA_DIR": str(tmp_path)}

    def command(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments, env=environ, catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return command


def fill(url: str, *ends: CallEnd) -> None:
    async def work() -> None:
        connection = await postgres.connect(url)
        await add_catalog(connection)
        await write(connection, *ends)
        await connection.close()

    asyncio.run(work())


def test_logs_prints_the_rows_of_the_contract(relay: Command, database_url: str) -> None:
    first, last = ended(2), ended(1, ttft_us=0, status=499, reason="client_gone", channel_id=0)
    fill(database_url, first, last)
    lines = relay("logs", "--json").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [tuple(row) for row in rows] == [CONTRACT, CONTRACT]
    assert [row["request_id"] for row in rows] == [name_of(last), name_of(first)]
    assert rows[1] == {
        "request_id": name_of(first),
        "time": f"{at(2):%Y-%m-%dT%H:%M:%S}.{at(2).microsecond // 1000:03}Z",
        "account": "acme",
        "key_id": 1,
        "key_name": "ci",
        "ip": "203.0.113.7",
        "line": "acme-dedicated",
        "channel": "openai-a",
        "model": "gpt-4o-mini",
        "served_model": "gpt-4o-mini-2024",
        "endpoint": "chat/completions",
        "stream": True,
        "status": 200,
        "reason": "completed",
        "input_tokens": 1200,
        "cached_tokens": 100,
        "cache_write_tokens": 0,
        "output_tokens": 345,
        "reasoning_tokens": 45,
        "estimated": False,
        "cost_usd": "0.0003036",
        "ttft_ms": 321.0,
        "total_ms": 5000.0,
        "attempts": 1,
    }
    assert (rows[0]["ttft_ms"], rows[0]["channel"]) == (None, None)


def test_logs_takes_the_filters_of_the_contract(relay: Command, database_url: str) -> None:
    old, new = ended(60 * 30), ended(1)
    fill(database_url, old, new)
    flags = ("--account", "acme", "--key", "ci", "--model", "gpt-4o-mini", "--line")
    more = ("acme-dedicated", "--status", "2xx", "--ip", "203.0.113.0/24", "--limit", "5")
    assert len(relay("logs", *flags, *more, "--json").stdout.splitlines()) == 1
    span = ("--since", "2d", "--until", "1d")
    assert name_of(old) in relay("logs", *flags, *more, *span, "--json").stdout
    table = relay("logs", "--since", "2d").stdout.splitlines()
    assert len(table) == 3
    assert "no such calls since" in relay("logs", "--status", "5xx").stderr
    relay("logs", "--status", "maybe", code=2)
    relay("logs", "--since", "yesterday", code=2)
    relay("logs", "--ip", "example.com", code=1)
    relay("logs", "--account", "nobody", code=1)


def test_show_prints_the_sum_behind_a_cost(relay: Command, database_url: str) -> None:
    call, free = ended(1), ended(2, price_id=0)
    fill(database_url, call, free)
    row = json.loads(relay("logs", "show", name_of(call), "--json").stdout)
    assert row["cost_usd"] == "0.0003036"
    assert row["receipt"] == ("1,100 x $0.15/M + 100 x $0.075/M + 345 x $0.6/M, x 0.8 = $0.0003036")
    assert row["group_multiplier"] == "0.8"
    assert row["started"] < row["time"]
    assert json.loads(relay("logs", "show", name_of(free), "--json").stdout)["receipt"] is None
    assert "= $0.0003036" in relay("logs", "show", name_of(call)).stdout
    relay("logs", "show", "req_0", code=1)
    relay("logs", "show", f"req_{'0' * 32}", code=1)


def test_show_prints_each_channel_that_was_asked(relay: Command, database_url: str) -> None:
    lost = (
        FailedTry(1, "cut", 0, 900_500, 40_000),
        FailedTry(1, "server error", 503, 500, 900_000),
    )
    moved, good = ended(1, attempts=3, tries=lost), ended(2)
    failed = ended(3, attempts=2, tries=lost, reason="upstream_failed", status=502)
    fill(database_url, moved, good, failed)
    fields = ("channel", "outcome", "status", "asked_ms", "took_ms")
    tries = [
        ("openai-a", "server error", 503, 0.5, 900.0),
        ("openai-a", "cut", None, 900.5, 40.0),
        ("openai-a", "completed", 200, None, None),
    ]
    for call, wanted in ((moved, tries), (good, tries[2:]), (failed, tries[:2])):
        shown = json.loads(relay("logs", "show", name_of(call), "--json").stdout)["tries"]
        assert shown == [dict(zip(fields, one, strict=True)) for one in wanted]
    table = relay("logs", "show", name_of(moved)).stdout.partition("\n\n")[2].splitlines()
    assert table[0].split() == ["channel", "outcome", "status", "asked", "ms", "took", "ms"]
    assert len(table) == 4
    assert "server error" in table[1]


def test_usage_prints_a_line_a_span(relay: Command, database_url: str) -> None:
    fill(database_url, ended(1), ended(2))
    for unit in ("minute", "hour", "day"):
        lines = relay("usage", "--by", unit, "--account", "acme", "--json").stdout.splitlines()
        assert sum(json.loads(line)["requests"] for line in lines) == 2
    assert "requests" in relay("usage", "--by", "day").stdout.splitlines()[0]
    assert "no usage since" in relay("usage", "--model", "other").stderr
    relay("usage", "--by", "year", code=2)


def test_a_months_bill_by_model_is_csv(relay: Command, database_url: str) -> None:
    month = f"{datetime.datetime.now(datetime.UTC):%Y-%m}"
    head, *lines = relay("usage", "--month", month, "--by", "model", "--csv").stdout.splitlines()
    assert head.startswith("model,requests,input_tokens") and head.endswith(",cost_usd")
    whole = relay("usage", "--month", month, "--by", "model", "--json").stdout.splitlines()
    assert len(lines) == len(whole)
    assert relay("usage", "--month", "2001-01", "--by", "model", "--csv").stdout == f"{head}\n"
    relay("usage", "--month", month, "--since", "1d", code=2)
    relay("usage", "--month", "soon", code=2)
    relay("usage", "--csv", "--json", code=2)
