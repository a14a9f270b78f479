"""Goal: nobody without a key can hold a listener of the console or of the admin API.

Method: a site on a real socket, its bounds made small; clients that say nothing, too little, too
slowly, or come by the hundred.
"""

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from relay.process import site
from relay.tls import TlsFiles

ASK = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
PATIENCE_S = 5.0
AUTHORITY = Path(__file__).parents[2] / "flow" / "authority"
FILES = TlsFiles(cert=str(AUTHORITY / "good.pem"), key=str(AUTHORITY / "key.pem"))


@asynccontextmanager
async def listening(files: TlsFiles | None = None) -> AsyncIterator[int]:
    """Serve; yield the port."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"{len(await request.read())}")

    async def think(_: web.Request) -> web.Response:
        await asyncio.sleep(0.6)
        return web.Response(text="thought")

    app = web.Application()
    app.router.add_route("*", "/", answer)
    app.router.add_get("/slow", think)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, **site.RUNNER)
    await runner.setup()
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    work = asyncio.create_task(await site.serve_site(runner, sock, files))
    try:
        yield sock.getsockname()[1]
    finally:
        work.cancel()
        await runner.cleanup()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LOOK_S", 0.02), ("IDLE_S", 0.3), ("BODY_S", 0.3), ("HANDSHAKE_S", 0.4)):
        monkeypatch.setattr(site, name, value)
    monkeypatch.setattr(site, "CONNECTIONS_MAX", 20)


async def dropped(reader: asyncio.StreamReader) -> bytes:
    """Return what is read until the other side ends or drops the connection."""
    said = b""
    async with asyncio.timeout(PATIENCE_S):
        try:
            while more := await reader.read(65_536):
                said += more
        except ConnectionError:
            pass
    return said


@pytest.mark.parametrize("begun", [b"", b"GET / HT", ASK[:-2], POST, POST + b"12"])
async def test_who_does_not_finish_a_request_is_dropped(begun: bytes) -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        assert await dropped(reader) == b""
        writer.close()


async def test_a_head_that_drips_wins_no_time() -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        ended = asyncio.create_task(dropped(reader))
        writer.write(b"GET / HTTP/1.1\r\nX: ")
        while not ended.done():
            if not writer.transport.is_closing():
                writer.write(b"a")
            await asyncio.sleep(0.02)
        assert await ended == b""
        writer.close()


async def test_who_asks_again_and_again_stays_and_long_answers_are_not_cut() -> None:
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(8):
            writer.write(ASK)
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n0")
            await asyncio.sleep(0.1)
        writer.write(ASK.replace(b"GET / ", b"GET /slow "))
        async with asyncio.timeout(PATIENCE_S):
            assert b"200 OK" in await reader.readuntil(b"thought")
        writer.close()


async def test_strangers_by_the_hundred_leave_room_for_who_asks() -> None:
    async with listening() as port:
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK)
        async with asyncio.timeout(PATIENCE_S):
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n0")
        for _, other in (*strangers, (reader, writer)):
            other.close()


async def test_where_all_are_busy_one_more_is_turned_away_at_once() -> None:
    async with listening() as port:
        busy = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in busy:
            writer.write(ASK.replace(b"GET / ", b"GET /slow "))
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await dropped(reader) == b""
        for other, _ in busy:
            async with asyncio.timeout(PATIENCE_S):
                assert b"200 OK" in await other.readuntil(b"thought")
        for _, one in (*busy, (reader, writer)):
            one.close()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def ask_over_tls(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting())
    writer.write(ASK.replace(b"Host", b"Connection: close\r\nHost"))
    said = await dropped(reader)
    writer.close()
    return said


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"])
async def test_handshakes_that_nobody_ends_are_so_many_and_no_longer_than_that(
    said: bytes,
) -> None:
    async with listening(FILES) as port:
        assert b"200 OK" in await ask_over_tls(port)
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
        for _, writer in strangers:
            writer.write(said)
        await asyncio.sleep(0.1)
        open_still = [one for one in strangers if not one[0].at_eof()]
        assert len(open_still) <= 21  # CONNECTIONS_MAX, and one that was let in as they came
        for reader, writer in strangers:
            await dropped(reader)
            writer.close()
        assert b"200 OK" in await ask_over_tls(port)


async def test_handshakes_that_end_leave_room_for_any_number() -> None:
    async with listening(FILES) as port:
        for _ in range(5):
            answers = await asyncio.gather(*[ask_over_tls(port) for _ in range(10)])
            assert all(b"200 OK" in answer for answer in answers)


async def test_what_is_encoded_is_not_decoded() -> None:
    """Twenty kilobytes that would be twenty megabytes stay what they are."""
    bomb = gzip.compress(b"a=b&" * 5_000_000)
    head = f"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(bomb)}\r\n"
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + b"Content-Encoding: gzip\r\n\r\n" + bomb)
        assert (await dropped(reader)).endswith(b"\r\n\r\n%d" % len(bomb))
        writer.close()
