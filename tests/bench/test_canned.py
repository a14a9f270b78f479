"""Goal: the canned upstream answers as the scripted one does, in the writes that were asked for.

Method: the generator's own calls on a server of each, over real sockets; the mock's frames.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from benchmarks.load.job import Call, Job
from benchmarks.load.request import make_request
from benchmarks.scenarios.table import SCENARIOS
from benchmarks.targets.canned import Answers, CannedProtocol, cut
from benchmarks.targets.upstream import Script
from relay.mock.options import MockOptions
from relay.mock.server import start
from tests.bench.servers import put

CALLS = [
    Call(stream=False, prompt_bytes=70_000),
    Call(stream=True),
    Call(stream=True, shape="messages", tools=4, prompt_bytes=30_000),
    Call(stream=True, shape="responses", tools=4, prompt_bytes=30_000),
]


@asynccontextmanager
async def canned(script: Script) -> AsyncIterator[int]:
    answers = Answers(script)
    server = await asyncio.get_running_loop().create_server(
        lambda: CannedProtocol(answers, script, Random(1)), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def asked(port: int, call: Call, *, times: int = 1) -> list[bytes]:
    """Make a call over one connection; return what came back, each time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for _ in range(times):
        writer.write(make_request(Job(host="", port=0, key="k"), call, "localhost"))
        head = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            rest = await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            rest = await reader.readexactly(length)
        answers.append(head + rest)
    writer.close()
    await writer.wait_closed()
    return answers


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.shape}-{call.stream}")
async def test_it_says_what_the_scripted_upstream_says_however_often(call: Call) -> None:
    mock = await start(MockOptions(chunks=30))
    try:
        (expected,) = await asked(int(mock.url.rpartition(":")[2].split("/")[0]), call)
    finally:
        await mock.close()
    async with canned(Script(canned=True, chunks=30)) as port:
        found = await asked(port, call, times=3)
    assert found == [expected] * 3


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.shape}-{call.stream}")
async def test_a_load_on_it_is_answered_whole_and_its_tokens_are_counted(call: Call) -> None:
    script = Script(canned=True, chunks=30, bursts=(1, 5), pause_ms=1, ttft_ms=5)
    async with canned(script) as port:
        seen = await put(port, calls=(call,), rate=50.0, connections=50)
    assert seen.errors == {}
    assert seen.answered == seen.started > 0
    assert seen.completion_tokens == 30 * seen.done
    assert seen.prompt_tokens > 100 * seen.done
    if call.stream:
        assert seen.events > 30 * seen.done
        assert seen.ttft.count == seen.started


async def test_it_needs_a_length_and_says_so() -> None:
    async with canned(Script(canned=True)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
        assert await reader.readuntil(b"[]}")
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 411")
        writer.close()


def test_frames_are_cut_to_writes_of_the_sizes_asked_for_over_and_over() -> None:
    frames = [b"%d" % n for n in range(8)]
    assert cut(frames, ()) == (b"01234567",)
    assert cut(frames, (1, 3)) == (b"0", b"123", b"4", b"567")
    assert cut([], (2,)) == ()


@pytest.mark.parametrize("name", ["claude_code", "codex"])
def test_an_agents_calls_have_the_size_and_the_tools_that_are_claimed(name: str) -> None:
    for call in SCENARIOS[name].calls:
        request = make_request(Job(host="", port=0, key="k"), call, "localhost")
        body: dict[str, Any] = json.loads(request.partition(b"\r\n\r\n")[2])
        assert len(request) == pytest.approx(call.prompt_bytes, rel=0.1)
        assert len(body["tools"]) == call.tools
        turns = body.get("messages") or body["input"]
        assert turns[0]["role"] == turns[-1]["role"] == "user"
        assert body["stream"] is True
