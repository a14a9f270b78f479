"""Goal: the mock's own record is a witness to trust, and its port and faults change when told.

Method: clients that leave, stop reading, pipeline or lie about HTTP, on raw sockets; the control
paths over HTTP; every wait is for a state of the mock, none for time to pass.
"""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import aiohttp
import pytest

from relay.mock.options import PIPELINED_MAX, MockOptions
from relay.mock.server import MockServer, start

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial: TypeAlias = Callable[[MockServer], Awaitable[Streams]]
Run: TypeAlias = Callable[[MockOptions], Awaitable[MockServer]]
BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "secret words"}]}


# Self-signed for localhost and 127.0.0.1, valid for a century, good for nothing else.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUEHBfhTmVvtGjSLIWaFzQE3cEg6owCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzIzMjMzNVoYDzIxMjYxMDMw
MjMyMzM1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASWWXvJ1HFgZVJ2+jGCcw982dGSMHaYGGsiwQ04llUpnZneUsW6h2IJ
CCsKWoAm/ZSntUlJv8dQR8FBtJk7+Qi2o28wbTAdBgNVHQ4EFgQUw6HD5zj7cbdb
7OdCEhaTpIyblgAwHwYDVR0jBBgwFoAUw6HD5zj7cbdb7OdCEhaTpIyblgAwDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgEVySsX2h30VFav4eHadmL7JjWNKvYUw8WF+m5Z0iXu0CIBEb
kdQnpMadkqR353Q+hBYYFL7XWcrKQwNT7u8vTVFk
-----END CERTIFICATE-----
"""
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgfDhPFaJBfc8blkH5
zDdBtdYyTlp6rw9nkY2b7hy8UvahRANCAASWWXvJ1HFgZVJ2+jGCcw982dGSMHaY
GGsiwQ04llUpnZneUsW6h2IJCCsKWoAm/ZSntUlJv8dQR8FBtJk7+Qi2
-----END PRIVATE KEY-----
"""


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def run() -> AsyncIterator[Run]:
    """Start mocks; they are closed after the test."""
    servers = []

    async def start_one(options: MockOptions) -> MockServer:
        servers.append(await start(options))
        return servers[-1]

    yield start_one
    for server in servers:
        await server.close()


@pytest.fixture
async def mock(run: Run) -> MockServer:
    return await run(MockOptions(chunks=10))


def request(body: object, path: str = "/v1/chat/completions", headers: str = "") -> bytes:
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


