"""Goal: in overload who finds no room is told so at once, and rightly; a burst sheds nobody.

Method: a data plane with real sockets on uvloop. An overload is found by keeping the loop busy, or
played by shutting the gate, with no room left; what is answered is parsed by strict parsers and by
the official client.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import h11
import msgspec
import openai
import pytest

from relay.clock import clock_s
from relay.config import Config, Server
from relay.edge.overload.gate import LATE_S, QUIET_S
from relay.edge.overload.screen import GUESTS_MAX
from relay.model import LineKind
from relay.records import Endpoint
from relay.tls import TlsFiles, TlsListeners
from tests.flow.rig import KEY, MODEL, Peer, Rig, chat, make_channel, make_snapshot, post
from tests.flow.test_isolation import answer, with_lines

ONE: Final = post("/v1/chat/completions", chat())
KEPT: Final = ONE.replace(b"Connection: close\r\n", b"")
PROXY: Final = b"PROXY TCP4 203.0.113.9 127.0.0.1 5000 80\r\n"
AUTHORITY: Final = Path(__file__).parent / "authority"


@contextlib.asynccontextmanager
async def serving(config: Config | None = None, *, lines: bool = False) -> AsyncIterator[Rig]:
    async with Peer(answer) as peer:
        snapshot = make_snapshot([make_channel(1, peer.port)])
        async with Rig(with_lines(snapshot) if lines else snapshot, config) as rig:
            yield rig


async def overload(rig: Rig) -> None:
    """Play an overload that leaves no room, until the test ends."""
    door = rig.server._door
    door.begin_beats()
    door.gate.shut_now(0, clock_s())
    door._turn_gate()
    door._look_out()

    def keep() -> None:
        door.gate._refused_s = clock_s()
        door.gate.allowance.calls_max = 0.0
        asyncio.get_running_loop().call_later(0.01, keep)

    keep()
    async with asyncio.timeout(5):
        while not door.arrivals.strict:
            await asyncio.sleep(0.01)


def read_strictly(raw: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return the one answer that `raw` is to the last byte, as h11 reads it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    head = client.next_event()
    assert isinstance(head, h11.Response)
    body = b""
    while isinstance(found := client.next_event(), h11.Data):
        body += bytes(found.data)
    assert isinstance(found, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    return head.status_code, {bytes(k).lower(): bytes(v) for k, v in head.headers}, body


def check_refusal(raw: bytes, *, closes: bool) -> None:
    status, headers, body = read_strictly(raw)
    assert status == 503
    assert int(headers[b"retry-after"]) >= 1
    assert (headers.get(b"connection") == b"close") == closes
    error = msgspec.json.decode(body)["error"]
    assert (error["code"], error["type"]) == ("service_unavailable", "server_error")


async def test_a_burst_sheds_nobody() -> None:
    async with serving() as rig:
        async with asyncio.timeout(30):
            said = await asyncio.gather(*(rig.say(ONE) for _ in range(300)))
        assert {one[9:12] for one in said} == {b"200"}
        assert not rig.server.counters.refused


async def test_an_overload_that_stands_is_found_and_left_again() -> None:
    async with serving() as rig:
        door, begun_s = rig.server._door, time.monotonic()
        door._counters.inflight += 1  # a call that runs, so that the worker looks
        door.begin_beats()
        async with asyncio.timeout(20):
            while not door.gate.shut:
                ends_s = time.monotonic() + 0.2
                while time.monotonic() < ends_s:
                    pass
                await asyncio.sleep(0.005)
        assert time.monotonic() - begun_s >= LATE_S
        assert rig.server._screen.is_open
        door._counters.inflight -= 1
        left_s = time.monotonic()
        async with asyncio.timeout(20):
            while door.gate.shut or rig.server._listener is None:
                await asyncio.sleep(0.01)
        assert time.monotonic() - left_s >= QUIET_S / 2
        assert not rig.server._screen.is_open
        assert not door.arrivals.strict
        assert (await rig.say(ONE))[9:12] == b"200"


async def test_who_dials_is_refused_without_a_connection_and_counted() -> None:
    async with serving() as rig:
        await overload(rig)
        for _ in range(20):
            check_refusal(await rig.say(ONE), closes=True)
        counters = rig.server.counters
        assert counters.refused["overload"] == counters.unlogged == 20
        assert counters.requests["", Endpoint.CHAT.value, "5xx"] == 20
        assert not rig.journal.ends
        assert not counters.connections


async def test_who_sends_its_body_later_hears_why() -> None:
    body = b"x" * 300_000
    long = post("/v1/chat/completions", body)
    async with serving() as rig:
        await overload(rig)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(long[:-100_000])
        check_refusal(await reader.read(), closes=True)
        writer.write(long[-100_000:])
        writer.close()
        async with asyncio.timeout(5):
            while rig.server._screen._guests:
                await asyncio.sleep(0.01)


async def test_a_kept_connection_is_refused_and_stays() -> None:
    async with serving() as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        await overload(rig)
        for _ in range(3):
            writer.write(KEPT)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            check_refusal(head + await reader.readexactly(size), closes=False)
        writer.write(ONE)
        check_refusal(await reader.read(), closes=True)
        writer.close()
        assert not rig.journal.ends
        assert rig.server.counters.inflight == 0


async def test_what_is_no_plain_call_takes_the_usual_way() -> None:
    async with serving() as rig:
        await overload(rig)
        assert (await rig.say(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))[
            9:12
        ] == b"200"
        length = b"%x\r\n%b\r\n0\r\n\r\n" % (len(b"{}"), b"{}")
        chunked = post("/v1/chat/completions", b"").replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        check_refusal(await rig.say(chunked + length), closes=True)
        assert (await rig.ended())[0].status == 503


async def test_a_dedicated_line_is_never_turned_away() -> None:
    async with serving(lines=True) as rig:
        kept = KEPT.replace(b"Host: relay", b"Host: relay\r\nx-relay-line: dedicated")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        await overload(rig)
        found = {}
        for kind in LineKind:
            raw = post("/v1/chat/completions", chat(), f"x-relay-line: {kind.value}")
            found[kind] = {(await rig.say(raw))[9:12] for _ in range(10)}
        assert found.pop(LineKind.DEDICATED) == {b"200"}
        assert set.union(*found.values()) == {b"503"}
        for _ in range(5):
            writer.write(kept)
            assert (await reader.readuntil(b"}]}"))[9:12] == b"200"
        writer.close()


async def test_a_balancers_header_comes_first() -> None:
    config = Config(server=Server(proxy_protocol=True, trusted_proxies=["127.0.0.0/8"]))
    async with serving(config, lines=True) as rig:
        await overload(rig)
        plain = post("/v1/chat/completions", chat(), "x-relay-line: standard")
        check_refusal(await rig.say(PROXY + plain), closes=True)
        named = post("/v1/chat/completions", chat(), "x-relay-line: dedicated")
        assert (await rig.say(PROXY + named))[9:12] == b"200"
        assert rig.journal.starts[0].ip == "203.0.113.9"
        assert await rig.say(ONE) == b""  # no header, no word
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(PROXY)
        await asyncio.sleep(0.05)
        writer.write(plain)
        check_refusal(await reader.read(), closes=True)
        writer.close()


async def test_a_tls_client_never_sees_plain_bytes() -> None:
    files = TlsFiles(cert=str(AUTHORITY / "good.pem"), key=str(AUTHORITY / "key.pem"))
    context = ssl.create_default_context(cafile=AUTHORITY / "ca.pem")
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with serving(Config(tls=TlsListeners(relay=files))) as rig:
        await overload(rig)
        assert not rig.server._screen.is_open
        for raw in (ONE, KEPT):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=context)
            writer.write(raw)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            check_refusal(head + await reader.readexactly(size), closes=raw is ONE)
            writer.close()
        assert ONE[:4] not in await rig.say(ONE), "who speaks no TLS gets an alert or an end"


async def test_the_official_client_reads_it_and_tries_again() -> None:
    async with serving() as rig:
        await overload(rig)
        async with openai.AsyncOpenAI(api_key=KEY, base_url=rig.url, max_retries=1) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                await client.chat.completions.create(
                    model=MODEL, messages=[{"role": "user", "content": "hello"}]
                )
        assert caught.value.status_code == 503
        assert caught.value.code == "service_unavailable"
        assert rig.server.counters.refused["overload"] == 2


async def test_who_dials_and_asks_nothing_is_bounded() -> None:
    async with serving() as rig:
        await overload(rig)
        screen = rig.server._screen
        socks = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(200)]
        async with asyncio.timeout(10):
            while len(screen._guests) < 200:
                await asyncio.sleep(0.01)
            assert len(screen._guests) <= GUESTS_MAX
            while screen._guests:  # they get connections as ever
                await asyncio.sleep(0.05)
        socks[0].send(ONE)
        assert rig.server.counters.connections == 200
        loop = asyncio.get_running_loop()
        socks[0].setblocking(False)
        check_refusal(await loop.sock_recv(socks[0], 65_536), closes=True)
        for sock in socks:
            sock.close()
