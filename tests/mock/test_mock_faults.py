"""Goal: each fault is on the wire exactly what its name says, and every one is told apart.

Method: raw sockets, so that nothing between the mock's bytes and the assertion understands HTTP;
`Connection: close` makes a sound answer end by FIN, so the end of each answer is seen.
"""

import asyncio
import gzip
import json
import re
import socket
from collections.abc import AsyncIterator

import httptools
import pytest

from relay.mock.faults import MODES
from relay.mock.options import MockOptions
from relay.mock.server import MockServer, start

CHUNKS = 6
EVENTS = CHUNKS + 4  # role, tokens, finish, usage, [DONE]
LAST_CHUNK = b"0\r\n\r\n"


@pytest.fixture
async def mock() -> AsyncIterator[MockServer]:
    server = await start(MockOptions(chunks=CHUNKS))
    yield server
    await server.close()


class Seen:
    """What came over one connection: its bytes, and whether it ended by RST."""

    def __init__(self, raw: bytes, *, reset: bool) -> None:
        self.raw = raw
        self.reset = reset

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def chunks(self) -> list[bytes]:
        """The payloads of the whole chunks, the last empty one included."""
        return split_chunks(self.body)[0]

    @property
    def cut_off(self) -> bytes:
        """What follows the last whole chunk."""
        return split_chunks(self.body)[1]


def split_chunks(body: bytes) -> tuple[list[bytes], bytes]:
    found = []
    while match := re.match(rb"([0-9a-f]+)\r\n", body):
        size = int(match[1], 16)
        frame = body[match.end() :]
        if frame[size : size + 2] != b"\r\n":
            break
        found.append(frame[:size])
        body = frame[size + 2 :]
    return found, body


def request_bytes(fault: str, *, stream: bool) -> bytes:
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": stream,
        "stream_options": {"include_usage": True},
    }
    payload = json.dumps(body).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nConnection: close\r\n"
        b"Content-Type: application/json\r\nx-mock-fail: %b\r\nContent-Length: %d\r\n\r\n%b"
    ) % (fault.encode(), len(payload), payload)


async def dial(mock: MockServer) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(0)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", mock.port))
    return sock


async def receive(sock: socket.socket, *, until: bytes = b"", size_max: int = 2**30) -> Seen:
    """Read to the end of the connection, to a sight of `until`, or to `size_max` bytes."""
    raw = bytearray()
    try:
        async with asyncio.timeout(10):
            while data := await asyncio.get_running_loop().sock_recv(sock, 65_536):
                raw += data
                if (until and until in raw) or len(raw) > size_max:
                    break
    except ConnectionResetError:
        return Seen(bytes(raw), reset=True)
    return Seen(bytes(raw), reset=False)


async def ask(mock: MockServer, fault: str, *, stream: bool = True) -> Seen:
    with await dial(mock) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, request_bytes(fault, stream=stream))
        return await receive(sock)


async def test_without_a_fault_it_is_whole(mock: MockServer) -> None:
    seen = await ask(mock, "hang@0")
    assert b"HTTP/1.1 200 OK" in seen.head
    assert len(seen.chunks) == EVENTS + 1
    assert seen.chunks[-2:] == [b"data: [DONE]\n\n", b""]
    assert seen.cut_off == b""
    assert not seen.reset
    # What a relay must not pass on is there to be passed on.
    for leak in (b"Set-Cookie", b"openai-organization", b"x-ratelimit-", b"Server: "):
        assert leak in seen.head


@pytest.mark.parametrize("stream", [True, False])
async def test_reset_before_and_after_the_head(mock: MockServer, *, stream: bool) -> None:
    before = await ask(mock, "rst-before-head", stream=stream)
    after = await ask(mock, "rst-after-head", stream=stream)
    assert (before.raw, before.reset) == (b"", True)
    assert (after.raw, after.reset) == (after.head + b"\r\n\r\n", True)
    assert after.head.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("kept", [0, 1, 3, EVENTS])
@pytest.mark.parametrize(("mode", "reset"), [("rst-after", True), ("cut-after", False)])
async def test_cut_after_events(mock: MockServer, mode: str, kept: int, *, reset: bool) -> None:
    seen = await ask(mock, f"{mode}:{kept}")
    assert len(seen.chunks) == kept
    assert seen.cut_off == b""
    assert seen.reset is reset
    assert mock.served[-1].completion_tokens == min(max(kept - 1, 0), CHUNKS)
    assert not mock.served[-1].aborted


@pytest.mark.parametrize("mode", ["rst-after", "cut-after", "mid-frame", "mid-event", "end-after"])
async def test_one_body_is_cut_in_its_middle(mock: MockServer, mode: str) -> None:
    seen = await ask(mock, mode, stream=False)
    length = re.search(rb"Content-Length: (\d+)", seen.head)
    assert length is not None
    assert len(seen.body) == int(length[1]) // 2
    assert seen.reset is (mode == "rst-after")