def form(**fields: str) -> bytes:
    """Return a multipart request for an edit; one part more has no name."""
    parts = [f'form-data; name="{name}"\r\n\r\n{text}' for name, text in fields.items()]
    parts.append("form-data\r\n\r\nnameless")
    body = "".join([f"--b\r\nContent-Disposition: {part}\r\n" for part in parts]) + "--b--\r\n"
    return (
        "POST /v1/images/edits HTTP/1.1\r\nHost: m\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Open connections to a mock; those that a test leaves open are closed after it."""
    writers = []

    async def open_one(mock: MockServer) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
        writers.append(writer)
        return reader, writer

    yield open_one
    for writer in writers:
        await hang_up(writer)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_client_that_leaves_is_noticed_within_a_second(run: Run, dial: Dial) -> None:
    mock = await run(MockOptions(chunks=1000, interval_ms=5))
    reader, writer = await dial(mock)
    writer.write(request(BODY, headers="x-request-id: abc\r\n"))
    await reader.readuntil(b'"content":"')
    assert mock.state.in_flight == 1
    await hang_up(writer)
    async with asyncio.timeout(1):
        await mock.until(lambda state: state.aborted == 1 and state.open == 0)
    (served,) = mock.served
    assert served.aborted
    assert served.request_id == "abc"
    assert 1 <= served.at_event < 1000
    assert served.completion_tokens == served.at_event - 1


async def test_a_client_that_leaves_before_the_first_byte(run: Run, dial: Dial) -> None:
    mock = await run(MockOptions(ttft_ms=60_000))
    _reader, writer = await dial(mock)
    writer.write(request(BODY))
    await mock.until(lambda state: state.in_flight == 1)
    await hang_up(writer)
    async with asyncio.timeout(1):
        await mock.until(lambda state: state.in_flight == 0)
    assert (mock.served[0].aborted, mock.served[0].completion_tokens) == (True, 0)


async def stall(mock: MockServer, raw: bytes) -> socket.socket:
    """Send a request, and read nothing until the mock has had to stop writing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(0)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", mock.port))
    await loop.sock_sendall(sock, raw)
    await mock.until(lambda state: state.pauses == 1)
    return sock


async def read_all(sock: socket.socket) -> bytes:
    raw = bytearray()
    with sock:
        while data := await asyncio.get_running_loop().sock_recv(sock, 262_144):
            raw += data
    return bytes(raw)


async def test_a_client_that_does_not_read_stops_the_words(run: Run) -> None:
    mock = await run(MockOptions(chunks=200_000))
    (await stall(mock, request(BODY))).close()
    await mock.until(lambda state: state.in_flight == 0)
    # 200,000 events are 40 MB; what the kernel's and our own buffer hold is a tenth at most.
    assert mock.served[0].aborted
    assert 0 < mock.served[0].at_event < 20_000


@pytest.mark.parametrize("interval_ms", [0.0, 0.001])
async def test_a_slow_reader_gets_every_word(run: Run, interval_ms: float) -> None:
    mock = await run(MockOptions(chunks=300, interval_ms=interval_ms, body_bytes=9_000_000))
    whole = await read_all(await stall(mock, request(BODY, headers="Connection: close\r\n")))
    assert whole.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert whole.count(b'"content":"') == 301
    assert whole.count(b"~") > 8_000_000


async def test_a_slow_reader_of_frames_on_their_own(run: Run) -> None:
    mock = await run(MockOptions(fail=("huge-head:9000000",)))
    whole = await read_all(await stall(mock, request(BODY)))
    assert len(whole) > 9_000_000


async def test_a_reset_waits_for_what_was_written(run: Run) -> None:
    mock = await run(MockOptions(chunks=30, body_bytes=9_000_000, fail=("finish-then-rst",)))
    sock = await stall(mock, request(BODY))
    seen = 0
    with sock, pytest.raises(ConnectionResetError):
        while data := await asyncio.get_running_loop().sock_recv(sock, 262_144):
            seen += len(data)
    assert seen > 8_000_000
    assert (mock.served[0].at_event, mock.served[0].aborted) == (32, False)


async def test_pipelined_requests_are_answered_in_order(mock: MockServer, dial: Dial) -> None:
    reader, writer = await dial(mock)
    models = [f"m{number}" for number in range(PIPELINED_MAX)]
    for model in models:
        writer.write(request({**BODY, "stream": False, "model": model}))
    for model in models:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2])
        assert json.loads(await reader.readexactly(length))["model"] == model
    assert [served.model for served in mock.served] == models


async def test_a_request_behind_a_stream_waits_for_its_end(run: Run, dial: Dial) -> None:
    mock = await run(MockOptions(chunks=3, interval_ms=0.1))
    reader, writer = await dial(mock)
    writer.write(request(BODY) + request({**BODY, "model": "second"}))
    first = await reader.readuntil(b"0\r\n\r\n")
    second = await reader.readuntil(b"0\r\n\r\n")
    assert b'"model":"second"' not in first
    assert b'"model":"m"' not in second


async def test_nothing_is_answered_behind_a_last_request(mock: MockServer, dial: Dial) -> None:
    reader, writer = await dial(mock)
    last = request(BODY, headers="Connection: close\r\n")
    writer.write(last + request({**BODY, "model": "second"}))
    assert (await reader.read()).endswith(b"0\r\n\r\n")
    assert [served.model for served in mock.served] == ["m"]
    assert mock.state.rejected == 0


async def test_too_many_pipelined_requests_are_cut(run: Run, dial: Dial) -> None:
    mock = await run(MockOptions(fail=("hang",)))
    reader, writer = await dial(mock)
    writer.write(request(BODY) * (PIPELINED_MAX + 2))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await mock.until(lambda state: state.open == 0)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"garbage\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: m\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 404),
        (b"POST /v1/nothing HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n", 404),
        (b"GET /v1/chat/completions HTTP/1.1\r\nHost: m\r\n\r\n", 405),
        (b"POST /models HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n", 405),
        (b"POST /embeddings HTTP/1.1\r\nHost: m\r\nContent-Length: 0\r\n\r\n", 400),
        (request({"model": "m"}), 400),
        (request({"model": "m"}, path="/v1/embeddings"), 400),
        (request({"model": "m", "input": [{"role": 1}]}, path="/responses"), 400),
        (request({"model": "m"}, path="/v1/images/edits"), 400),
        (form(model="m", n="11", image="bytes"), 400),
        (form(model="m"), 400),
    ],
)
async def test_unsound_requests_are_refused_and_counted(
    mock: MockServer, raw: bytes, status: int, dial: Dial
) -> None:
    reader, writer = await dial(mock)
    writer.write(raw)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert mock.state.rejected == 1
    assert mock.state.calls == 0


async def test_a_body_over_the_limit_gets_413(mock: MockServer, dial: Dial) -> None:
    reader, writer = await dial(mock)
    writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\n")
    block = b"100000\r\n" + bytes(1024 * 1024) + b"\r\n"
    for _ in range(65):
        writer.write(block)
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")


async def test_expect_continue_and_bodies_in_pieces(mock: MockServer, dial: Dial) -> None:
    reader, writer = await dial(mock)
    raw = request({**BODY, "stream": False}, headers="Expect: 100-continue\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    for byte in head + b"\r\n\r\n":
        writer.write(bytes((byte,)))
        await writer.drain()
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")


async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(
    mock: MockServer, dial: Dial
) -> None:
    reader, writer = await dial(mock)
    writer.write(request(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"))
    whole = await reader.read()
    assert b"Transfer-Encoding" not in whole
    assert whole.endswith(b"data: [DONE]\n\n")


async def test_head_is_a_sign_of_life(mock: MockServer, session: aiohttp.ClientSession) -> None:
    async with session.head(f"http://127.0.0.1:{mock.port}/") as answer:
        assert answer.status == 200


async def test_the_port_closes_and_opens(mock: MockServer, dial: Dial) -> None:
    port = mock.port
    reader, writer = await dial(mock)
    mock.set_fail("refuse")
    with pytest.raises(ConnectionRefusedError):
        await dial(mock)
    # The old connection is still there, and no better than a dead one.
    writer.write(request(BODY))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    mock.set_fail("refuse", "hang")
    mock.set_fail()
    assert mock.port == port
    _reader, writer = await dial(mock)
    await hang_up(writer)


async def test_drop_resets_what_runs(run: Run, dial: Dial) -> None:
    mock = await run(MockOptions(chunks=1000, interval_ms=50))
    reader, writer = await dial(mock)
    writer.write(request(BODY))
    await reader.readuntil(b'"role"')
    mock.drop()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    await mock.until(lambda state: state.open == 0)


async def test_a_new_fault_that_does_not_exist_changes_nothing(mock: MockServer) -> None:
    mock.set_fail("hang@0")
    with pytest.raises(ValueError, match="nope"):
        mock.set_fail("waf", "nope")
    assert mock.state.fail == ("hang@0",)
    with pytest.raises(ValueError, match="nope"):
        await start(MockOptions(fail=("nope",)))


async def test_controls_over_http(mock: MockServer, session: aiohttp.ClientSession) -> None:
    controls = f"http://127.0.0.1:{mock.port}/_mock"

    async def chat() -> int:
        async with session.post(f"{mock.url}/chat/completions", json=BODY) as answer:
            await answer.read()
            return answer.status

    assert await chat() == 200
    for fail in ("status:503", ["hang@0", "status:503"]):
        async with session.post(f"{controls}/fail", json={"fail": fail}) as answer:
            assert answer.status == 200
        assert await chat() == 503
        async with session.get(f"{mock.url}/models") as answer:
            assert answer.status == 503
    async with session.post(f"{controls}/fail", json={"fail": None}) as answer:
        assert (await answer.json())["fail"] == []
    assert await chat() == 200
    for wrong in ({"fail": "nope"}, {"fail": 3}, {}):
        async with session.post(f"{controls}/fail", json=wrong) as answer:
            assert answer.status == 400
    async with session.get(f"{controls}/served") as answer:
        text = await answer.text()
        assert [row["status"] for row in json.loads(text)] == [200, 503, 503, 200]
        assert "secret" not in text
    async with session.get(f"{controls}/state") as answer:
        state = await answer.json()
        assert (state["calls"], state["in_flight_max"], state["aborted"]) == (4, 1, 0)
        assert state["completion_tokens"] == 20
    async with session.delete(f"{controls}/served") as answer:
        assert (await answer.json())["completion_tokens"] == 0
    assert mock.served == []
    assert await chat() == 200
    mock.clear()
    assert mock.served == []
    async with session.get(f"{controls}/nothing") as answer:
        assert answer.status == 404


async def test_the_most_calls_at_once(mock: MockServer, dial: Dial) -> None:
    mock.set_fail("hang")
    dialled = [await dial(mock) for _ in range(7)]
    for _reader, writer in dialled:
        writer.write(request(BODY))
    await mock.until(lambda state: state.in_flight == 7)
    for _reader, writer in dialled:
        await hang_up(writer)
    await mock.until(lambda state: state.open == 0)
    assert (mock.state.in_flight_max, mock.state.aborted) == (7, 7)


async def test_calls_are_appended_to_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "served.jsonl"
    path.write_text('{"n":0}\n')
    mock = await run(MockOptions(served_path=path, chunks=3))
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(f"{mock.url}/chat/completions", json=BODY) as answer:
                await answer.read()
    await mock.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["n"] for row in rows] == [0, 1, 2]
    assert rows[1]["completion_tokens"] == 3
    assert "secret" not in path.read_text()


async def stream_of(run: Run, options: MockOptions, **fields: object) -> bytes:
    """Return the body of one stream of a mock of its own."""
    mock = await run(options)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{mock.url}/chat/completions", json={**BODY, **fields}) as answer,
    ):
        return await answer.read()


async def test_line_ends_of_gemini(run: Run) -> None:
    usage = {"include_usage": True}
    plain = await stream_of(run, MockOptions(), stream_options=usage)
    crlf = await stream_of(run, MockOptions(crlf=True), stream_options=usage)
    assert crlf == plain.replace(b"\n", b"\r\n")


async def test_usage_and_done_can_be_withheld(run: Run) -> None:
    usage = {"include_usage": True}
    body = await stream_of(run, MockOptions(usage=False, done=False), stream_options=usage)
    assert b"usage" not in body
    assert b"[DONE]" not in body
    assert b'"finish_reason":"stop"' in body


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("embeddings", {"input": [[1, 2], [3]]}),
        ("rerank", {"query": "q", "documents": [{"text": "d"}]}),
        ("images/generations", {"prompt": "p"}),
        ("completions", {"prompt": ["p"]}),
        ("responses", {"input": "p"}),
    ],
)
async def test_usage_is_withheld_everywhere(
    run: Run, session: aiohttp.ClientSession, path: str, fields: dict[str, object]
) -> None:
    for shown in (True, False):
        mock = await run(MockOptions(usage=shown))
        async with session.post(f"{mock.url}/{path}", json={"model": "m", **fields}) as answer:
            usage = (await answer.json()).get("usage")
            assert (usage is not None) is shown


async def test_an_echoed_prefix(run: Run) -> None:
    begun = {"role": "assistant", "content": "never said", "prefix": True}
    body = await stream_of(
        run,
        MockOptions(echo_prefix=True),
        messages=[*BODY["messages"], begun],  # type: ignore[misc]
    )
    assert b'{"content":"never said"}' in body


async def test_the_pace(run: Run) -> None:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    await stream_of(run, MockOptions(chunks=10, interval_ms=5, ttft_ms=30))
    assert loop.time() - begun_s >= 0.030 + 11 * 0.005 - 0.003


async def test_the_end_follows_the_last_event_at_once(run: Run) -> None:
    mock = await run(MockOptions(interval_ms=60_000))
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        for _ in range(2):
            async with session.post(
                f"{mock.url}/chat/completions", json={**BODY, "stream": False}
            ) as answer:
                await answer.read()
            await mock.until(lambda state: state.in_flight == 0)


@pytest.mark.parametrize("fault", [(), ("rst-after:2",), ("cut-after:2",)])
async def test_tls(run: Run, tmp_path: Path, fault: tuple[str, ...]) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text(CERTIFICATE)
    key.write_text(KEY)
    mock = await run(MockOptions(tls_cert=cert, tls_key=key, fail=fault))
    trust = ssl.create_default_context(cafile=str(cert))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
        answer = await session.post(f"{mock.url}/chat/completions", json=BODY)
        if fault:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        else:
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    assert mock.url.startswith("https://")
