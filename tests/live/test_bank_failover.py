"""Goal: after a failover the limiter works on the new primary, by itself.

Method: a primary, a replica and a Sentinel, all real; the primary is killed.
"""

import asyncio
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from relay.limits.bucket import Rule
from relay.limits.scopes import Bucket, Measure, Scope
from relay.store.binaries import find_valkey
from relay.store.home import leave, settle
from relay.store.limiter import Grant, Limiter
from relay.store.resp import connect
from relay.store.sentinel import follow_sentinels
from tests.live.limit_rig import ask, now_ms, spend

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(60)]

LINE = Bucket("relay:{l:1}:tpm", "{l:1}", Scope.LINE, Measure.TOKENS, Rule(6_000_000, 6_000))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Path]:
    home = settle(tmp_path)
    yield find_valkey(home)
    leave(home)


class Fleet:
    """Servers on ports of this host; all end with the test."""

    def __init__(self, program: Path, folder: Path, ends: ExitStack) -> None:
        self._program = program
        self._folder = folder
        self._ends = ends
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *lines: str, sentinel: bool = False) -> int:
        port = free_port()
        config = self._folder / f"{port}.conf"
        local = (f"port {port}", "bind 127.0.0.1", 'save ""', f"dir {self._folder}")
        config.write_text("\n".join([*local, *lines, ""]))
        command = [self._program, config, *(["--sentinel"] if sentinel else [])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._ends.callback(process.wait)
        self._ends.callback(process.kill)
        self.processes[port] = process
        return port

    async def says(self, port: int, word: bytes, *command: str) -> None:
        """Wait until a server's answer has a word in it."""
        async with asyncio.timeout(20):
            while word not in await reply_of(port, *command):
                await asyncio.sleep(0.05)


async def reply_of(port: int, *command: str) -> bytes:
    try:
        connection = await connect(f"redis://127.0.0.1:{port}")
        [reply] = await connection.ask([command])
        connection.close()
    except Exception:  # noqa: BLE001 -- it is not up yet
        return b""
    return reply if isinstance(reply, bytes) else repr(reply).encode()


async def test_a_failover_is_followed(program: Path, tmp_path: Path) -> None:
    with ExitStack() as ends:
        fleet = Fleet(program, tmp_path, ends)
        primary = fleet.start()
        replica = fleet.start(f"replicaof 127.0.0.1 {primary}")
        await fleet.says(replica, b"master_link_status:up", "INFO", "replication")
        sentinel = fleet.start(
            f"sentinel monitor limits 127.0.0.1 {primary} 1",
            "sentinel down-after-milliseconds limits 500",
            "sentinel failover-timeout limits 3000",
            sentinel=True,
        )
        await fleet.says(sentinel, b"slaves=1", "INFO", "sentinel")
        locate = follow_sentinels(
            ["redis://127.0.0.1:1", f"redis://127.0.0.1:{sentinel}"], "limits"
        )
        async with Limiter(locate, "worker", now_ms) as limiter:
            await spend(limiter, LINE, 100, 1.0)
            assert limiter.bank.losses == 0
            fleet.processes[primary].send_signal(signal.SIGKILL)
            await spend(limiter, LINE, 100, 1.0)
            assert limiter.bank.losses >= 1
            await fleet.says(replica, b"role:master", "INFO", "replication")
            await asked_again(limiter)
        assert await reply_of(replica, "GET", "relay:born") != b"None"


async def asked_again(limiter: Limiter) -> None:
    """Wait until fallback is over, and calls are granted."""
    last = -1.0
    async with asyncio.timeout(20):
        while limiter.fallback_ms != last or not isinstance(await ask(limiter, LINE, 1), Grant):
            last = limiter.fallback_ms
            await asyncio.sleep(0.1)
