"""Goal: what providers were recorded to say reaches clients of other dialects, and costs the same.

Method: recorded streams, cut at random, through a whole data plane with a channel of their dialect:
asked by a client of that dialect, and by clients of each other one. What the client reads is held
against what the recording says, the bill of the translated call against that of the native one.
"""

import asyncio
import random
from pathlib import Path
from typing import Any, Final

import pytest

from relay.translate import TranslateDialect
from relay.translate.answer import Finish
from tests.flow.rig import SSE_HEAD, Peer, Rig, chunked, make_snapshot
from tests.flow.translated_cells import Answer, asking, channel_of
from tests.pure.translate.reading import meaning, read_stream
from tests.pure.translate.samples import ANTHROPIC, CHAT, DIALECTS, GEMINI, REQUESTS, RESPONSES
from tests.recorded import recorded_streams

COUNTS: Final = ("input_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
SEED: Final = 20_261_130
KINDS: Final = {"chat": CHAT, "responses": RESPONSES, "anthropic": ANTHROPIC, "gemini": GEMINI}


def recordings() -> list[tuple[TranslateDialect, Path]]:
    return [(dialect, path) for kind, dialect in KINDS.items() for path in recorded_streams(kind)]


BODIES: Final = {path: path.read_bytes() for _, path in recordings()}


def saying(body: bytes, dice: random.Random) -> Peer:
    cuts = sorted(dice.sample(range(1, len(body)), min(12, len(body) - 1)))
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD)
        for piece in pieces:
            writer.write(chunked(piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    return Peer(script)


def told(said: dict[str, Any]) -> dict[str, Any]:
    """Return what an answer says to any client.

    Ids of calls may be made anew; Gemini has one word for what is declined and what is filtered.
    """
    kept = {name: said[name] for name in ("text", "images", "ending")}
    if kept["ending"] is Finish.DECLINED:
        kept["ending"] = Finish.FILTERED
    return kept | {"calls": [(name, arguments) for _, name, arguments in said["calls"]]}


@pytest.mark.parametrize(
    ("dialect", "path"), recordings(), ids=lambda one: getattr(one, "stem", "from")
)
async def test_a_recorded_stream_is_told_in_every_dialect(
    dialect: TranslateDialect, path: Path
) -> None:
    body = BODIES[path]
    source = meaning(read_stream(dialect, body.replace(b"\r\n", b"\n")))
    async with (
        saying(body, random.Random(SEED)) as peer,
        Rig(make_snapshot([channel_of(dialect, 1, peer.port)])) as rig,
    ):
        await rig.say(asking(dialect, REQUESTS[dialect]("text"), "stream"))
        native = (await rig.ended())[0]
        clients = [client for client in DIALECTS if client is not dialect]
        for count, client in enumerate(clients, 2):
            answer = Answer(await rig.say(asking(client, REQUESTS[client]("text"), "stream")))
            end = (await rig.ended(count))[-1]
            if source["trouble"] is not None or native.reason != "completed":
                assert end.reason != "completed"
                continue
            assert (end.reason, end.status) == ("completed", 200)
            assert told(meaning(read_stream(client, answer.body))) == told(source)
            assert (end.output_tokens, end.estimated) == (native.output_tokens, native.estimated)
            if not native.estimated:  # else its prompt is, which each client writes in its own way
                assert end.cost_nanos == native.cost_nanos
                for name in COUNTS:
                    assert getattr(end, name) == getattr(native, name), name
