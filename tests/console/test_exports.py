"""Goal: an export brings each call once, newest first, in turns of bounded cost, and gives way.

Method: calls of which many end in the same moment, written as the shipper writes them, in turns of
a few; the reader of a whole export while strangers try passwords; a clock that the test turns.
"""

import asyncio
import contextlib
import csv
import datetime
import io
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.console.pace import Pace, read_waited_s
from relay.console.queries.calls import Resolved
from relay.console.queries.export import SESSION, SPAN_MIN, TURN_S, Turns
from relay.console.queries.forms import LogQuery, to_filter
from relay.console.services import EXPORTS_MAX
from relay.console.signin.throttle import PER_ADDRESS_MAX
from relay.records import CallEnd
from relay.store.log.writer import Mark, Part, write_batch
from relay.store.postgres import Connection
from tests.console.console_rig import ConsoleRig, opening
from tests.live.journals import make_end, make_start

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

CALLS = 600
NOW = datetime.datetime(2026, 11, 30, 12, tzinfo=datetime.UTC)
NOW_US = int(NOW.timestamp() * 1e6)
DAY_US = 86_400_000_000
RANGE = "since=2026-10-30T00:00:00Z&until=2026-12-01T00:00:00Z"


def make_calls() -> list[CallEnd]:
    """A burst of a moment, an hour of calls, single ones over a month, and another account's."""
    dice = random.Random(5)
    moments = [NOW_US - 1_000_000] * 200
    moments += [NOW_US - dice.randrange(3_600_000_000) for _ in range(300)]
    moments += [NOW_US - dice.randrange(30 * DAY_US) for _ in range(CALLS - 500)]
    return [
        make_end(
            make_start(
                request_id=uuid.UUID(int=dice.getrandbits(128)).bytes,
                account_id=1 if number % 5 else 2,
                model="rare" if number % 97 == 0 else "common",
                key_id=1,
            ),
            time_us=time_us,
            price_id=0,
        )
        for number, time_us in enumerate(moments)
    ]


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        await rig.add_account("other")
        yield rig


@pytest.fixture
async def calls(console: ConsoleRig) -> list[CallEnd]:
    ends = make_calls()
    await write_batch(console.connection, [Part("w", Mark(1, 1), ends)])
    return ends


def newest_first(ends: list[CallEnd], model: str = "") -> list[str]:
    mine = [end for end in ends if end.account_id == 1 and model in ("", end.model)]
    mine.sort(key=lambda end: (end.time_us, end.request_id), reverse=True)
    return [f"req_{end.request_id.hex()}" for end in mine]


async def read_turns(connection: Connection, query: LogQuery, rows_max: int) -> list[list[str]]:
    """Return the ids that each turn brought."""
    wanted = await Resolved.of(connection, to_filter(query, 1, NOW))
    turns = Turns(wanted, "csv", rows_max)
    brought = []
    while not turns.over:
        turn = await turns.find(connection)
        if turn is not None:
            text = io.BytesIO()
            await connection.copy_from_query(
                turn.statement, *turn.values, output=text, format="csv"
            )
            brought.append([row[0] for row in csv.reader(text.getvalue().decode().splitlines())])
        turns.took(0.0)
    return brought


@pytest.mark.parametrize("rows_max", [1, 7, 200, 10_000])
@pytest.mark.parametrize("model", ["", "rare"])
async def test_turns_bring_each_call_once_and_newest_first(
    console: ConsoleRig, calls: list[CallEnd], rows_max: int, model: str
) -> None:
    query = LogQuery(since="31d", model=model)
    brought = await read_turns(console.connection, query, rows_max)
    assert [one for turn in brought for one in turn] == newest_first(calls, model)
    assert max(map(len, brought)) <= rows_max
    assert all(brought), "an empty turn is not written"


async def test_a_turn_is_found_by_an_index_and_nobody_helps(
    console: ConsoleRig, calls: list[CallEnd]
) -> None:
    for name, value in SESSION.items():
        await console.connection.execute(f"SET {name} = '{value}'")
    await console.connection.execute("SET enable_seqscan = off")  # so few rows are read at once
    wanted = await Resolved.of(console.connection, to_filter(LogQuery(since="31d"), 1, NOW))
    turns = Turns(wanted, "csv", 100)
    first = await turns.find(console.connection)
    assert first is not None
    rows = await console.connection.fetch(f"EXPLAIN {first.statement}", *first.values)
    plan = "\n".join(row[0] for row in rows)
    assert "Index Cond" in plan
    assert "Gather" not in plan


