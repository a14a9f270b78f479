"""Goal: a stream that ends with an error event leaves its client a connection that it can use."""

import asyncio

import pytest

from tests.flow.rig import (
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


async def cut(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begin a stream, and break off."""
    writer.write(SSE_HEAD + chunked(event("some") + event(" words")))
    await writer.drain()


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_connection_stays_behind_an_error_event(*, at_once: bool) -> None:
    """The head has promised it, so the next call may be on its way when the stream breaks."""
    ask = post("/v1/chat/completions", chat(stream=True))
    ask = ask.replace(b"Connection: close", b"Connection: keep-alive")
    async with Peer(cut) as peer, Rig(make_snapshot([make_channel(1, peer.port)])) as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        for number in range(3):
            if not number or not at_once:
                writer.write(ask)
            answer = await reader.readuntil(b"0\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert b"some" in answer and b'"error"' in answer
            if number < 2 and at_once:
                writer.write(ask)
        writer.close()
        assert len(await rig.ended(3)) == 3
