"""`relay bench rows`: CPU of Postgres and of the shipper for a row of the request log.

A process of its own writes a journal, START and END of each call, at a steady rate; a shipper in
this process carries them into the relay's own Postgres, durable as in service. Told is the CPU
time, user and system, of this process and of all of Postgres' processes (checkpoints, its log and
its vacuum among them), for each row. With `--leases` a worker beside it asks for credit of the same
accounts all the time, and told is how long it waited. In the end the audit must find no drift.
"""

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import uvloop

from relay.billing.shapes import CreditRequest
from relay.config import JournalConfig
from relay.control.shipper import Shipper
from relay.records import CallEnd, CallStart
from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.billing.credit_leases import lease
from relay.store.embedded.embedded import Embedded
from relay.store.log.journal import Journal
from relay.store.migrate import migrate
from relay.store.postgres import Connection

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
TICK_S: Final = 0.005
WARM_S: Final = 2.0
"""Plans are made and pages are found before the clock starts."""
LEASE_PAUSE_S: Final = 0.02
MODELS: Final = tuple(f"model-{number}" for number in range(5))
PROMPT_TOKENS, OUTPUT_TOKENS, COST_NANOS = 1200, 340, 384_000
"""At 0.15 and 0.60 USD per 1M tokens."""
_CATALOG: Final = """
    INSERT INTO groups (name) VALUES ('bench');
    INSERT INTO accounts (name, group_id, credit_limit_nanos)
        SELECT 'bench-' || n, 1, 10^15 FROM generate_series(1, {accounts}) AS n;
    INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4)
        SELECT 1 + n % {accounts}, 'key-' || n, sha256(n::text::bytea), 'p', 'sk', 'abcd'
        FROM generate_series(0, {keys} - 1) AS n;
    INSERT INTO lines (name) VALUES ('bench');
    INSERT INTO channels (name, base_url, models)
        VALUES ('bench', 'https://api.example.com/v1', '{{"m": "m"}}');
    INSERT INTO prices (model, input, output, cached_input)
        VALUES ('m', 150000000, 600000000, 75000000)"""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down, and how it is shipped. `rate`: calls a second."""

    rate: float
    seconds: float
    accounts: int
    keys: int
    poll_ms: int
    rows_max: int
    leases: bool


class Writer:
    """A journal of calls that were never made, at a steady rate."""

    def __init__(self, directory: Path, places: list[tuple[int, int]]) -> None:
        self.journal = Journal(directory, "bench", JournalConfig(reserve_bytes=0))
        calls = itertools.product(places, MODELS)
        self._calls = itertools.cycle([(*place, model) for place, model in calls])
        self._low = int.from_bytes(os.urandom(6), "big") << 24
        self.written = 0

    def write(self) -> None:
        """Write one call down, its start and its end."""
        time_us = time.time_ns() // 1000
        self._low += 1
        number = (time_us // 1000) << 80 | 0x7 << 76 | 0x2 << 62 | self._low & (2**62 - 1)
        account_id, key_id, model = next(self._calls)
        ip = f"203.0.113.{key_id % 250}"
        who = (number.to_bytes(16, "big"), time_us, account_id, key_id, ip)
        what = ("chat/completions", model, 1, False)
        self.journal.start(CallStart(*who, *what, PROMPT_TOKENS))
        self.journal.end(
            CallEnd(
                *who,
                *what,
                channel_id=1,
                served_model=model,
                status=200,
                reason="completed",
                input_tokens=PROMPT_TOKENS,
                cached_tokens=0,
                cache_write_tokens=0,
                output_tokens=OUTPUT_TOKENS,
                reasoning_tokens=0,
                estimated=False,
                ttft_us=90_000 + number % 977,
                total_us=91_000 + number % 983,
                attempts=1,
                cost_nanos=COST_NANOS,
                price_id=1,
                group_multiplier_ppm=1_000_000,
                model_multiplier_ppm=1_000_000,
                error_code="",
            )
        )
        self.written += 1

    async def write_steadily(self, per_second: float, seconds: float) -> None:
        """Write at a rate, in small bursts."""
        begun_s = time.monotonic()
        while (passed_s := time.monotonic() - begun_s) < seconds:
            while self.written < passed_s * per_second:
                self.write()
            await asyncio.sleep(TICK_S)


class Waits(msgspec.Struct, frozen=True):
    """How long leases took, in milliseconds."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


async def ask_forever(url: str, account_ids: list[int], took_s: list[float]) -> None:
    """Ask for credit of all accounts again and again, noting how long each answer took."""
    connection = await postgres.connect(url)
    try:
        while True:
            begun_s = time.perf_counter()
            asks = [CreditRequest(account_id, 1, 1_000) for account_id in account_ids]
            await lease(connection, "asker-0123456789abcdef", asks, ttl_s=60)
            took_s.append(time.perf_counter() - begun_s)
            await asyncio.sleep(LEASE_PAUSE_S)
    finally:
        connection.terminate()


async def work(options: Options, url: str, directory: Path) -> list[float]:
    """Be the worker; return how many seconds each lease took."""
    account_ids = list(range(1, options.accounts + 1))
    places = [(1 + number % options.accounts, number + 1) for number in range(options.keys)]
    writer, took_s = Writer(directory, places), list[float]()
    asking = asyncio.create_task(ask_forever(url, account_ids, took_s)) if options.leases else None
    writer.journal.open()
    await writer.write_steadily(options.rate, options.seconds + 2 * WARM_S)
    await writer.journal.close()
    if asking is not None:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
    return took_s


