"""Goal: a list of batches is made or refused, whatever it is asked by and whoever answers for one.

Method: a scripted provider of batches; one that says what is no batch in its place.
"""

import asyncio

import msgspec
import pytest

from tests.flow.rig import MODEL, Peer, make_channel
from tests.flow.test_batches import begin, line, standing
from tests.flow.test_state import get


@pytest.mark.parametrize("limit", ["%C2%B2", "9" * 50, "-1", "1_0", "%D9%A3"])
async def test_an_odd_limit_of_a_list_is_none(limit: str) -> None:
    async with standing() as scene:
        assert (await get(scene.rig, "GET", f"/v1/batches?limit={limit}"))[0] == 200
        assert (await get(scene.rig, "GET", f"/v1/videos?limit={limit}"))[0] == 400


@pytest.mark.parametrize("said", [b"no JSON", b"[" * 5_000, b"[1]", b'{"x":%b}' % (b"9" * 5_000)])
async def test_a_provider_that_says_no_batch_is_asked_again_later(said: bytes) -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(said) + said)

    async with standing() as scene, scene.client() as client, Peer(script) as peer:
        await begin(client, line("a"))
        channels = {1: make_channel(1, peer.port, models={MODEL: MODEL})}
        scene.rig.server.swap(msgspec.structs.replace(scene.rig.snapshot, channels=channels))
        status, told = await get(scene.rig, "GET", "/v1/batches")
        assert (status, "try again" in told["error"]["message"]) == (503, True)
