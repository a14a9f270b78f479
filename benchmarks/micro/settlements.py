"""`relay bench settlements`: how many a minute go through journal and shipper into Postgres.

A whole relay runs (its own Postgres and Valkey, one worker) and answers light load from a scripted
upstream. Beside its worker this process writes a journal of its own, START and END of each call, at
the asked rate, for accounts that are in the catalog; the relay's shipper finds it like any other.
Told are the rows that reached Postgres while it wrote, how far the shipper fell behind, how long it
took until the last row was in, the CPU seconds of who did the work, and what the relay's own calls
took meanwhile. In the end `relay audit` must find no drift. With `--backlog` everything is written
at once before the clock starts: the rate at which an outage is caught up with.
"""

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import click
import msgspec

from relay.config import Config, JournalConfig
from relay.records import CallEnd, CallStart
from relay.store.embedded.locate import database_url
from relay.store.log.journal import Journal

RELAY: Final = str(Path(sys.executable).with_name("relay"))
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
PATIENCE_S: Final = 120.0
TICK_S: Final = 0.01
CALL_PAUSE_S: Final = 0.02
"""Of the relay's own light load: some 40 calls a second, one after the other."""
PROMPT_TOKENS, OUTPUT_TOKENS, COST_NANOS = 1200, 340, 384_000
"""At 0.15 and 0.60 USD per 1M tokens."""
ACCOUNT: Final = """
[[account]]
name = "bench-{number}"
group = "demo"
credit_limit = "1000000"
"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down. `backlog`: all of it at once, before the clock starts."""

    per_minute: int
    seconds: float
    accounts: int
    backlog: bool


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Run a relay with its demonstration; give address, admin address and key."""
    words = folder / "words"
    command = [RELAY, "serve", "--demo", "--data-dir", str(folder / "var"), "--workers", "1"]
    listening = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--console", ""]
    with words.open("wb") as out:
        environ = {**os.environ, "RELAY_LOG": "json"}
        process = subprocess.Popen([*command, *listening], stdout=out, stderr=out, env=environ)
    try:
        until_s = time.monotonic() + PATIENCE_S
        while "api_key=" not in words.read_text():
            if process.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError(words.read_text())
            time.sleep(0.1)
        said = words.read_text()
        found = [
            re.search(pattern, said, re.MULTILINE)
            for pattern in (r"http://(\S+)/v1$", r"^admin +http://(\S+) ", r"Bearer (\S+)'")
        ]
        address, admin, key = (one[1] if one else "" for one in found)
        yield address, admin, key
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def cpu_s(folder: Path) -> dict[str, float]:
    """Return CPU seconds, user and system, of what runs on a data dir, by kind of process."""
    used: dict[str, float] = {}
    kinds: dict[int, str] = {}
    for line in (folder / "words").read_text().splitlines():
        said = json.loads(line) if line.startswith("{") else {}
        if "child" in said and "pid" in said:
            kinds[said["pid"]] = said["child"]
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            head, _, tail = Path(entry.path, "stat").read_text().rpartition(")")
            fields = tail.split()
            program = head.partition("(")[2]
            kind = kinds.get(int(entry.name), program if program == "postgres" else "")
            if kind:
                used[kind] = used.get(kind, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return used


class Writer:
    """A journal of calls that were never made, at a steady rate."""

    def __init__(self, directory: Path, places: list[tuple[int, int]], price_id: int) -> None:
        # A burst of a backlog is larger than what a worker may hold unsynced.
        config = JournalConfig(unsynced_records_max=10_000_000)
        self.journal = Journal(directory, "bench", config)
        self._places = itertools.cycle(places)
        self._price_id = price_id
        self._low = int.from_bytes(os.urandom(6), "big") << 24
        self.written = 0

    def write(self) -> None:
        """Write one call down, its start and its end."""
        time_us = time.time_ns() // 1000
        self._low += 1
        number = (time_us // 1000) << 80 | 0x7 << 76 | 0x2 << 62 | self._low & (2**62 - 1)
        request_id = number.to_bytes(16, "big")
        account_id, key_id = next(self._places)
        path, model = "chat/completions", "demo-model"
        who = (request_id, time_us, account_id, key_id, "203.0.113.7", path, model, 1, True)
        self.journal.start(CallStart(*who, PROMPT_TOKENS))
        tokens = (PROMPT_TOKENS, 0, 0, OUTPUT_TOKENS, 0, False)
        money = (COST_NANOS, self._price_id, 1_000_000, 1_000_000, "")
        self.journal.end(CallEnd(*who, 1, model, 200, "completed", *tokens, 90_000, 0, 1, *money))
        self.written += 1

    async def write_steadily(self, per_second: float, seconds: float) -> None:
        """Write at a rate, in bursts of a hundredth of a second."""
        begun_s = time.monotonic()
        while (passed_s := time.monotonic() - begun_s) < seconds:
            while self.written < passed_s * per_second:
                self.write()
            await asyncio.sleep(TICK_S)


class Observer:
    """Counts the rows in Postgres while they come."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self.behind_max = 0

    async def rows(self) -> int:
        """Return how many settlements of the benchmark's there are."""
        count = await self._connection.fetchval(
            """SELECT coalesce(sum(requests), 0)::bigint FROM usage_minutes
            JOIN accounts ON accounts.id = account_id WHERE accounts.name LIKE 'bench-%'"""
        )
        return int(count)

    async def watch(self, writer: Writer) -> None:
        """Note how far the rows are behind the writer, until cancelled."""
        while True:
            written = writer.written
            self.behind_max = max(self.behind_max, written - await self.rows())
            await asyncio.sleep(0.25)

    async def until(self, count: int) -> None:
        """Wait until so many are in."""
        async with asyncio.timeout(PATIENCE_S * 5):
            while await self.rows() < count:  # noqa: ASYNC110 - another process writes them
                await asyncio.sleep(0.1)


