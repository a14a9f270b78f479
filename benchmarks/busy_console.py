"""What callers feel of a busy console: exports of millions of calls, and a flood of log-ins.

    python -m benchmarks.busy_console URL [--rate 100] [--seconds 20] [--rounds 3] [--json]

URL is a database that `benchmarks.fill_log` filled; a whole relay serves on it, over a scripted
upstream. The same load is put on it alone, and again while account "acme" exports all its calls
over and over and strangers try passwords. Told are the p99 of both, medians of the rounds, and how
old the newest row of the request log became meanwhile.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import click

from benchmarks.export_log import ACCOUNT_ID, read_export
from benchmarks.scenarios.measure import Bench, measure
from benchmarks.scenarios.url import UrlLoad, make_job
from benchmarks.targets.place import KEY, MODEL, Place, Server
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
_NEWEST: Final = """
    SELECT extract(epoch FROM now() - max(ended_at)) FROM request_log
    WHERE ended_at > now() - interval '1 minute'"""
_KEY: Final = """
    INSERT INTO keys (account_id, name, digest, pepper_id, prefix, last4)
    VALUES (1, $1, decode(md5($1) || md5($2), 'hex'), $2, '', '0000')"""


class Noise:
    """An export that begins anew whenever it ends, and log-ins, in a thread of their own."""

    def __init__(self, base: str, key: str, url: str) -> None:
        self._base, self._key, self._url = base, key, url
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.rows = 0
        self.attempts = 0
        self.oldest_s = 0.0
        self.failed = ""
        self._thread.start()

    def stop(self) -> None:
        """Make no more of it."""
        self._over.set()
        self._thread.join()
        assert not self.failed, self.failed

    async def _run(self) -> None:
        works: list[Callable[[], Any]] = [self._export, self._look, *[self._log_in] * CALLERS]
        tasks = [asyncio.ensure_future(work()) for work in works]
        await asyncio.to_thread(self._over.wait)
        for task in tasks:
            task.cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(end, asyncio.CancelledError):
                self.failed = repr(end)

    async def _export(self) -> None:
        while True:
            found = await read_export(self._base, self._key, "csv", "90d", self._count)
            assert found["rows"], "there was nothing to export"

    def _count(self, lines: int) -> None:
        self.rows += lines

    async def _log_in(self) -> None:
        async with aiohttp.ClientSession() as session:
            while True:
                form = {"email": f"nobody-{self.attempts}@example.com", "password": "a guess"}
                async with session.post(f"{self._base}/login", data=form) as answer:
                    await answer.read()
                self.attempts += 1

    async def _look(self) -> None:
        connection = await asyncpg.connect(self._url)
        with contextlib.closing(connection):
            while True:
                age_s = await connection.fetchval(_NEWEST)
                self.oldest_s = max(self.oldest_s, float(age_s or 0.0))
                await asyncio.sleep(LOOK_S)


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


def compare(server: Server, key: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure alone and beside the noise, in turn."""
    cores = frozenset({0})
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
    bench = Bench(target_cores=cores, load_cores=_all_cores())
    alone, beside, noises = [], [], []
    for _ in range(options.rounds):
        alone.append(_p99_ms(bench, load))
        noise = Noise(f"http://127.0.0.1:{server.console}", key, options.url)
        beside.append(_p99_ms(bench, load))
        noise.stop()
        noises.append(noise)
    before, after = statistics.median(alone), statistics.median(beside)
    return {
        "p99_alone_ms": [round(ms, 2) for ms in alone],
        "p99_beside_ms": [round(ms, 2) for ms in beside],
        "grew": round(after / before - 1, 3),
        "newest_row_s": round(max(noise.oldest_s for noise in noises), 2),
        "rows_exported": sum(noise.rows for noise in noises),
        "log_ins": sum(noise.attempts for noise in noises),
    }


def _p99_ms(bench: Bench, load: UrlLoad) -> float:
    figures, _ = measure(bench, make_job(load), None, [])
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
                found = compare(server, key, options)
    if options.json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo("\n".join(f"{name} {value}" for name, value in found.items()))
    good = found["grew"] < GROWTH_MAX and found["newest_row_s"] < OLD_S_MAX
    return 0 if good and found["rows_exported"] else 3


if __name__ == "__main__":
    sys.exit(main())