async def test_how_far_back_a_turn_looks_follows_what_it_costs(console: ConsoleRig) -> None:
    wanted = await Resolved.of(console.connection, to_filter(LogQuery(since="90d"), 1, NOW))

    async def count_turns(seconds: float) -> int:
        turns = Turns(wanted, "csv", 100)
        count = 0
        while not turns.over and count < 1_000:
            assert await turns.find(console.connection) is None
            turns.took(seconds)
            count += 1
        return count

    assert await count_turns(0.0) < 12, "an empty quarter is over in a few looks"
    assert await count_turns(5 * TURN_S) == 1_000, "where looks are slow they get shorter"
    assert SPAN_MIN.total_seconds() > 0


async def test_an_export_goes_on_while_strangers_try_passwords(
    console: ConsoleRig, calls: list[CallEnd]
) -> None:
    ann = await console.sign_in("ann@acme.example", "acme", "owner")
    over = asyncio.Event()
    statuses: list[int] = []

    async def try_passwords() -> None:
        browser = console.browser()
        while not over.is_set():
            form = {"email": f"nobody-{len(statuses)}@acme.example", "password": "a guess"}
            statuses.append((await browser.ask("POST", "/login", data=form))[0])

    strangers = [asyncio.create_task(try_passwords()) for _ in range(8)]
    while len(statuses) <= PER_ADDRESS_MAX:
        await asyncio.sleep(0.01)
    before = len(statuses)
    path = f"/account/v1/logs/export?{RANGE}"
    async with asyncio.timeout(30):
        for _ in range(5):
            _, text, _ = await ann.ask("GET", path)
            rows = [row["request_id"] for row in csv.DictReader(io.StringIO(text))]
            assert rows == newest_first(calls)
        while len(statuses) == before:
            await asyncio.sleep(0.01)
    over.set()
    await asyncio.gather(*strangers)
    assert set(statuses) == {401, 429}
    assert statuses.count(401) <= PER_ADDRESS_MAX + 5, "those that leaked away meanwhile"


async def test_a_third_export_at_once_has_to_wait(
    console: ConsoleRig, calls: list[CallEnd]
) -> None:
    ann = await console.sign_in("ann@acme.example", "acme", "owner")
    path = f"/account/v1/logs/export?{RANGE}"
    async with contextlib.AsyncExitStack() as others:
        for _ in range(EXPORTS_MAX):
            await others.enter_async_context(console.services.connect_for_export())
        status, _, headers = await ann.ask("GET", path)
        assert (status, headers["Retry-After"]) == (429, "10")
    assert (await ann.ask("GET", path))[0] == 200


async def test_a_failed_export_is_cut_off_and_not_taken_for_whole(
    console: ConsoleRig, calls: list[CallEnd]
) -> None:
    ann = await console.sign_in("ann@acme.example", "acme", "owner")
    await console.connection.execute("ALTER TABLE channels RENAME TO hidden")
    try:
        with pytest.raises(Exception, match=r"(?i)payload|disconnect|closed|reset"):
            await ann.ask("GET", f"/account/v1/logs/export?{RANGE}")
    finally:
        await console.connection.execute("ALTER TABLE hidden RENAME TO channels")


def test_who_waits_for_the_processor_rests() -> None:
    now_s = waited_s = 0.0
    pace = Pace(lambda: now_s, lambda: waited_s)
    now_s = 0.2
    assert pace.worked_s() == pytest.approx(0.2)
    assert pace.rest_s(0.0) == 0.0
    assert pace.rest_s(0.3) == pytest.approx(0.1), "it is no faster than it needs to be"
    pace.begin()
    now_s, waited_s = 0.4, 0.01
    assert pace.rest_s(0.0) == pytest.approx(0.1)
    assert pace.rest_s(0.25) == pytest.approx(0.1)
    pace.begin()
    now_s, waited_s = 0.6, 0.2
    assert pace.rest_s(0.0) == pytest.approx(0.2), "never longer than it worked"


def test_how_long_a_thread_has_waited_is_read_where_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "schedstat"
    file.write_text("1500000000 2500000000 12\n")
    assert read_waited_s(file) == 2.5
    file.write_text("what?\n")
    assert read_waited_s(file) == 0.0
    assert read_waited_s(tmp_path / "none") == 0.0
    assert read_waited_s() >= 0.0
