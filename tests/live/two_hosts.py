"""Two relays that are one: hosts apart on wires of their own, on one Postgres and one Redis.

    client, upstream, HAProxy ---- clients ---- host 0, host 1
    one Redis: single, behind Sentinels, a cluster -- redis ----
    one Postgres, behind a door on TCP ------------ postgres --

Both have the same pepper and master key, as docs and `relay doctor` ask of them.
"""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from relay.store import postgres
from relay.store.embedded import home
from relay.store.embedded.binaries import find_valkey
from relay.store.postgres import Connection
from tests.live.host_rig import Host
from tests.live.relay_process import family, settle
from tests.live.wires import Wire, Wires

MIB: Final = 1 << 20


class Pair(list[Host]):
    """The hosts, their wires, and what they stand on."""

    def __init__(self, wires: Wires, database_url: str) -> None:
        super().__init__()
        self.wires = wires
        self.database_url = database_url

    @property
    def one(self) -> Host:
        return self[0]

    @property
    def two(self) -> Host:
        return self[1]

    @contextlib.asynccontextmanager
    async def books(self) -> AsyncIterator[Connection]:
        """A look into the database that no cut wire disturbs."""
        connection = await postgres.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()

    async def begin(self) -> None:
        """Start both: the first one migrates."""
        for host in self:
            await host.begin()

    async def key_works(self, key: str) -> None:
        """Wait until every worker of both hosts knows a key."""
        for host in self:
            await settle(host, key, 200)

    @contextlib.contextmanager
    def stopped(self, place: int) -> Iterator[None]:
        """Stop all processes of a host, as a hypervisor does, while the block runs."""
        members = family(self[place].process.pid)
        for member in members:
            os.kill(member.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for member in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member.pid, signal.SIGCONT)


@contextlib.asynccontextmanager
async def two_hosts(
    folder: Path,
    wires: Wires,
    database_url: str,
    environ: Mapping[str, str],
    *,
    workers: int = 1,
    **options: Any,
) -> AsyncIterator[Pair]:
    """Two hosts that have not begun; ended behind the block.

    Args:
        folder: Of theirs.
        wires: Between them.
        database_url: Of a Postgres on a unix socket; they reach it over their wire.
        environ: Where Redis is, and what else both are told.
        workers: Of each.
        options: Of Host.
    """
    pair = Pair(wires, database_url)
    keys = {name: secrets.token_hex(32) for name in ("pepper", "master")}
    async with postgres_door(database_url, wires.here(Wire.POSTGRES)) as door:
        for place in range(2):
            own = folder / f"host-{place}"
            address = wires.there(place)
            told = {
                "RELAY_SERVER__LISTEN": f"{address}:8080",
                "RELAY_SERVER__ADMIN": f"{address}:8081",
                "RELAY_DATABASE__URL": door,
                **environ,
            }
            for name, value in keys.items():
                told[f"RELAY_SECRETS__{'MASTER_KEY' if name == 'master' else 'PEPPER'}"] = (
                    f"env:FLEET_{name.upper()}"
                )
                told[f"FLEET_{name.upper()}"] = value
            program = (*wires.enter(place), *options.get("program", (Host.usual_program,)))
            host = Host(own, None, program=program, workers=workers, environ=told)
            host.address, host.admin = f"{address}:8080", f"{address}:8081"
            pair.append(host)
        try:
            yield pair
        finally:
            for host in pair:
                if host.begun:
                    await host.end()


@contextlib.asynccontextmanager
async def postgres_door(url: str, address: str) -> AsyncIterator[str]:
    """Let a Postgres that has a unix socket alone be reached over TCP; yield its URL there."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    path = f"{options['host'][0]}/.s.PGSQL.{options['port'][0]}"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(path)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(serve, address, 0, limit=MIB)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"{parts.scheme}://{parts.username}@{address}:{port}{parts.path}"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry bytes one way until either side is gone."""
    with contextlib.suppress(OSError):
        while some := await reader.read(MIB):
            writer.write(some)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def valkey_program(folder: Path) -> Iterator[Path]:
    """A Valkey or Redis that can be run as anybody."""
    folder.mkdir(exist_ok=True)
    place = home.settle(folder)
    try:
        yield find_valkey(place)
    finally:
        home.leave(place)
