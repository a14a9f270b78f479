"""Goal: batches of any size are read in slices and in bounded memory, to the last request.

Method: a batch of fifty thousand requests over a whole data plane; peers that send lines whole,
byte by byte, by the tens of megabytes, or only in part.
"""

import asyncio
import tracemalloc

import pytest

from relay.config import Timeouts
from relay.errors import RelayError
from relay.flow.state import background
from relay.flow.state.fetch import fetch_lines
from relay.upstream.pool import UpstreamPool
from relay.wire.state.batches import BatchResults
from relay.wire.state.jobs import BATCH_JOB
from tests.flow.rig import Peer, make_channel
from tests.flow.test_batches import begin, line, paid, standing


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "LOOK_S"):
        monkeypatch.setattr(background, name, 0.02)
    monkeypatch.setattr(BATCH_JOB, "most_s", 0.02)


@pytest.mark.timeout(240)
async def test_fifty_thousand_requests_are_held_for_and_charged_to_the_last() -> None:
    lines = [line(f"r{at}", max_tokens=10) for at in range(50_000)]
    lines[17], lines[49_999] = line("error-1"), line("expired-1")
    async with standing() as scene, scene.client() as client:
        made = await begin(client, *lines)
        (unended,) = [one.unended for one in scene.rig.journal.checkpoints if one.unended]
        assert unended.asked is not None and unended.asked.requests == 50_000
        async with asyncio.timeout(200):
            while not scene.ends:
                await asyncio.sleep(0.05)
        (end,) = scene.ends
        assert end.cost_nanos == paid(49_998)
        done = await client.batches.retrieve(made.id)
        assert (await client.files.content(done.output_file_id or "")).text.count("\n") == 49_998


async def test_results_are_never_held_whole() -> None:
    answer = b'{"custom_id":"a","response":{"status_code":200,"body":{"text":"%b","usage":'
    usage = b'{"prompt_tokens":2,"completion_tokens":8,"total_tokens":10}}},"error":null}\n'
    one = answer % (b"x" * 20_000) + usage
    count = 4_000

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * len(one)))
        for _at in range(count):
            writer.write(one)
            await writer.drain()

    async with Peer(script) as peer:
        pool = UpstreamPool(Timeouts())
        results = BatchResults("/x", count, None, 1)
        tracemalloc.start()
        try:
            status = await fetch_lines(pool, make_channel(1, peer.port), "/x", results.take)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            pool.close()
        told = results.usage()
        assert status == 200 and told is not None and told.input_tokens == 2 * count
        assert count * len(one) > 80_000_000 and peak < 8_000_000


@pytest.mark.parametrize("framing", ["whole", "byte by byte"])
async def test_lines_are_the_same_however_they_come(framing: str) -> None:
    said = b"one\r\n\ntwo\nthree"
    pieces = [said] if framing == "whole" else [bytes((byte,)) for byte in said]

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with Peer(script) as peer:
        pool = UpstreamPool(Timeouts())
        found: list[bytes] = []
        assert await fetch_lines(pool, make_channel(1, peer.port), "/x", found.append) == 200
        assert found == [b"one", b"two", b"three"]
        pool.close()


async def test_results_that_break_off_are_not_taken_for_all() -> None:
    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\none\ntwo\n")
        await writer.drain()
        writer.transport.abort()

    async with Peer(script) as peer:
        pool = UpstreamPool(Timeouts())
        with pytest.raises(RelayError):
            await fetch_lines(pool, make_channel(1, peer.port), "/x", lambda _: None)
        pool.close()
