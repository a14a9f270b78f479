"""Recorded streams of Anthropic's through the whole data plane: byte-exact however they are cut."""

import asyncio
import random

import pytest

from relay.wire.sse import split_events
from relay.wire.usage.reader import find_usage
from tests.flow.rig import SSE_HEAD, Peer, Rig, Script, chunked, make_snapshot, unchunked
from tests.flow.test_messages import anthropic, ask, streaming
from tests.recorded import recorded_streams

BODIES = {
    path.name: path.read_bytes()
    for path in recorded_streams()
    if path.name.startswith("anthropic-")
}
STREAMS = [name for name, body in BODIES.items() if body.startswith(b"event: message_start")]
SEED = 20_261_124


def cut(raw: bytes, dice: random.Random, cuts: int) -> list[bytes]:
    at = sorted(dice.sample(range(1, len(raw)), min(cuts, len(raw) - 1)))
    return [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True)]


def play(frames: list[bytes], writes: int, dice: random.Random) -> Script:
    """Return a script that sends the frames in so many writes, cut anywhere."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for piece in cut(b"".join([*map(chunked, frames), b"0\r\n\r\n"]), dice, writes):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return script


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("cuts", [0, 3, 40, 400])
async def test_a_recorded_stream_passes_byte_exact_and_is_metered(name: str, cuts: int) -> None:
    # Some recorders dropped the last blank line; without it a stream counts as cut.
    body = whole = BODIES[name].rstrip(b"\n") + b"\n\n"
    dice = random.Random(SEED + cuts)
    frames = cut(body, dice, cuts) if cuts else split_events(body)
    async with (
        Peer(play(frames, cuts + 1, dice)) as peer,
        Rig(make_snapshot([anthropic(1, peer.port)])) as rig,
    ):
        _, payload = unchunked(await rig.say(ask(body=streaming(max_tokens=4_096))))
        (end,) = await rig.ended()
    events = split_events(whole)
    if b"event: message_stop" in whole:
        assert payload == whole
        assert end.reason == "completed"
        usage = find_usage(events[0], events[-2])
        assert usage is not None and not end.estimated
        assert (end.input_tokens, end.output_tokens) == (usage.input_tokens, usage.output_tokens)
        assert end.cost_nanos > 0
    else:
        assert payload.startswith(body)
        assert payload[len(body) :].lstrip(b"\n").startswith(b"event: error\n")
        assert end.reason == "truncated"