async def test_end_after_is_sound_http_without_an_end_of_the_stream(mock: MockServer) -> None:
    seen = await ask(mock, "end-after:2")
    assert len(seen.chunks) == 3
    assert seen.chunks[-1] == b""
    assert b'finish_reason":"stop' not in seen.raw


async def test_mid_frame_and_mid_event(mock: MockServer) -> None:
    frame = await ask(mock, "mid-frame:2")
    assert len(frame.chunks) == 2
    assert re.match(rb"[0-9a-f]+\r\ndata: \{", frame.cut_off)
    event = await ask(mock, "mid-event:2")
    assert len(event.chunks) == 3
    assert event.cut_off == b""
    assert not event.chunks[-1].endswith(b"\n\n")


async def test_finish_then_reset(mock: MockServer) -> None:
    seen = await ask(mock, "finish-then-rst")
    assert b'"finish_reason":"stop"' in seen.chunks[-1]
    assert seen.reset
    whole = await ask(mock, "finish-then-rst", stream=False)
    assert json.loads(whole.body)["choices"]
    assert whole.reset


@pytest.mark.parametrize(("fault", "sight"), [("hang", b""), ("stall-after:2", b" ")])
async def test_silence_until_the_client_goes(mock: MockServer, fault: str, sight: bytes) -> None:
    with await dial(mock) as sock:
        await asyncio.get_running_loop().sock_sendall(sock, request_bytes(fault, stream=True))
        await mock.until(lambda state: state.in_flight == 1)
        if sight:
            assert len((await receive(sock, until=b'"content":"')).raw) > 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.get_running_loop().sock_recv(sock, 1)
    async with asyncio.timeout(1):
        await mock.until(lambda state: state.aborted == 1)
    assert mock.served[-1].aborted
    assert mock.served[-1].at_event == (2 if sight else 0)


async def test_garbage_and_no_head(mock: MockServer) -> None:
    garbage = await ask(mock, "garbage")
    assert garbage.raw
    assert b"HTTP" not in garbage.raw
    bare = await ask(mock, "http-09")
    assert bare.raw.startswith(b"data: {")
    assert bare.raw.endswith(b"data: [DONE]\n\n")


async def test_heads_without_end(mock: MockServer) -> None:
    huge = await ask(mock, "huge-head:1000000")
    assert 1_000_000 <= len(huge.raw) < 1_100_000
    assert b"\r\n\r\n" not in huge.raw
    with await dial(mock) as sock:
        await asyncio.get_running_loop().sock_sendall(
            sock, request_bytes("endless-1xx", stream=True)
        )
        seen = await receive(sock, size_max=1_000_000)
    assert seen.raw.count(b"HTTP/1.1 103 ") > 1000
    assert b"HTTP/1.1 200 " not in seen.raw


async def test_an_interim_answer_comes_first(mock: MockServer) -> None:
    seen = await ask(mock, "continue-100", stream=False)
    assert seen.raw.startswith(b"HTTP/1.1 103 ")
    assert b"HTTP/1.1 200 OK\r\n" in seen.raw


@pytest.mark.parametrize("stream", [True, False])
async def test_lengths_that_lie(mock: MockServer, *, stream: bool) -> None:
    long = await ask(mock, "wrong-length", stream=stream)
    assert int(re.findall(rb"Content-Length: (\d+)", long.head)[0]) == len(long.body) + 1000
    two = await ask(mock, "two-lengths", stream=stream)
    lengths = [int(number) for number in re.findall(rb"Content-Length: (\d+)", two.head)]
    assert lengths == [len(two.body) - 1, len(two.body)]


@pytest.mark.parametrize("stream", [True, False])
async def test_extra_bytes_are_an_answer_nobody_asked_for(
    mock: MockServer, *, stream: bool
) -> None:
    seen = await ask(mock, "extra-bytes", stream=stream)
    whole, _, extra = seen.raw.rpartition(b"HTTP/1.1 200 OK\r\n")
    assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
    assert extra.endswith(b"\r\n\r\n{}")
    if stream:
        assert whole.endswith(LAST_CHUNK)


async def test_bad_chunk(mock: MockServer) -> None:
    seen = await ask(mock, "bad-chunk:2")
    assert len(seen.chunks) == 2
    assert seen.cut_off.startswith(b"zz\r\n")


@pytest.mark.parametrize("stream", [True, False])
async def test_gzip_that_nobody_asked_for(mock: MockServer, *, stream: bool) -> None:
    plain = await ask(mock, "hang@0", stream=stream)
    packed = await ask(mock, "gzip", stream=stream)
    assert b"Content-Encoding: gzip" in packed.head
    body = b"".join(packed.chunks) if stream else packed.body
    wanted = b"".join(plain.chunks) if stream else plain.body
    assert gzip.decompress(body) == wanted