def run_worker(options: Options, url: str, directory: Path, told: "Queue[list[float]]") -> None:
    """Be the worker's process."""
    told.put(uvloop.run(work(options, url, directory)))


def list_family(root: int) -> Iterator[int]:
    """Yield a process and its children, theirs too."""
    parents: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int(read_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    while found:
        pid = found.pop()
        yield pid
        found += parents.get(pid, [])


def read_stat(pid: int) -> list[str]:
    """Return the fields of a process behind its name: state first, its parent second."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def postgres_cpu_s(root: int) -> float:
    """Return the CPU seconds of all of Postgres, those of its processes that ended included."""
    ticks = 0
    for pid in list_family(root):
        with contextlib.suppress(OSError):
            fields = read_stat(pid)
            last = 15 if pid == root else 13  # only the root's children end
            ticks += sum(map(int, fields[11:last]))
    return ticks / TICKS_PER_S


class CountingShipper(Shipper):
    """A shipper whose transactions are counted."""

    batches = 0

    async def ship_once(self) -> int:
        """Ship as it does by itself."""
        rows = await super().ship_once()
        self.batches += rows > 0
        return rows


def summarize(took_s: list[float]) -> Waits:
    """Return the waits as figures."""
    took_ms = sorted(1e3 * each for each in took_s)
    picked = (took_ms[len(took_ms) * part // 1000] for part in (500, 990))
    return Waits(len(took_ms), *(round(each, 1) for each in (*picked, took_ms[-1])))


async def measure(options: Options, folder: Path, url: str, root: int) -> dict[str, Any]:
    """Ship for a while; return the CPU of it for each row."""
    config = JournalConfig(ship_poll_ms=options.poll_ms, ship_rows_max=options.rows_max)
    shipper = CountingShipper(folder / "journal", partial(postgres.connect, url), config)
    (folder / "journal").mkdir()
    spawn = multiprocessing.get_context("spawn")
    told: Queue[list[float]] = spawn.Queue()
    worker = spawn.Process(target=run_worker, args=(options, url, folder / "journal", told))
    worker.start()
    shipping = asyncio.create_task(shipper.run())
    while not shipper.rows_shipped:  # noqa: ASYNC110 - another process writes them
        await asyncio.sleep(0.1)
    await asyncio.sleep(WARM_S)
    rows, count = shipper.rows_shipped, shipper.batches
    own_s, theirs_s = time.process_time(), postgres_cpu_s(root)
    await asyncio.sleep(options.seconds)
    own_s, theirs_s = time.process_time() - own_s, postgres_cpu_s(root) - theirs_s
    rows, count = shipper.rows_shipped - rows, shipper.batches - count
    took_s = await asyncio.to_thread(told.get)
    await asyncio.to_thread(worker.join)
    while shipper.journals:  # noqa: ASYNC110 - until its journal is closed
        await asyncio.sleep(0.1)
    shipping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await shipping
    return {
        "rows": rows,
        "rows_per_batch": round(rows / count),
        "control_us_per_row": round(1e6 * own_s / rows, 1),
        "postgres_us_per_row": round(1e6 * theirs_s / rows, 1),
        "us_per_row": round(1e6 * (own_s + theirs_s) / rows, 1),
        "leases": msgspec.to_builtins(summarize(took_s)) if took_s else None,
    }


async def check(connection: Connection) -> str:
    """Return what the audit says."""
    audit = await run_audit(connection)
    return str(audit.drifts) if audit.drifts else f"no drift in {audit.charges} charges"


async def run(options: Options, folder: Path) -> dict[str, Any]:
    """Measure once; return what was found."""
    embedded = Embedded(folder / "var", valkey=False)
    await embedded.start()
    try:
        root = next(pid for pid in list_family(os.getpid()) if is_postgres(pid))
        connection = await postgres.connect(embedded.database_url)
        await migrate(connection)
        await connection.execute(_CATALOG.format(accounts=options.accounts, keys=options.keys))
        found = await measure(options, folder, embedded.database_url, root)
        found["bytes_per_row"] = await connection.fetchval(
            "SELECT pg_database_size(current_database()) / (SELECT count(*) FROM request_log)"
        )
        found["audit"] = await check(connection)
        await connection.close()
    finally:
        await embedded.stop()
    return found


def is_postgres(pid: int) -> bool:
    """Return whether a process is Postgres' first, as far as its name tells."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
    return False


_DEFAULTS: Final = JournalConfig()


@click.command()
@click.option("--rate", type=click.FloatRange(1, 1e6), default=5_000.0, help="Calls a second.")
@click.option("--seconds", type=click.FloatRange(0.1, 86_400), default=20.0, show_default=True)
@click.option("--accounts", type=click.IntRange(1, 10_000), default=3, show_default=True)
@click.option("--keys", type=click.IntRange(1, 100_000), default=12, show_default=True)
@click.option("--poll-ms", type=click.IntRange(1), default=_DEFAULTS.ship_poll_ms)
@click.option("--rows-max", type=click.IntRange(1), default=_DEFAULTS.ship_rows_max)
@click.option("--leases", is_flag=True, help="Ask for credit of the same accounts meanwhile.")
def command(**given: Any) -> None:
    """Measure what a row of the request log costs the shipper and Postgres."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the database runs as another user
        found = uvloop.run(run(Options(**given), folder))
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
