"""Goal: nobody without a key can make us hold much, work long, or break a connection's order.

Method: raw sockets that send ahead, never read, stop in the middle, or speak another HTTP; beside
them one client that has to be served all the while.
"""

import asyncio
import socket
import time

import pytest

from relay.config import Config, Timeouts
from relay.door_rules import DoorRules
from relay.edge.client.early import EARLY_BYTES_MAX
from tests.flow.rig import Peer, Rig, chat, make_channel, make_snapshot, post
from tests.flow.test_bad_input import ANSWER, AUTH, CHAT, answer_json, get, read

NOPE = b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n"
FLOODS = {
    "404": NOPE,
    "401": b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    "200": b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "405": b"DELETE /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    "401 with a body": post(CHAT, chat(), key="relay_x").replace(b"Connection: close\r\n", b""),
    "401 in chunks": b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
    b"2\r\n{}\r\n0\r\n\r\n",
    "upgrades": b"GET /nope HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
}


async def connect(rig: Rig) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", rig.port))
    return sock


@pytest.mark.parametrize("kind", FLOODS)
async def test_who_reads_no_answers_is_asked_no_more(kind: str) -> None:
    config = Config(timeouts=Timeouts(write_s=1.0))
    async with Rig(make_snapshot([make_channel(1, 1)]), config) as rig:
        sock = await connect(rig)
        loop, sent = asyncio.get_running_loop(), 0
        flood = FLOODS[kind] * (1 + 60_000 // len(FLOODS[kind]))
        with pytest.raises((TimeoutError, ConnectionError)):
            async with asyncio.timeout(20):
                while True:
                    await loop.sock_sendall(sock, flood)
                    sent += len(flood)
        # What it sent beyond our bound lies in the kernel, and so do its answers.
        assert all(c.unsent_bytes < 256 * 1024 for c in rig.server._connections.open)
        assert sent < 12 * 2**20
        assert rig.server.counters.inflight == 0
        sock.close()


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_burst_that_is_read_is_answered_in_full_and_in_turn(kind: str) -> None:
    count = 1 + 300_000 // len(FLOODS[kind])
    last = get("/v1/models", AUTH)
    config = Config(door=DoorRules(wrong_keys_max=0, wrong_keys_refused=0))
    async with Rig(make_snapshot([make_channel(1, 1)]), config) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(FLOODS[kind] * count + last)
        burst = asyncio.ensure_future(reader.read())
        waits_s = []
        while not burst.done():
            begun_s = time.perf_counter()
            await rig.say(get("/v1/models", AUTH))
            waits_s.append(time.perf_counter() - begun_s)
        answers = await burst
        writer.close()
        assert answers.count(b"HTTP/1.1 ") == count + 1
        assert answers.count(b"HTTP/1.1 200 OK\r\n") >= 1
        assert answers.endswith(b"}") and b'"object":"list"' in answers[-400:]
        # A turn of others comes between any two of them: on an idle machine some milliseconds.
        assert max(waits_s) < 1.0


async def test_a_pipeline_of_calls_is_answered_in_order_whatever_its_pieces() -> None:
    """Bodies with a length and in chunks, cut at every kind of place."""
    body = b'{"model":"gpt-test","messages":[],"pad":"%b"}' % (b"x" * 40_000)
    plain = post(CHAT, body).replace(b"Connection: close\r\n", b"")
    chunked = (
        f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    ).encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    whole = plain + chunked + NOPE + plain + chunked + post(CHAT, chat())
    async with Peer(serve_many) as peer:
        for piece in (len(whole), 16 * 1024, 16 * 1024 + 1, 7001):
            async with Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
                reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
                for at in range(0, len(whole), piece):
                    writer.write(whole[at : at + piece])
                    await asyncio.sleep(0)
                answers = await reader.read()
                writer.close()
                statuses = [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]
                assert statuses == [b"200", b"200", b"404", b"200", b"200", b"200"], piece


async def serve_many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await answer_json(reader, writer)


@pytest.mark.parametrize("kind", ["404", "401", "200", "405", "upgrades"])
async def test_what_a_stranger_asks_costs_microseconds(kind: str) -> None:
    """A path of any form is refused without a search for one that is like it."""
    paths = [f"/{'chat/completion' * n}/{n}"[:60] for n in range(1, 300)]
    raw = b"".join(FLOODS[kind].replace(b"/nope", path.encode()) for path in paths)
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        begun_s = time.process_time()
        await rig.say(raw + get("/", method="HEAD"))
        assert (time.process_time() - begun_s) / len(paths) < 1e-3


# --- upgrade offers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        ("Connection: upgrade", "Upgrade: h2c"),
        ("Connection: Upgrade", "Upgrade: TLS/1.0"),
        ("Connection: Upgrade", "Upgrade: foo/2, bar"),
        ("Connection: Upgrade", "Upgrade: websocket"),  # with a POST it is no handshake
        ("Upgrade: h2c",),
    ],
)
async def test_offers_of_another_protocol_are_ignored(lines: tuple[str, ...]) -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        raw = post(CHAT, chat(), *lines).replace(b"Connection: close\r\n", b"")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        for cut in (len(raw), len(raw) - 9):  # whole, and its body in two reads
            writer.write(raw[:cut])
            await asyncio.sleep(0.05 if cut < len(raw) else 0)
            writer.write(raw[cut:])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK"), head
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
        # The connection goes on in HTTP/1.1, and what is sent behind an offer is not lost.
        writer.write(raw + get("/nope"))
        answers = await reader.read()
        assert answers.count(b"HTTP/1.1 200 OK") == 1 and b"HTTP/1.1 404 " in answers
        writer.close()


