"""Goal: who has a key and a session cannot make us keep answers, hold others up, or swell.

Method: raw sockets that send frames without end and never read, beside a client that has to be
served; frames as small as they come.
"""

import asyncio
import socket
import time
import tracemalloc

import pytest

from relay.edge.tunnel import client_socket
from relay.edge.tunnel import session as sessions
from relay.wire.websocket import BINARY, CONTINUATION, PING, PONG, TEXT, FrameReader, frame_of
from tests.flow.rig import KEY, Rig, make_channel, make_snapshot
from tests.flow.test_bad_input import AUTH, get

MASK = b"mask"
OPENING = (
    f"GET /v1/responses HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()
FLOODS = {
    "pings": frame_of(PING, b"p" * 125, MASK),
    "empty pings": frame_of(PING, b"", MASK),
    "pongs": frame_of(PONG, b"", MASK),
    "no JSON": frame_of(TEXT, b"x", MASK),
    "no text": frame_of(BINARY, b"x", MASK),
    "no turn": frame_of(TEXT, b"{}", MASK),
    "no model": frame_of(TEXT, b'{"type":"response.create","input":"x"}', MASK),
}
"""What costs eight bytes, and is answered with hundreds."""


async def opened(rig: Rig) -> socket.socket:
    """Open a session on a socket that takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", rig.port))
    await loop.sock_sendall(sock, OPENING)
    assert (await loop.sock_recv(sock, 4096)).startswith(b"HTTP/1.1 101 ")
    return sock


@pytest.mark.parametrize("kind", FLOODS)
async def test_who_reads_no_answers_is_heard_no_more(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "WRITE_S", 1.0)
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        sock = await opened(rig)
        loop, sent = asyncio.get_running_loop(), 0
        flood = FLOODS[kind] * (1 + 60_000 // len(FLOODS[kind]))
        try:
            async with asyncio.timeout(4):
                while True:
                    await loop.sock_sendall(sock, flood)
                    sent += len(flood)
        except (TimeoutError, ConnectionError):
            pass
        open_now = [
            one for one in rig.server._service.sessions._open if isinstance(one, sessions.Session)
        ]
        assert all(one.unsent_bytes < 256 * 1024 for one in open_now)
        assert sent < 32 * 2**20 or kind == "pongs"  # nobody answers those
        if any(one.writing_paused for one in open_now):
            async with asyncio.timeout(5):
                while len(rig.server._service.sessions):
                    await asyncio.sleep(0.02)
        else:  # cut already, or what is answered in two bytes has not filled the kernel's buffers
            assert not open_now or "ping" in kind or "pong" in kind
        sock.close()


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_burst_that_is_read_is_heard_in_full_and_in_turn(kind: str) -> None:
    count = 1 + 120_000 // len(FLOODS[kind])
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(OPENING)
        await reader.readuntil(b"\r\n\r\n")
        last = frame_of(PING, b"the last one", MASK)
        writer.write(FLOODS[kind] * count + last)
        burst = asyncio.ensure_future(reader.readuntil(b"the last one"))
        waits_s = []
        reader._limit = 2**30  # type: ignore[attr-defined]
        while not burst.done():
            begun_s = time.perf_counter()
            await rig.say(get("/v1/models", AUTH))
            waits_s.append(time.perf_counter() - begun_s)
        await burst
        assert max(waits_s, default=0.0) < 1.0
        writer.close()


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_a_message_in_tiny_frames_takes_what_it_counts(size: int) -> None:
    reader = FrameReader(64 * 2**20, masked=True)
    reader.feed(frame_of(TEXT, b"x", MASK)[:0])
    first = bytearray(frame_of(TEXT, b"x" * size, MASK))
    first[0] &= 0x7F  # it goes on
    more = bytearray(frame_of(CONTINUATION, b"x" * size, MASK))
    more[0] &= 0x7F
    reader.feed(bytes(first))
    block = bytes(more) * 1000
    tracemalloc.start()
    for _ in range(100):
        assert reader.feed(block) == []
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reader.held_bytes == size * 100_001
    assert taken < 2 * reader.held_bytes + 20_000
    (message,) = reader.feed(frame_of(PING, b"in the middle", MASK))
    assert message.payload == b"in the middle"
    (message,) = reader.feed(frame_of(CONTINUATION, b"the end", MASK))
    assert message.payload == b"x" * (size * 100_001) + b"the end"
