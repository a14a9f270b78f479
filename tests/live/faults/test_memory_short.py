"""Goal: a host with little memory sheds by rule; one whose worker the kernel kills loses no money.

Method: a whole host in a control group of its own, as MemoryMax= of its unit makes one. Prompts of
megabytes pile up before an upstream that reads nothing for a while; small calls go on beside them.

    at the start       what bodies may take is cut to what the group has, and said
    while they pile up 503 for those beyond it, and for the rest of standard lines; calls of a
                       dedicated line are all served; no worker is killed
    a worker killed    another one serves; what was served is in the log once, and paid once
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import pytest

from relay.store import postgres
from relay.store.billing.audit import run_audit
from relay.store.embedded.embedded import Embedded
from tests.live.flood import Upstream, request_of
from tests.live.host_rig import Host
from tests.live.one_host import one_host
from tests.live.relay_process import RELAY, ask, settle, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(200)]

GROUPS: Final = Path("/sys/fs/cgroup/memory")
MIB: Final = 1024 * 1024
MEMORY_BYTES: Final = 900 * MIB
BODY_BYTES: Final = 8 * MIB
BODIES: Final = 40
PATIENCE_S: Final = 60.0
CALL_NANOS: Final = 1_000_000
HEAVY: Final = """
[[line]]
name = "own"
kind = "dedicated"
channels = ["quick"]
[[channel]]
name = "sluggish"
base_url = "http://127.0.0.1:{port}/v1"
models = ["heavy"]
[[price]]
model = "heavy"
input = "0"
output = "0"
per_call = "0.001"
"""


class Group:
    """A control group, version 1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()

    def write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))

    def wrap(self, folder: Path) -> Path:
        """Return a relay that runs in the group."""
        folder.mkdir()
        program = folder / "in-group"
        program.write_text(f'#!/bin/sh\necho $$ > {self.folder}/cgroup.procs\nexec {RELAY} "$@"\n')
        program.chmod(0o755)
        return program

    @contextlib.contextmanager
    def another_that_wants(self, too_much: int) -> Iterator[None]:
        """Have a process in the group that takes more than there is."""
        taken = MEMORY_BYTES - int(self.read("memory.usage_in_bytes")) + too_much
        hog = f"import sys; taken = bytearray(b'x') * {taken}; sys.stdin.read()"
        join = f'echo $$ > {self.folder}/cgroup.procs; exec "$@"'
        command = ["/bin/sh", "-c", join, "sh", sys.executable, "-c", hog]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        try:
            yield
        finally:
            process.kill()
            process.communicate()

    @property
    def kills(self) -> int:
        """How often the kernel has killed for want of memory."""
        words = self.read("memory.oom_control").split()
        return int(words[words.index("oom_kill") + 1])


@pytest.fixture
def group() -> Iterator[Group]:
    folder = GROUPS / f"relay-{os.getpid()}"
    try:
        folder.mkdir()
        found = Group(folder)
        found.write("memory.limit_in_bytes", MEMORY_BYTES)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        yield found
    finally:
        folder.rmdir()


class Sluggish(Upstream):
    """Reads nothing until its gate opens."""

    gate: asyncio.Event

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        found = cast("asyncio.Transport", transport)
        if not self.gate.is_set():
            # A loop begins to read when this has returned.
            asyncio.get_running_loop().call_soon(found.pause_reading)
            self._opened = asyncio.create_task(self._open(found))

    async def _open(self, transport: asyncio.Transport) -> None:
        await self.gate.wait()
        if not transport.is_closing():
            transport.resume_reading()


@contextlib.asynccontextmanager
async def crowded(
    folder: Path, url: str, servers: Embedded, group: Group, workers: int
) -> AsyncIterator[tuple[Host, str, asyncio.Event]]:
    """A host in the group; a key; the gate of the upstream of `heavy`."""
    gate = asyncio.Event()

    class Gated(Sluggish):
        gate: asyncio.Event

    Gated.gate = gate
    program = group.wrap(folder)
    upstream = await asyncio.get_running_loop().create_server(lambda: Gated(10, 5), "127.0.0.1", 0)
    options: dict[str, Any] = {"workers": workers, "program": [str(program)]}
    async with upstream, one_host(folder / "host", url, servers.redis_url, **options) as (host, k):
        text = host.catalog_file.read_text().replace('["quick"]', '["quick", "sluggish"]')
        text = text.replace('lines = ["town"]', 'lines = ["town", "own"]')
        await host.apply(text + HEAVY.format(port=upstream.sockets[0].getsockname()[1]))
        await until_told(lambda: serves(host, k), "it serves")
        yield host, k, gate
        gate.set()


async def serves(host: Host, key: str) -> bool:
    return (await ask(host, key)).status == 200


async def heavy(host: Host, request: bytes, place: int) -> int:
    """Make a call of megabytes from an address; return its status, 0 = the connection broke."""
    address, _, port = host.address.partition(":")
    status = b""
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(
            address, int(port), local_addr=(f"127.0.1.{1 + place}", 0)
        )
        async with asyncio.timeout(PATIENCE_S):
            writer.write(request)
            status = await reader.readline()
        writer.close()
    return int(status.split()[1]) if status else 0