@pytest.mark.parametrize("offer", ["websocket", "WebSocket", "h2c, websocket", "websocket , foo"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/audio/speech", "/"])
async def test_a_websocket_where_there_is_none_is_answered_426_at_once(
    offer: str, path: str
) -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        raw = get(path, AUTH, f"Upgrade: {offer}", "Sec-WebSocket-Version: 13")
        answer = await rig.say(
            raw.replace(b"Connection: close", b"Connection: Upgrade"), until=b"}}"
        )
        assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
        assert b"\r\nUpgrade: HTTP/1.1\r\n" in answer


# --- HEAD ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("/v1/models", AUTH),
        ("/v1/models/gpt-test", AUTH),
        ("/v1/models/none", AUTH),
        ("/v1/models", "x: y"),
        ("/nope", AUTH),
        (CHAT, AUTH),
        ("/", AUTH),
    ],
)
async def test_a_head_is_answered_with_the_head_of_a_get(path: str, header: str) -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        head, _, body = (await rig.say(get(path, header))).partition(b"\r\n\r\n")
        raw = get(path, header, method="HEAD")
        # On a kept connection too, where a body would be taken for the next answer's head.
        kept = raw.replace(b"Connection: close\r\n", b"")
        answers = await rig.say(kept + kept + raw)
        only = answers.split(b"HTTP/1.1 ")[1:]
        assert len(only) == 3 and all(part.endswith(b"\r\n\r\n") for part in only)
        assert b"Content-Length: %d\r\n" % len(body) in answers
        assert only[2].split(b"\r\n")[0] == head.split(b"\r\n")[0].removeprefix(b"HTTP/1.1 ")


async def test_a_call_after_a_head_gets_its_body() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        call = post(CHAT, chat()).replace(b"Connection: close\r\n", b"")
        head = get("/", method="HEAD").replace(b"Connection: close\r\n", b"")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        for raw in (call, head, call):
            writer.write(raw)
            got = await reader.readuntil(b"\r\n\r\n")
            size = int(got.lower().split(b"content-length: ")[1].split()[0])
            body = await reader.readexactly(size)
            assert bool(body) is (raw is call)
        writer.close()


# --- bodies that break off -----------------------------------------------------------------------

_HEAD = (
    f"POST {CHAT} HTTP/1.1\r\nHost: a\r\n{AUTH}\r\nContent-Type: application/json\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
).encode()


@pytest.mark.parametrize(
    "pieces",
    [
        (_HEAD, b"5\r\nhello\r\n", b"zz\r\n"),
        (_HEAD + b"5\r\nhello\r\n", b"zz\r\n"),
        (_HEAD, b"zz\r\n"),
        (_HEAD, b"5\r\nhelloXX", b"5\r\nhello"),
        (_HEAD, b"-1\r\n"),
        (_HEAD, b"5\r\nhello\r\n", b"FFFFFFFFFFFFFFFFF\r\n"),
        (_HEAD, b"5 \x00\r\nhello\r\n"),
        (_HEAD, b"2\r\n{}\r\n0\r\n", b"no trailer\r\n\r\n"),
        (_HEAD, b"2\r\n{}\r\n0\r\n", b"a: b\r\n" * 200),
        (_HEAD, b"2\r\n{}\r\n0\r\n", b"a: %b\r\n" % (b"b" * 40_000)),
        (_HEAD, b"2\r\n{}\r\n0\r\n", b"a: %b\r\n" % (b"b" * 9000) * 12),
        (_HEAD, b"2\r\n{}\r\n", b"2;" + b"x" * 100_000),
    ],
)
async def test_a_bad_chunk_is_answered_400_at_once(pieces: tuple[bytes, ...]) -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        begun_s = time.monotonic()
        for piece in pieces:
            if not writer.transport.is_closing():
                writer.write(piece)
            await asyncio.sleep(0.02)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"431"), head
        assert b"Connection: close" in head
        assert time.monotonic() - begun_s < 8
        writer.close()


