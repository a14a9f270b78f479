"""What callers feel of a busy console: exports of millions of calls, and a flood of log-ins.

    python -m benchmarks.busy_console URL [--rate 100] [--seconds 20] [--rounds 3] [--json]

URL is a database that `benchmarks.fill_log` filled; a whole relay serves on it, over a scripted
upstream. The same load is put on it alone, and again while account "acme" exports all its calls
over and over and strangers try passwords: half of them from one address, half from another one
with each try. Told are the p99 of both, medians of the rounds; how old the newest row of the
request log became; how fast the export went, and how fast it goes when nothing else does; and how
many tries were checked and how many refused.

Strangers and the reader of the export are elsewhere in truth: here they are a process that takes
the processor from nobody (SCHED_IDLE), and has what is left of the machine.

Where load, upstream and relay share few cores (two threads of one, often), a call is slower
whenever they are busy, whoever keeps them so. Two controls tell that apart from the console's part:
the same load beside processes that only count and take the processor from nobody, a core each; and
the upstream asked directly, with no relay between, alone and beside the same exports and log-ins.
What the console costs callers is what its work adds beyond both.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import click
import msgspec
from msgspec.structs import replace

from benchmarks.export_log import ACCOUNT_ID, read_export
from benchmarks.scenarios.measure import Bench, measure
from benchmarks.scenarios.url import UrlLoad, make_job
from benchmarks.targets.place import KEY, MODEL, Place, Server
from benchmarks.targets.processes import counting
from benchmarks.targets.relay_server import start_relay
from benchmarks.targets.upstream import Script, start_upstream
from relay.config import Config, Database
from relay.console.services import Services
from relay.console.signin.management import make_key

CALLERS: Final = 8
"""Strangers that try passwords, one after the other each."""
LOOK_S: Final = 0.1
OLD_S_MAX: Final = 1.0
GROWTH_MAX: Final = 0.10
EXPORT_SHARE_MIN: Final = 0.5
"""How fast an export has to be beside all else, by how fast it is alone."""
_ARMS: Final = ("alone", "beside", "beside_counting", "direct_alone", "direct_beside")
_NEWEST: Final = """
    SELECT extract(epoch FROM clock_timestamp() - max(ended_at)) FROM request_log
    WHERE ended_at > $1"""
_KEY: Final = """
    INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4)
    VALUES (1, $1, decode(md5($1) || md5($2), 'hex'), $2, '', '0000')"""


class Heard(msgspec.Struct):
    """What a noise came to."""

    seconds: float = 0.0
    rows: int = 0
    tries: dict[int, int] = {}
    """Status -> how many tries to sign in it answered."""
    oldest_s: float = 0.0
    failed: str = ""

    @property
    def rows_per_s(self) -> float:
        """How fast the export went."""
        return self.rows / self.seconds if self.seconds else 0.0


class Plan(msgspec.Struct, frozen=True):
    """Which noise to make.

    `base`: the console's address. `key`: a management key of the account that is exported. `url`:
    the database. `callers`: how many try to sign in.
    """

    base: str
    key: str
    url: str
    exports: bool = False
    callers: int = 0


class Noise:
    """An export that begins anew whenever it ends, log-ins, and a look at the newest row."""

    def __init__(self, plan: Plan) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_make_noise, args=(theirs, plan), daemon=True
        )
        self._process.start()
        self._ours.recv()

    def stop(self) -> Heard:
        """Make no more of it."""
        self._ours.send("stop")
        heard: Heard = self._ours.recv()
        self._process.join()
        assert not heard.failed, heard.failed
        return heard


def _make_noise(pipe: Pipe, plan: Plan) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    asyncio.run(_Noise(plan).run(pipe))


class _Noise:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows = 0
        self._tries: Counter[int] = Counter()
        self._numbers = itertools.count()
        self._oldest_s = 0.0

    async def run(self, pipe: Pipe) -> None:
        strangers = itertools.cycle([self._try_from_here, self._try_from_anywhere])
        works: list[Callable[[], Any]] = [
            self._look,
            *[self._export] * self._plan.exports,
            *itertools.islice(strangers, self._plan.callers),
        ]
        tasks = [asyncio.ensure_future(work()) for work in works]
        pipe.send("begun")
        began_s = time.monotonic()
        await asyncio.to_thread(pipe.recv)
        seconds = time.monotonic() - began_s
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        failed = [repr(end) for end in ends if not isinstance(end, asyncio.CancelledError)]
        pipe.send(Heard(seconds, self._rows, dict(self._tries), self._oldest_s, "; ".join(failed)))

    async def _export(self) -> None:
        while True:
            found = await read_export(self._plan.base, self._plan.key, "csv", "90d", self._count)
            assert found["rows"], "there was nothing to export"

    def _count(self, lines: int) -> None:
        self._rows += lines

    async def _try_from_here(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                await self._try(session)

    async def _try_from_anywhere(self) -> None:
        """Try from an address of its own each time: all of 127.0.0.0/8 is this host's."""
        while True:
            number = next(self._numbers)
            address = f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
            connector = aiohttp.TCPConnector(local_addr=(address, 0))
            async with aiohttp.ClientSession(connector=connector) as session:
                await self._try(session)

    async def _try(self, session: aiohttp.ClientSession) -> None:
        form = {"email": f"nobody-{next(self._numbers)}@example.com", "password": "a guess"}
        async with session.post(f"{self._plan.base}/login", data=form) as answer:
            await answer.read()
        self._tries[answer.status] += 1

    async def _look(self) -> None:
        """Look how old the newest row is, from the first one that came since."""
        connection = await asyncpg.connect(self._plan.url, server_settings={"timezone": "UTC"})
        try:
            begin = await connection.fetchval("SELECT now()")
            while True:
                age_s = await connection.fetchval(_NEWEST, begin)
                self._oldest_s = max(self._oldest_s, float(age_s or 0.0))
                await asyncio.sleep(LOOK_S)
        finally:
            connection.terminate()