async def test_waf_and_pages(mock: MockServer) -> None:
    wall = await ask(mock, "waf")
    assert b" 403 Forbidden\r\n" in wall.head
    page = await ask(mock, "html-for-sse")
    assert b" 200 OK\r\n" in page.head
    for seen in (wall, page):
        assert b"Content-Type: text/html" in seen.head
        assert seen.body.startswith(b"<!DOCTYPE html>")


async def test_json_where_a_stream_was_asked_for(mock: MockServer) -> None:
    seen = await ask(mock, "json-for-sse")
    assert b"Content-Type: application/json" in seen.head
    assert json.loads(seen.body)["object"] == "chat.completion"


async def test_a_stream_without_events(mock: MockServer) -> None:
    seen = await ask(mock, "empty-stream")
    assert b"Content-Type: text/event-stream" in seen.head
    assert seen.body == LAST_CHUNK
    assert (await ask(mock, "empty-stream", stream=False)).body == b""


async def test_errors_inside_a_200(mock: MockServer) -> None:
    first = await ask(mock, "error-first")
    assert first.chunks[0].startswith(b'data: {"error":{')
    assert first.chunks[1:] == [b""]
    later = await ask(mock, "error-after:3")
    assert [b'"error"' in chunk for chunk in later.chunks] == [False] * 3 + [True, False]
    whole = await ask(mock, "error-first", stream=False)
    assert list(json.loads(whole.body)) == ["error"]


async def test_no_done(mock: MockServer) -> None:
    seen = await ask(mock, "no-done")
    assert b"[DONE]" not in seen.raw
    assert b'"usage":{' in seen.chunks[-2]
    assert seen.raw.endswith(LAST_CHUNK)


@pytest.mark.parametrize("stream", [True, False])
async def test_one_long_event_says_the_same(mock: MockServer, *, stream: bool) -> None:
    seen = await ask(mock, "long-event:300000", stream=stream)
    if stream:
        sizes = sorted(len(chunk) for chunk in seen.chunks)
        assert sizes[-1] > 300_000 > sizes[-2]
    else:
        assert json.loads(seen.body)["choices"]
        assert len(seen.body) > 300_000


@pytest.mark.parametrize("stream", [True, False])
async def test_invalid_utf8(mock: MockServer, *, stream: bool) -> None:
    seen = await ask(mock, "invalid-utf8", stream=stream)
    with pytest.raises(UnicodeDecodeError):
        seen.body.decode()
    seen.body.replace(b"\xff\xfe", b"").decode()


async def test_split_bytes(mock: MockServer) -> None:
    seen = await ask(mock, "split-bytes")
    plain = await ask(mock, "hang@0")
    assert {len(chunk) for chunk in seen.chunks} == {0, 1}
    assert b"".join(seen.chunks) == b"".join(plain.chunks)
    whole = await ask(mock, "split-bytes", stream=False)
    assert json.loads(whole.body)["usage"]["completion_tokens"] == CHUNKS


async def test_statuses_and_retry_after(mock: MockServer) -> None:
    for status in range(400, 600):
        seen = await ask(mock, f"status:{status}")
        assert seen.head.startswith(b"HTTP/1.1 %d " % status)
        assert seen.body
    seen = await ask(mock, "retry-after:9")
    assert seen.head.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: 9\r\n" in seen.head + b"\r\n"


async def test_refuse_of_one_request_is_a_reset(mock: MockServer) -> None:
    assert (await ask(mock, "refuse")).reset


async def test_an_unknown_fault_is_the_asker_s(mock: MockServer) -> None:
    seen = await ask(mock, "nope")
    assert seen.head.startswith(b"HTTP/1.1 400 ")


class Response:
    """Counts what a strict HTTP parser makes of an answer."""

    complete = 0

    def on_message_complete(self) -> None:
        self.complete += 1


BROKEN_HTTP = {"garbage", "http-09", "two-lengths", "bad-chunk"}
CUT_SHORT = (
    *("rst-before-head", "rst-after-head", "rst-after", "cut-after", "mid-frame", "mid-event"),
    *("finish-then-rst", "wrong-length", "refuse", "huge-head"),
)
ANSWERS = {**dict.fromkeys(CUT_SHORT, 0), "continue-100": 2, "extra-bytes": 2}
"""Whole messages where it is not one; an interim answer is a message too."""
SILENT = {"hang", "stall-after", "endless-1xx"}


@pytest.mark.parametrize("mode", sorted(set(MODES) - SILENT))
async def test_a_strict_parser_agrees_on_what_is_broken(mock: MockServer, mode: str) -> None:
    fault = f"{mode}:100000" if mode in ("huge-head", "long-event") else mode
    seen = await ask(mock, fault)
    response = Response()
    try:
        httptools.HttpResponseParser(response).feed_data(seen.raw)
        broken = False
    except httptools.HttpParserError:
        broken = True
    assert broken is (mode in BROKEN_HTTP)
    if not broken:
        assert response.complete == ANSWERS.get(mode, 1)
