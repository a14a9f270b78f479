"""Goal: a prompt takes memory for as long as it may be asked again, and no longer.

Method: an upstream that goes on only when told, and a look at the call that runs.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from relay.flow.call import FORGOTTEN, Call
from tests.flow.rig import (
    DONE,
    FINISH,
    SSE_HEAD,
    Peer,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
)

PROMPT = "word " * 2_000


async def running_call(rig: Rig, until: Callable[[Call], bool]) -> Call:
    async with asyncio.timeout(5):
        running = rig.server.engine.running_calls
        while not (found := [call for call in running.calls() if until(call)]):
            await asyncio.sleep(0.005)
    return found[0]


def talker(go_on: asyncio.Event) -> Callable[..., Awaitable[None]]:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(event("first")))
        await go_on.wait()
        writer.write(chunked(FINISH) + chunked(DONE) + b"0\r\n\r\n")

    return script


@pytest.mark.parametrize("splice", [False, True])
async def test_a_stream_that_cannot_be_carried_on_lets_go_of_its_prompt(*, splice: bool) -> None:
    go_on = asyncio.Event()
    async with Peer(talker(go_on)) as peer:
        snapshot = make_snapshot([make_channel(1, peer.port)])
        line = msgspec.structs.replace(snapshot.lines[1], splice=splice)
        snapshot = msgspec.structs.replace(snapshot, lines={1: line})
        async with Rig(snapshot) as rig:
            body = chat(stream=True, messages=[{"role": "user", "content": PROMPT}])
            asked = asyncio.create_task(rig.say(post("/v1/chat/completions", body)))
            call = await running_call(rig, lambda call: call.committed)
            assert (call.question is FORGOTTEN) is not splice
            assert (call.body_bytes == 0) is not splice
            go_on.set()
            assert (await asked).endswith(DONE + b"\r\n0\r\n\r\n")
            await rig.ended()


async def test_a_body_in_chunks_takes_no_more_than_its_size() -> None:
    silent = asyncio.Event()

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()

    async with Peer(script) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        plain = post("/v1/chat/completions", chat())
        head, _, body = plain.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
        raw = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n"
        raw += chunked(body) + b"0\r\n\r\n"
        asked = asyncio.create_task(rig.say(raw))
        call = await running_call(rig, lambda call: call.attempt_count > 0)
        assert call.body_bytes == len(body)
        asked.cancel()
        await rig.ended()