async def make_export_key(url: str, folder: Path) -> str:
    """Return a management key of the account whose calls are exported.

    With a key that nobody has beside it: a relay does not serve where it would know no key.
    """
    services = Services(Config(database=Database(url=url)), folder)
    async with services.connect() as connection:
        await connection.execute(_KEY, f"bench-{time.time_ns()}", services.pepper.id)
        made = await make_key(connection, services.pepper, ACCOUNT_ID, f"bench-{time.time_ns()}")
    await services.close()
    return made.key


def compare(
    server: Server, upstream_port: int, key: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure alone, beside the noise, and with both controls, in turn; the export alone first."""
    load = UrlLoad(
        url=f"http://127.0.0.1:{server.port}/v1",
        key=KEY,
        model=MODEL,
        stream=False,
        rate=options.rate,
        connections=64,
        duration_s=options.seconds,
        prompt_bytes=1_000,
        tokens_max=50,
        generators=1,
    )
    bench = Bench(target_cores=frozenset({0}), load_cores=_all_cores())
    plan = Plan(f"http://127.0.0.1:{server.console}", key, options.url)
    export = Noise(replace(plan, exports=True))
    time.sleep(options.seconds / 2)
    exported = export.stop()
    direct = replace(load, url=f"http://127.0.0.1:{upstream_port}/v1")
    noisy = replace(plan, exports=True, callers=CALLERS)
    p99_ms: dict[str, list[float]] = {name: [] for name in _ARMS}
    quiet: list[Heard] = []
    loud: list[Heard] = []
    for _ in range(options.rounds):
        p99_ms["alone"].append(_p99_ms(bench, load, Noise(plan), quiet))
        p99_ms["beside"].append(_p99_ms(bench, load, Noise(noisy), loud))
        with counting():
            p99_ms["beside_counting"].append(_p99_ms(bench, load, Noise(plan), quiet))
        p99_ms["direct_alone"].append(_p99_ms(bench, direct, Noise(plan), []))
        p99_ms["direct_beside"].append(_p99_ms(bench, direct, Noise(noisy), loud))
    assert all(noise.oldest_s for noise in quiet), "no call came into the log"
    tries = sum((Counter(noise.tries) for noise in loud), Counter())
    median_ms = {name: statistics.median(found) for name, found in p99_ms.items()}
    return {
        "p99_ms": {name: [round(ms, 2) for ms in found] for name, found in p99_ms.items()},
        "grew": round(median_ms["beside"] / median_ms["alone"] - 1, 3),
        "grew_beyond_counting": round(median_ms["beside"] / median_ms["beside_counting"] - 1, 3),
        "direct_grew": round(median_ms["direct_beside"] / median_ms["direct_alone"] - 1, 3),
        "newest_row_alone_s": round(max(noise.oldest_s for noise in quiet), 2),
        "newest_row_s": round(max(noise.oldest_s for noise in loud), 2),
        "rows_per_s_alone": round(exported.rows_per_s),
        "rows_per_s": round(statistics.median(noise.rows_per_s for noise in loud)),
        "tries_per_s": round(tries.total() / sum(noise.seconds for noise in loud)),
        "tries": dict(sorted(tries.items())),
    }


def _p99_ms(bench: Bench, load: UrlLoad, noise: Noise, heard: list[Heard]) -> float:
    """Put the load on it beside a noise, which ends with it: no row is expected afterwards."""
    figures, _ = measure(bench, make_job(load), None, [], lambda: heard.append(noise.stop()))
    assert not figures["errors"], figures["errors_by_kind"]
    return float(figures["request_latency_ms"]["p99"])


def _all_cores() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0))


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-busy-") as name:
        folder, cores = Path(name), _all_cores()
        with start_upstream(Script(), cores=set(cores), folder=folder) as upstream:
            place = Place(
                folder=folder, cores=cores, upstreams=(upstream.port,), database=options.url
            )
            key = asyncio.run(make_export_key(options.url, folder / "var"))
            with start_relay(place) as server:
                found = compare(server, upstream.port, key, options)
    if options.json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo("\n".join(f"{name} {value}" for name, value in found.items()))
    good = (
        min(found["grew"], found["grew_beyond_counting"]) < GROWTH_MAX
        and found["newest_row_s"] < OLD_S_MAX
        and found["rows_per_s"] >= EXPORT_SHARE_MIN * found["rows_per_s_alone"] > 0
    )
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