async def check_books(url: str, served: int) -> None:
    books = await postgres.connect(url)
    paid = "SELECT -sum(balance_nanos)::bigint FROM balances WHERE account_id > 0"
    logged = "SELECT count(*) FROM request_log WHERE status = 200"
    try:

        async def booked() -> bool:
            return bool(await books.fetchval(logged) >= served)

        await until_told(booked, f"{served} calls are in the log", 40.0)
        assert await books.fetchval(logged) == served
        assert await books.fetchval(paid) == served * CALL_NANOS
        assert (await run_audit(books)).drifts == []
    finally:
        await books.close()


async def test_bodies_pile_up(
    reachable: Path, empty_database_url: str, servers: Embedded, group: Group
) -> None:
    """Of eight accounts, so that none reaches its share before the worker reaches its room."""
    found = crowded(reachable / "piled", empty_database_url, servers, group, 1)
    async with found as (host, key, gate):
        assert host.said("allows fewer bytes of bodies than buffered_bytes_max")
        pids = {pid for pid, _ in host.workers().values()}
        requests = [request_of(one, "heavy", BODY_BYTES, 5) for one in await more_keys(host, 8)]
        piled = [asyncio.create_task(heavy(host, requests[n % 8], n % 8)) for n in range(BODIES)]
        small = await small_calls(host, key, 1)
        while not small[503]:  # until the room is full
            small += await small_calls(host, key, 1)
        small += await small_calls(host, key, 50)
        own = await small_calls(host, await dedicated_key(host), 50)
        most = int(group.read("memory.max_usage_in_bytes"))
        gate.set()
        large = Counter(await asyncio.gather(*piled))
        print(  # noqa: T201
            f"small {dict(small)}, dedicated {dict(own)}, large {dict(large)}; at most"
            f" {most // MIB} MiB of {MEMORY_BYTES // MIB}"
        )
        assert group.kills == 0
        assert {pid for pid, _ in host.workers().values()} == pids
        assert set(large) == {200, 503}, "what is beyond the room is told so"
        assert own == {200: 50}
        assert set(small) <= {200, 503}
        assert (await small_calls(host, key, 5))[200] == 5
        await check_books(empty_database_url, 1 + small[200] + own[200] + large[200] + 5)


async def test_a_worker_that_the_kernel_kills_for_its_memory(
    reachable: Path, empty_database_url: str, servers: Embedded, group: Group
) -> None:
    found = crowded(reachable / "killed", empty_database_url, servers, group, 2)
    async with found as (host, key, gate):
        requests = [request_of(one, "heavy", BODY_BYTES, 5) for one in await more_keys(host, 8)]
        piled = [asyncio.create_task(heavy(host, requests[n % 8], n % 8)) for n in range(BODIES)]
        small = await small_calls(host, key, 20)
        pid, _ = host.workers()["worker-0"]
        Path("/proc", str(pid), "oom_score_adj").write_text("1000")  # noqa: ASYNC240
        with group.another_that_wants(16 * MIB):
            await until(lambda: group.kills > 0, "the kernel kills")
            small += await small_calls(host, key, 50)
        gate.set()
        large = Counter(await asyncio.gather(*piled))
        print(f"small {dict(small)}, large {dict(large)}, kills {group.kills}")  # noqa: T201
        await until(lambda: host.said("a worker died"), "it is told")
        await until(lambda: len(host.workers()) == 2, "there are two workers again")
        assert (await small_calls(host, key, 20))[200] == 20
        assert large[0] > 0 and large[200] > 0
        assert small[200] >= 10, "the worker that came for it has room"
        await check_books(empty_database_url, 1 + small[200] + large[200] + 20)


async def dedicated_key(host: Host) -> str:
    words = ["key", "create", "--account", "folk", "--name", "own", "--line", "own"]
    key = next(word for word in (await host.cli(*words)).split() if word.startswith("relay_"))
    await settle(host, key, 200)
    return key


async def small_calls(host: Host, key: str, count: int) -> Counter[int]:
    """Make calls one after the other; 0 = the connection broke."""
    found = Counter[int]()
    for _ in range(count):
        status = 0
        with contextlib.suppress(OSError, aiohttp.ClientError):
            status = (await ask(host, key)).status
        found[status] += 1
        await asyncio.sleep(0.05)
    return found


async def more_keys(host: Host, count: int) -> list[str]:
    """Return a key of an account of its own, so many times."""
    accounts = "".join(
        f'[[account]]\nname = "a{n}"\ngroup = "folk"\ncredit_limit = "1000"\n' for n in range(count)
    )
    await host.apply(host.catalog_file.read_text() + accounts)
    made = [await host.api("keys", {"account": f"a{n}", "name": f"k{n}"}) for n in range(count)]
    keys = [one["key"] for one in made]
    for key in keys:
        await settle(host, key, 200)
    return keys
