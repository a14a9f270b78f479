"""Goal: each filter finds its calls and no others, page by page; totals and exports say the same.

Method: some thousands of random calls of two accounts over 30 days, written as the shipper writes
them; every filter and pair of filters against a plain Python filter of the same calls.
"""

import csv
import datetime
import io
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from relay.records import CallEnd
from relay.store.log.writer import Mark, Part, write_batch
from relay.units import format_usd
from tests.console.console_rig import Browser, ConsoleRig, opening
from tests.live.journals import make_end, make_start

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

CALLS = 3_000
DAYS = 30
MODELS = ("fast", "slow", "=cmd|' /C calc'!A0")
CODES = {200: "", 429: "rate_limit_exceeded", 502: "upstream_error", 404: "model_not_found"}

Test = Callable[[CallEnd], bool]


@pytest.fixture(scope="module")
def ends() -> list[CallEnd]:
    dice = random.Random(3)
    now_us = datetime.datetime.now(datetime.UTC).timestamp() * 1e6
    made = []
    for number in range(CALLS):
        status = dice.choice([200] * 60 + [429, 502, 404])
        start = make_start(
            request_id=(number + 1).to_bytes(16, "big"),
            account_id=dice.choice([1, 1, 1, 2]),
            key_id=dice.choice([1] * 20 + [2]),
            line_id=0 if status == 404 else dice.choice([1] * 40 + [2]),
            model=dice.choice([MODELS[0]] * 50 + [MODELS[1]] * 5 + [MODELS[2]]),
            ip=f"203.0.113.{dice.choice([1] * 30 + [2, 3])}",
        )
        made.append(
            make_end(
                start,
                time_us=int(now_us - dice.random() ** 2 * DAYS * 86_400e6) - 60_000_000,
                status=status,
                reason="completed" if status == 200 else "rejected",
                error_code=CODES[status],
                total_us=int(dice.lognormvariate(14, 1)) * dice.choice([1] * 99 + [1_000]),
                cost_nanos=int(dice.lognormvariate(14, 2)),
                ttft_us=1_000,
                price_id=0,
            )
        )
    return made


@pytest.fixture
async def browser(database_url: str, tmp_path: Path, ends: list[CallEnd]) -> AsyncIterator[Browser]:
    async with opening(database_url, tmp_path) as console:
        await add_names(console)
        for at in range(0, CALLS, 500):
            part = Part("w", Mark(1, at + 1), ends[at : at + 500])
            await write_batch(console.connection, [part])
        yield await console.sign_in("ann@acme.example", "acme", "owner")


async def add_names(console: ConsoleRig) -> None:
    for name in ("acme", "other"):
        await console.add_account(name)
    for line in ("town", "farm"):
        await console.connection.execute("INSERT INTO lines (name) VALUES ($1)", line)
    for name in ("ci", "laptop"):
        await console.connection.execute(
            """INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4)
            VALUES (1, $1, $2, '', '', $3)""",
            name,
            name.encode().ljust(32, b"."),
            name[:2] + "99",
        )


def expected(ends: list[CallEnd], *tests: Test) -> list[str]:
    """Return the ids of the account's calls that pass, newest first."""
    found = [end for end in ends if end.account_id == 1 and all(test(end) for test in tests)]
    found.sort(key=lambda end: (end.time_us, end.request_id), reverse=True)
    return [f"req_{end.request_id.hex()}" for end in found]


FILTERS: dict[str, Test] = {
    "key=2": lambda end: end.key_id == 2,
    "key=laptop": lambda end: end.key_id == 2,
    "model=slow": lambda end: end.model == "slow",
    "model=fast": lambda end: end.model == "fast",
    "line=farm": lambda end: end.line_id == 2,
    "status=5xx": lambda end: end.status >= 500,
    "status=429": lambda end: end.status == 429,
    "status=200": lambda end: end.status == 200,
    "code=model_not_found": lambda end: end.error_code == "model_not_found",
    "ip=203.0.113.2": lambda end: end.ip == "203.0.113.2",
    "ip=203.0.113.2%2F31": lambda end: end.ip in {"203.0.113.2", "203.0.113.3"},
    "min_ms=5000": lambda end: end.total_us >= 5_000_000,
    "min_ms=600000": lambda end: end.total_us >= 600_000_000,
    "min_usd=0.05": lambda end: end.cost_nanos >= 50_000_000,
    "since=2d": lambda end: True,
}