# --- HTTP/1.0 ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Connection: keep-alive",),
        ("Connection: Keep-Alive", "Keep-Alive: 300"),
        ("Expect: 100-continue",),
        ("Connection: keep-alive", "Expect: 100-continue"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_http_1_0_is_told_that_its_connection_closes(
    lines: tuple[str, ...], *, stream: bool
) -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        raw = post(CHAT, chat(stream=stream), *lines).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        answer = await rig.say(raw.replace(b"Connection: close\r\n", b""))
        assert answer.startswith((b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 502 "))
        assert b"\r\nConnection: close\r\n" in answer
        assert b"100 Continue" not in answer and b"chunked" not in answer


async def test_http_1_0_in_chunks_is_not_trusted_with_a_second_request() -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (22, b'{"model":"gpt-test"   }'[:22])
        raw = _HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + body
        raw = raw.replace(b"Host: a", b"Host: a\r\nConnection: keep-alive")
        answer = await rig.say(raw + NOPE)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in answer


# --- heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10_000, 20_000, 32_000])
@pytest.mark.parametrize("name", ["Cookie", "Authorization-Extra", "X-Forwarded-Client-Cert"])
async def test_a_long_header_field_is_served(name: str, size: int) -> None:
    async with Peer(answer_json) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        raw = post(CHAT, chat(), f"{name}: {'c' * size}")
        for piece in (len(raw), 4000):
            reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
            for at in range(0, len(raw), piece):
                writer.write(raw[at : at + piece])
                await asyncio.sleep(0.001)
            got, _, body = read(await reader.read())
            assert (got, body) == (200, ANSWER)
            writer.close()


@pytest.mark.parametrize(
    ("raw", "status", "word"),
    [
        (get("/", f"Cookie: {'c' * 33_000}"), 431, "header field"),
        (get("/", "c" * 33_000 + ": d"), 431, "header field"),
        (get("/", *[f"a{n}: {'b' * 8000}" for n in range(12)]), 431, "head of the request"),
        (get("/", *["a: b"] * 129), 431, "header fields"),
        (get("/?" + "q" * 9000), 414, "target"),
        (get("/v1/models/" + "q" * 9000, AUTH), 414, "target"),
    ],
)
async def test_too_long_a_head_is_told_what_of_it(raw: bytes, status: int, word: str) -> None:
    async with Rig(make_snapshot([make_channel(1, 1)])) as rig:
        got, headers, body = read(await rig.say(raw))
        assert (got, headers["connection"]) == (status, "close")
        assert word in body["error"]["message"]


# --- clients that leave --------------------------------------------------------------------------


@pytest.mark.parametrize("early", [0, 1000, EARLY_BYTES_MAX - 1, EARLY_BYTES_MAX, 4 * 2**20])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_is_noticed_whatever_it_sent_ahead(
    early: int, *, stream: bool
) -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async with Peer(silent) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        sock = await connect(rig)
        loop = asyncio.get_running_loop()
        raw = post(CHAT, chat(stream=stream)).replace(b"Connection: close\r\n", b"")
        await loop.sock_sendall(sock, raw)
        async with asyncio.timeout(5):
            while not peer.requests:
                await asyncio.sleep(0.005)
        try:
            async with asyncio.timeout(2):
                await loop.sock_sendall(sock, (NOPE * (1 + early // len(NOPE)))[:early])
        except (ConnectionError, TimeoutError):
            pass  # cut already: too much was sent ahead
        sock.close()
        async with asyncio.timeout(5):
            await peer.closed.wait()
        (end,) = await rig.ended()
        assert end.reason == "client_gone"


LONG_BYTES = 8 << 20
"""More than the kernel keeps on both sides: it is still being sent when it is refused."""
REFUSED = {
    "field": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * LONG_BYTES, 431),
    "fields": (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: aaaaaaaaaaaa\r\n" * (LONG_BYTES // 17), 431),
    "target": (b"GET /" + b"a" * LONG_BYTES, 414),
    "no HTTP": (b"\x16\x03\x01" + b"a" * LONG_BYTES, 400),
    "bad chunk": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + AUTH.encode() + b"\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n" + b"a" * LONG_BYTES,
        400,
    ),
    "body": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
        b"Content-Length: 8388608\r\n\r\n" + b"a" * LONG_BYTES,
        401,
    ),
}


@pytest.mark.parametrize("kind", sorted(REFUSED))
async def test_who_sends_all_before_reading_gets_the_refusal_and_no_reset(kind: str) -> None:
    raw, status = REFUSED[kind]

    def send_then_read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as client:
            client.sendall(raw)
            return b"".join(iter(lambda: client.recv(65_536), b""))

    async with Rig(make_snapshot([make_channel(1, 9)])) as rig:
        for _ in range(3):
            said = await asyncio.to_thread(send_then_read, rig.port)
            assert said.startswith(b"HTTP/1.1 %d " % status), said


async def test_who_never_stops_sending_what_was_refused_is_cut_within_seconds() -> None:
    async with Rig(make_snapshot([make_channel(1, 9)])) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        begun_s = time.monotonic()
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"a" * 65_536)
                await writer.drain()
                assert time.monotonic() < begun_s + 6.0, "still listened to"
                await asyncio.sleep(0.01)
        assert time.monotonic() > begun_s + 1.0
        writer.transport.abort()
        del reader
