"""Goal: two hosts behind HAProxy go to the next release and back, one by one, and nobody notices.

Method: deploy/tls/haproxy.cfg as it is shipped, but for TLS and addresses; long streams and new
connections through it all the time. Each host is upgraded by reload, and then by stopping it and
starting the other release, with sockets that nobody keeps: HAProxy alone covers for it. Without a
second host the same has to be noticed.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from benchmarks.peers import debian
from tests.live.host_rig import Host
from tests.live.operations.test_upgrade import (
    CATALOG,
    Knocker,
    has_migrated,
    only,
    streams,
    upgrade,
)
from tests.live.process_upstream import slow_upstream
from tests.live.redis_servers import Fleet, free_port
from tests.live.relay_process import settle, until, until_told
from tests.live.releases import Releases, with_migration
from tests.live.two_hosts import Pair, two_hosts
from tests.live.wires import Wire, Wires

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(290)]

EXAMPLE: Final = Path(__file__).parents[3] / "deploy" / "tls" / "haproxy.cfg"
STREAMS: Final = int(os.environ.get("RELAY_FLEET_STREAMS", "60"))
PER_S: Final = int(os.environ.get("RELAY_FLEET_CONNECTIONS_PER_S", "25"))
TOKENS: Final = 70
"""Of a stream with an event each fifth of a second: 14 s."""


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """HAProxy of the system, or Debian's package unpacked for this run; what it needs to run."""
    folder = tmp_path_factory.mktemp("haproxy")
    if debian.find(folder, "haproxy") is None:
        try:
            debian.unpack("haproxy", folder)
        except debian.Refused as refused:
            pytest.skip(f"HAProxy cannot be had here: {refused}")
    program = debian.find(folder, "haproxy")
    assert program is not None
    return program, {**os.environ, **debian.environment(folder)}


@pytest.fixture
def releases(folder: Path) -> Releases:
    found = Releases(folder)
    found.make("one")
    found.make("two", with_migration)
    return found


class Front(Host):
    """HAProxy where clients take it for the relay."""

    def __init__(self, folder: Path, address: str) -> None:
        super().__init__(folder / "front", None)
        self.address = address


def write_example(pair: Pair, address: str, folder: Path, hosts: int) -> Path:
    """Write the shipped example with other addresses, and clients in the clear."""
    text = EXAMPLE.read_text("utf-8")
    text = re.sub(r"bind :443 .*", f"bind {address}", text)
    text = text.replace("maxconn 40000", "maxconn 4000")  # a test may open fewer files
    text = re.sub(r"(?m)^ *(log|ssl-default-bind-options) .*\n", "", text)
    servers = "\n".join(f"    server host{n} {pair[n].address}" for n in range(hosts))
    text = re.sub(r"(?m)^ *server one .*\n *# *server two .*", servers, text)
    text = text.replace("server admin 127.0.0.1:8081", f"server admin {pair.one.admin}")
    assert servers in text and address in text
    file = folder / "haproxy.cfg"
    file.write_text(text)
    return file


@asynccontextmanager
async def balancing(
    pair: Pair, folder: Path, haproxy: tuple[Path, dict[str, str]], hosts: int = 2
) -> AsyncIterator[Front]:
    here = pair.wires.here(Wire.CLIENTS)
    address = f"{here}:{free_port(here)}"
    program, environ = haproxy
    file = write_example(pair, address, folder, hosts)
    process = await asyncio.create_subprocess_exec(program, "-f", file, env=environ)
    try:
        await until(lambda: listens(address), "HAProxy listens")
        yield Front(folder, address)
    finally:
        process.kill()
        await process.wait()


def listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
        return True
    return False


@asynccontextmanager
async def serving(
    folder: Path, wires: Wires, url: str, redis: Fleet, releases: Releases
) -> AsyncIterator[tuple[Pair, str]]:
    releases.point("one")
    environ = {"RELAY_REDIS__URL": redis.url(redis.start())}
    async with (
        two_hosts(folder, wires, url, environ, program=[releases.program]) as pair,
        slow_upstream(host=wires.here(Wire.CLIENTS)) as upstream,
    ):
        await pair.begin()
        await pair.one.apply(CATALOG.format(upstream=upstream))
        key = await pair.one.make_key("k")
        await pair.key_works(key)
        yield pair, key


@pytest.fixture
def redis(program: Path, tmp_path: Path, wires: Wires) -> Iterator[Fleet]:
    with ExitStack() as ends:
        yield Fleet(program, tmp_path, ends, wires.here(Wire.REDIS))


async def test_host_by_host_by_reload(
    folder: Path,
    wires: Wires,
    empty_database_url: str,
    redis: Fleet,
    releases: Releases,
    haproxy: tuple[Path, dict[str, str]],
) -> None:
    async with (
        serving(folder, wires, empty_database_url, redis, releases) as (pair, key),
        balancing(pair, folder, haproxy) as front,
    ):
        await settle(front, key, 200)
        knocker = Knocker(front, key, PER_S)
        running = []
        async with knocker.knocking():
            for name in ("two", "one"):
                for host in pair:
                    async with streams(front, key, STREAMS, TOKENS) as found:
                        await upgrade(host, releases, name)
                    running += found
                assert await has_migrated(empty_database_url)
        for host in pair:
            await only(host, "one")
        assert knocker.bad == []
        assert knocker.good > PER_S
        assert all(stream.whole for stream in running)


async def test_host_by_host_by_restart_with_sockets_that_nobody_keeps(
    folder: Path,
    wires: Wires,
    empty_database_url: str,
    redis: Fleet,
    releases: Releases,
    haproxy: tuple[Path, dict[str, str]],
) -> None:
    async with (
        serving(folder, wires, empty_database_url, redis, releases) as (pair, key),
        balancing(pair, folder, haproxy) as front,
    ):
        await settle(front, key, 200)
        knocker = Knocker(front, key, PER_S)
        running = []
        async with knocker.knocking():
            for name in ("two", "one"):
                releases.point(name)
                for host in pair:
                    async with streams(front, key, STREAMS, TOKENS) as found:
                        await restart(host)
                    running += found
        assert knocker.bad == []
        assert all(stream.whole for stream in running)


async def test_without_a_second_host_a_restart_is_noticed(
    folder: Path,
    wires: Wires,
    empty_database_url: str,
    redis: Fleet,
    releases: Releases,
    haproxy: tuple[Path, dict[str, str]],
) -> None:
    """What the test above would say of a balancer that does not cover."""
    async with (
        serving(folder, wires, empty_database_url, redis, releases) as (pair, key),
        balancing(pair, folder, haproxy, hosts=1) as front,
    ):
        await settle(front, key, 200)
        knocker = Knocker(front, key, PER_S)
        async with knocker.knocking():
            await restart(pair.one)
        assert knocker.bad != []


async def restart(host: Host) -> None:
    """Stop it as the service manager does and start it anew; wait until HAProxy takes it back."""
    assert await host.stop() == 0
    await host.begin()

    async def taken_back() -> bool:
        return (await host.readiness())[0] == 200

    await until_told(taken_back, "it is ready")
    await asyncio.sleep(3.0)  # two checks, a second apart