async def collect(browser: Browser, query: str, limit: int) -> list[str]:
    """Return the ids of all pages."""
    found: list[str] = []
    cursor = ""
    while True:
        page = await browser.get(f"/account/v1/logs?{query}&limit={limit}&cursor={cursor}")
        assert len(page["logs"]) <= limit
        found += [row["request_id"] for row in page["logs"]]
        if page["next"] is None:
            return found
        cursor = page["next"]


async def test_each_filter_finds_its_calls(browser: Browser, ends: list[CallEnd]) -> None:
    for query, test in FILTERS.items():
        if query == "since=2d":
            continue
        for limit in (20, 700):
            assert await collect(browser, f"since=31d&{query}", limit) == expected(ends, test)


async def test_pairs_of_filters_find_their_calls(browser: Browser, ends: list[CallEnd]) -> None:
    names = list(FILTERS)
    for at, first in enumerate(names[:-1]):
        for second in names[at + 1 : -1]:
            if first.partition("=")[0] != second.partition("=")[0]:
                found = await collect(browser, f"since=31d&{first}&{second}", 40)
                assert found == expected(ends, FILTERS[first], FILTERS[second]), (first, second)


async def test_an_id_finds_its_call(browser: Browser, ends: list[CallEnd]) -> None:
    mine = next(end for end in ends if end.account_id == 1)
    theirs = next(end for end in ends if end.account_id == 2)
    name = f"req_{mine.request_id.hex()}"
    assert await collect(browser, f"since=31d&id={name}", 10) == [name]
    assert await collect(browser, f"since=31d&id=req_{theirs.request_id.hex()}", 10) == []


async def test_totals_are_those_of_the_calls(browser: Browser, ends: list[CallEnd]) -> None:
    for query in ("key=2", "model=slow", "line=farm", "status=5xx", "status=200", "status=429"):
        found = await browser.get(f"/account/v1/usage?by=day&since=31d&{query}")
        calls = [end for end in ends if end.account_id == 1 and FILTERS[query](end)]
        if query.startswith("model"):  # sums know no model where no line was found
            calls = [end for end in calls if end.line_id]
        assert sum(row["requests"] for row in found["usage"]) == len(calls), query
    for group in ("model", "key", "line", "status"):
        found = await browser.get(f"/account/v1/usage?by=day&since=31d&group={group}")
        mine = [end for end in ends if end.account_id == 1]
        assert sum(row["requests"] for row in found["usage"]) == len(mine)
        cost = sum(int(float(row["cost_usd"]) * 1e9 + 0.5) for row in found["usage"])
        assert abs(cost - sum(end.cost_nanos for end in mine)) <= len(found["usage"])
    statuses = await browser.get("/account/v1/usage?by=day&since=31d&group=status")
    assert {row["group"] for row in statuses["usage"]} == {"200", "404", "429", "502"}


async def test_an_export_has_every_call_and_no_formula(
    browser: Browser, ends: list[CallEnd]
) -> None:
    wanted = expected(ends)
    _, text, _ = await browser.ask("GET", "/account/v1/logs/export?since=31d&format=csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["request_id"] for row in rows] == wanted
    assert {row["model"] for row in rows} == {"fast", "slow", "'" + MODELS[2]}
    _, text, _ = await browser.ask("GET", "/account/v1/logs/export?since=31d&format=ndjson")
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert [line["request_id"] for line in lines] == wanted
    assert {line["model"] for line in lines} == set(MODELS)
    by_id = {f"req_{end.request_id.hex()}": end for end in ends}
    for line, row in zip(lines, rows, strict=True):
        end = by_id[line["request_id"]]
        assert line["cost_usd"] == row["cost_usd"] == format_usd(end.cost_nanos)
        assert line["total_ms"] == end.total_us / 1000
    _, text, _ = await browser.ask("GET", "/account/v1/logs/export?since=31d&status=429")
    assert len(text.splitlines()) - 1 == len(expected(ends, FILTERS["status=429"]))


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "cursor=nonsense",
        "cursor=WzEsMl0",
        "ip=here",
        "id=1",
        "min_usd=x",
        "status=xx",
        "limit=0",
        "limit=2000",
        "unknown=1",
        "min_ms=-1",
    ],
)
async def test_what_cannot_be_is_said(console_alone: Browser, query: str) -> None:
    found = await console_alone.get(f"/account/v1/logs?{query}", status=400)
    assert found["error"].keys() == {"message", "type", "code"}


@pytest.fixture
async def console_alone(database_url: str, tmp_path: Path) -> AsyncIterator[Browser]:
    async with opening(database_url, tmp_path) as console:
        await console.add_account("acme")
        yield await console.sign_in("ann@acme.example", "acme", "owner")