def call_once(address: str, key: str) -> float:
    """Make a call of the relay; return its seconds."""
    body = {"model": "demo-model", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(
        f"http://{address}/v1/chat/completions", json.dumps(body).encode(), headers
    )
    begun_s = time.perf_counter()
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
    return time.perf_counter() - begun_s


async def call_forever(address: str, key: str, took_s: list[float]) -> None:
    """Make one call after the other, with a pause between."""
    while True:
        took_s.append(await asyncio.to_thread(call_once, address, key))
        await asyncio.sleep(CALL_PAUSE_S)


async def prepare(folder: Path, accounts: int) -> tuple[list[tuple[int, int]], int]:
    """Declare accounts with a key each; return their (account, key) ids, and the price's."""
    catalog = folder / "bench.toml"
    catalog.write_text("".join(ACCOUNT.format(number=number) for number in range(accounts)))
    here = ["--data-dir", str(folder / "var")]
    done = [RELAY, "apply", str(catalog), *here]
    await asyncio.to_thread(subprocess.run, done, check=True, capture_output=True)
    for number in range(accounts):
        made = [RELAY, "key", "create", "--account", f"bench-{number}", "--json", *here]
        await asyncio.to_thread(subprocess.run, made, check=True, capture_output=True)
    connection = await asyncpg.connect(database_url(Config(), folder / "var"))
    try:
        places = await connection.fetch(
            """SELECT account_id, keys.id FROM keys JOIN accounts ON accounts.id = account_id
            WHERE accounts.name LIKE 'bench-%'"""
        )
        price_id = await connection.fetchval("SELECT id FROM prices WHERE model = 'demo-model'")
    finally:
        await connection.close()
    return [(row[0], row[1]) for row in places], int(price_id)


async def run(folder: Path, options: Options) -> dict[str, Any]:
    """Measure once; return what was found."""
    with serving(folder) as (address, _, key):
        places, price_id = await prepare(folder, options.accounts)
        writer = Writer(folder / "var" / "journal", places, price_id)
        connection = await asyncpg.connect(database_url(Config(), folder / "var"))
        observer, took_s = Observer(connection), list[float]()
        writer.journal.open()
        load = asyncio.create_task(call_forever(address, key, took_s))
        before, begun_s = cpu_s(folder), time.monotonic()
        if options.backlog:
            for _ in range(round(options.per_minute / 60 * options.seconds)):
                writer.write()
        else:
            lag = asyncio.create_task(observer.watch(writer))
            await writer.write_steadily(options.per_minute / 60, options.seconds)
            lag.cancel()
        written_s, in_time = time.monotonic() - begun_s, await observer.rows()
        await observer.until(writer.written)
        all_s, after = time.monotonic() - begun_s, cpu_s(folder)
        load.cancel()
        await writer.journal.close()
        await connection.close()
        audit = [RELAY, "audit", "--json", "--data-dir", str(folder / "var")]
        audited = await asyncio.to_thread(subprocess.run, audit, capture_output=True)
    took_s.sort()
    return {
        "written": writer.written,
        "written_s": round(written_s, 2),
        "rows_when_writing_ended": in_time,
        "rows_behind_max": observer.behind_max,
        "all_in_postgres_s": round(all_s, 2),
        "settled_per_minute": round(writer.written / all_s * 60),
        "cpu_s": {kind: round(after[kind] - before.get(kind, 0.0), 2) for kind in after},
        "calls": len(took_s),
        "call_ms": {
            name: round(1e3 * took_s[len(took_s) * part // 100], 2) if took_s else None
            for name, part in (("p50", 50), ("p99", 99))
        },
        "audit": "no drift" if audited.returncode == 0 else audited.stdout.decode()[-500:],
    }


@click.command()
@click.option("--per-minute", type=click.IntRange(1, 10**7), default=100_000, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=60.0, show_default=True)
@click.option("--accounts", type=click.IntRange(1, 1_000), default=20, show_default=True)
@click.option("--backlog", is_flag=True, help="Write all of it at once.")
def command(**given: Any) -> None:
    """Measure how many settlements a minute reach Postgres while the relay answers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the database runs as another user
        found = asyncio.run(run(folder, Options(**given)))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
