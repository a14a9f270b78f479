"""Goal: a relay that has no descriptor left goes on, blames nobody else, and turns clients away.

Method: limits that are lowered while a data plane runs in the test's own process.
"""

import asyncio
import contextlib
import json
import os
import resource
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.clock import now_us
from relay.config import Config, Server, Timeouts
from relay.edge.server import FILES_KEPT, connections_allowed
from relay.process import worker
from relay.tls import TlsFiles, TlsListeners
from tests.flow.rig import Peer, Rig, chat, make_channel, make_snapshot, post
from tests.flow.test_bad_input import ANSWER, CHAT, answer_json, get, read

ANSWER_BYTES = json.dumps(ANSWER).encode()


@contextlib.contextmanager
def files_left(count: int) -> Iterator[None]:
    """Leave so many descriptors to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 - names, not paths
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + count, hard))
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    for file in taken[-count:] if count else ():
        os.close(file)
        taken.remove(file)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in taken:
            os.close(file)


@pytest.mark.parametrize(
    ("wanted", "files", "allowed"),
    [
        (20_000, 1_048_576, 20_000),
        (20_000, 40_064, 20_000),
        (20_000, 40_000, 19_968),
        (20_000, 1024, 480),
        (10, 1024, 10),
        (20_000, FILES_KEPT, 1),
        (20_000, 8, 1),
    ],
)
def test_a_client_may_need_two_descriptors(wanted: int, files: int, allowed: int) -> None:
    assert connections_allowed(wanted, files) == allowed


async def test_fewer_connections_than_were_set_are_told_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
            assert rig.server._connections.connections_max == 480
        (record,) = [r for r in caplog.records if r.name == "relay.edge"]
        assert vars(record)["count"] == 480
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_figure_that_cannot_be_read_is_missing_and_no_more() -> None:
    assert worker._resident_bytes() > 0
    with files_left(0):
        assert worker._resident_bytes() == 0
    assert worker._resident_bytes() > 0


async def test_what_is_used_up_here_is_no_fault_of_the_channels() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        call = post(CHAT, chat()).replace(b"Connection: close\r\n", b"")
        for _ in range(8):
            with files_left(0):
                writer.write(call)
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 "), head
            size = int(head.lower().split(b"content-length: ")[1].split()[0])
            await reader.readexactly(size)
        assert not rig.server.engine.balancer.health.describe(now_us())
        writer.write(call)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_connections_without_end_leave_the_running_ones_and_the_next() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        others = []
        with files_left(20):
            with contextlib.suppress(OSError):
                for _ in range(40):
                    pair = await asyncio.open_connection("127.0.0.1", rig.port)
                    others += [pair]
            await asyncio.sleep(0.1)
            writer.write(get("/", method="HEAD").replace(b"Connection: close\r\n", b""))
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        for _, other in others:
            other.close()
        assert read(await rig.say(post(CHAT, chat())))[0] == 200
        writer.close()


async def keep_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer, and leave the connection open for the next question."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(ANSWER_BYTES), ANSWER_BYTES))
    await asyncio.sleep(60)


async def test_idle_connections_to_one_upstream_make_room_for_another() -> None:
    """Whoever calls one model at once and then another needs no more than either."""
    async with Peer(keep_alive) as first, Peer(keep_alive) as second:
        channels = [
            make_channel(1, first.port, models={"one": "one"}),
            make_channel(2, second.port, models={"two": "two"}),
        ]
        async with Rig(make_snapshot(channels)) as rig:
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            statuses = []
            for model, left in (("one", 40), ("two", 0)):
                call = post(CHAT, {**chat(), "model": model})
                with files_left(left):
                    writer.write(call.replace(b"Connection: close\r\n", b""))
                    head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split()[0])
                await reader.readexactly(size)
                statuses.append(head[9:12])
            assert statuses == [b"200", b"200"]
            assert first.closed.is_set() and not second.closed.is_set()
            writer.close()


async def test_a_name_that_does_not_resolve_for_want_of_descriptors_is_no_fault_either() -> None:
    channel = make_channel(1, 80, base_url="http://nowhere.invalid/v1")
    async with Rig(make_snapshot([channel])) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        with files_left(2):
            writer.write(post(CHAT, chat()))
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        assert not rig.server.engine.balancer.health.describe(now_us())
        writer.close()


async def test_accepting_stops_while_descriptors_are_short_and_goes_on() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        with files_left(0):
            async with asyncio.timeout(5):
                while rig.server._listener is not None:
                    await asyncio.sleep(0.02)
        assert read(await rig.say(post(CHAT, chat())))[0] == 200
        assert rig.server._listener is not None


async def test_a_listener_that_the_loop_gave_up_is_opened_again() -> None:
    """What a loop does that cannot accept, and cannot even drop who waits."""
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        assert rig.server._listener is not None
        rig.server._listener.close()
        assert read(await rig.say(post(CHAT, chat())))[0] == 200


async def test_clients_and_upstreams_share_the_descriptors() -> None:
    """Where upstreams have taken more than theirs, fewer clients come; where they rest, all do."""
    async with Peer(silent) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        connections = rig.server._connections
        connections.files_max = 4
        busy = []
        for count in (1, 2):
            _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(post(CHAT, chat()))
            busy.append(writer)
            async with asyncio.timeout(5):
                while rig.server.pool.open_count < count:
                    await asyncio.sleep(0.005)
        _, third = await asyncio.open_connection("127.0.0.1", rig.port)  # it may, the next wait
        async with asyncio.timeout(5):
            while rig.server._listener is not None:
                await asyncio.sleep(0.005)
        for writer in (*busy, third):
            writer.close()
        assert (await rig.say(get("/", method="HEAD"))).startswith(b"HTTP/1.1 200 ")


async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def test_the_idle_make_room_for_those_that_come() -> None:
    config = Config(server=Server(connections_max=5))
    async with (
        Peer(answer_json) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)]), config) as rig,
    ):
        idle = [await asyncio.open_connection("127.0.0.1", rig.port) for _ in range(30)]
        for _ in range(5):
            assert read(await rig.say(post(CHAT, chat())))[0] == 200
        assert len(rig.server._connections.open) <= 5
        for _, writer in idle:
            writer.close()


async def test_where_nobody_is_idle_accepting_stops_and_goes_on() -> None:
    config = Config(server=Server(connections_max=5))
    async with (
        Peer(silent) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)]), config) as rig,
    ):
        busy = []
        for count in range(1, 6):
            _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            writer.write(post(CHAT, chat()))
            busy.append(writer)
            async with asyncio.timeout(5):
                while rig.server.counters.inflight < count:
                    await asyncio.sleep(0.005)
        with contextlib.suppress(ConnectionError):
            assert await rig.say(get("/")) == b""  # one is turned away...
        async with asyncio.timeout(5):
            while rig.server._listener is not None:
                await asyncio.sleep(0.005)
        waits = asyncio.ensure_future(rig.say(get("/", method="HEAD")))  # ...the next ones wait
        await asyncio.sleep(0.2)
        assert not waits.done() and rig.server.counters.inflight == 5
        busy.pop().close()
        assert (await waits).startswith(b"HTTP/1.1 200 ")
        for writer in busy:
            writer.close()


async def test_handshakes_that_nobody_ends_hold_no_more_than_so_many() -> None:
    authority = Path(__file__).parent / "authority"
    files = TlsFiles(cert=str(authority / "good.pem"), key=str(authority / "key.pem"))
    config = Config(tls=TlsListeners(relay=files), timeouts=Timeouts(head_s=1.5))
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    async def asks(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(get("/", method="HEAD"))
        answer = await reader.read()
        writer.close()
        return answer

    async with Rig(make_snapshot([make_channel(1, 1)]), config) as rig:
        rig.server._handshakes._most = 10
        for _ in range(15):  # those that end take no room
            assert (await asks(rig.port)).startswith(b"HTTP/1.1 200 ")
        strangers = [await asyncio.open_connection("127.0.0.1", rig.port) for _ in range(40)]
        async with asyncio.timeout(5):
            while rig.server._listener is not None:
                await asyncio.sleep(0.005)
        assert len(rig.server._handshakes) <= 41  # who had been accepted by then
        async with asyncio.timeout(15):  # and when those were cut the next ones get in
            assert (await asks(rig.port)).startswith(b"HTTP/1.1 200 ")
        for _, writer in strangers:
            writer.close()
