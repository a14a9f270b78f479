"""How fast the console exports a log that `benchmarks.fill_log` filled, and in how much memory.

    python -m benchmarks.export_log URL [--format csv|ndjson] [--since 90d] [--json]

The console's account side serves in a process of its own; account "acme" asks for all its calls by
a management key. Told are rows and bytes a second, when the first byte came, and the memory of that
process before and at its most: flat memory means that the two are alike.
"""

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Final

import aiohttp
import click
import uvloop
from aiohttp import web

from relay.config import Config, Database
from relay.console.services import Services
from relay.console.signin.management import make_key
from relay.console.sites import account_side
from relay.control.watch.notices import Notices

TARGET_ROWS_PER_S: Final = 50_000
LOOK_S: Final = 0.05
EXPORT_S: Final = 1_800.0
ACCOUNT_ID: Final = 1


def serve(url: str, folder: str, pipe: Pipe) -> None:
    """Serve the account side until the pipe says so; tell its address and a key."""
    uvloop.run(_serve(url, Path(folder), pipe))


async def _serve(url: str, folder: Path, pipe: Pipe) -> None:
    services = Services(Config(database=Database(url=url)), folder)
    async with services.connect() as connection:
        name = f"bench-{time.time_ns()}"
        key = (await make_key(connection, services.pepper, ACCOUNT_ID, name)).key
    runner = web.AppRunner(
        account_side(services, Notices(None, time.monotonic)).application(), access_log=None
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pipe.send((f"http://127.0.0.1:{runner.addresses[0][1]}", key))
    await asyncio.to_thread(pipe.recv)
    await runner.cleanup()
    await services.close()


class Watch:
    """Looks at a process' memory while something runs."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self.before_mib = self.most_mib = self._read()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            self.most_mib = max(self.most_mib, self._read())

    def _read(self) -> float:
        for line in self._status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0


async def read_export(
    base: str, key: str, form: str, since: str, on_lines: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Read an export to its end; `on_lines` is told of how many came, as they come."""
    began_s = time.perf_counter()
    first_s, size, lines = 0.0, 0, 0
    timeout = aiohttp.ClientTimeout(total=EXPORT_S)
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(
            f"{base}/account/v1/logs/export", params={"format": form, "since": since}
        ) as answer,
    ):
        answer.raise_for_status()
        async for chunk in answer.content.iter_any():
            first_s = first_s or time.perf_counter() - began_s
            size += len(chunk)
            came = chunk.count(b"\n")
            lines += came
            on_lines(came)
    took_s = time.perf_counter() - began_s
    rows = lines - (form == "csv")
    return {
        "format": form,
        "rows": rows,
        "seconds": round(took_s, 1),
        "rows_per_s": round(rows / took_s),
        "mib_per_s": round(size / took_s / 2**20, 1),
        "first_byte_ms": round(first_s * 1000, 1),
    }


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--format", choices=("csv", "ndjson"), default="csv")
    parser.add_argument("--since", default="90d")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory(prefix="relay-export-") as folder:
        process = multiprocessing.Process(target=serve, args=(options.url, folder, theirs))
        process.start()
        try:
            base, key = ours.recv()
            assert process.pid is not None
            watch = Watch(process.pid)
            found = uvloop.run(read_export(base, key, options.format, options.since))
            watch.stop()
            ours.send("stop")
        finally:
            process.join(10)
            process.kill()
    found |= {"rss_before_mib": round(watch.before_mib), "rss_most_mib": round(watch.most_mib)}
    if options.json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo("  ".join(f"{name} {value}" for name, value in found.items()))
    return 0 if found["rows_per_s"] >= TARGET_ROWS_PER_S else 3


if __name__ == "__main__":
    raise SystemExit(main())
