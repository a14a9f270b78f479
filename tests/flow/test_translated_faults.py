"""Goal: whatever channels of three dialects do, each client gets its whole answer or an error.

Method: scripted upstreams that fail at random, clients of four dialects at once, each with a prompt
of its own that the answer is made of: a word of another dialect, or of another call, would show.
"""

import asyncio
import os
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import pytest

from relay.config import Config
from relay.mock.options import MockOptions
from relay.mock.script import digest, prose
from relay.mock.server import start
from relay.translate import TranslateDialect
from tests.flow.rig import MODEL, Rig, make_snapshot
from tests.flow.translated_cells import Answer, asking, channel_of
from tests.pure.translate.reading import read_body, read_stream
from tests.pure.translate.samples import (
    ANTHROPIC,
    CHAT,
    DIALECTS,
    GEMINI,
    REQUESTS,
    RESPONSES,
    Json,
)

CHUNKS: Final = 12
CALLS: Final = 20
"""Of each dialect, as streams and as JSON."""
FAULTS: Final = (
    *("status:500@0.08", "status:429@0.08", "cut-after:4@0.08", "rst-after:6@0.05"),
    *("error-after:4@0.08", "error-first@0.05", "mid-event:3@0.05", "empty-stream@0.05"),
    *("rst-before-head@0.05", "split-bytes@0.2", "html-for-sse@0.03", "no-done@0.05"),
)
CONFIG: Final = msgspec.convert(
    {
        "timeouts": {"first_byte_s": 2, "answer_s": 2, "gap_s": 2},
        "switching": {"retries_min": 1000},
    },
    Config,
)


def prompted(client: TranslateDialect, prompt: str) -> Json:
    body = REQUESTS[client]("text")
    if client is GEMINI:
        body["contents"][0]["parts"] = [{"text": prompt}]
    elif client is RESPONSES:
        body["input"][0]["content"] = prompt
    else:
        body["messages"][-1]["content"] = prompt
    return body


async def outcome(rig: Rig, client: TranslateDialect, how: str, prompt: str) -> str:
    """Ask once; return how it went, for an answer that is what was asked for."""
    answer = Answer(await rig.say(asking(client, prompted(client, prompt), how)))
    if answer.status != 200:
        said = read_body(client, answer.body)
        assert said.trouble is not None and answer.status >= 400
        return "refused"
    said = (read_stream if how == "stream" else read_body)(client, answer.body)
    text = "".join(one.text for one in said.texts())
    whole = "".join(prose(digest(prompt.encode()), CHUNKS))
    if said.trouble is not None:
        assert whole.startswith(text) and said.ending is None
        return "broken off"
    assert text == whole and said.ending is not None
    return "whole"


@pytest.mark.timeout(120)
async def test_every_answer_is_whole_or_an_error(request: pytest.FixtureRequest) -> None:
    seed = int(os.environ.get("RELAY_TEST_SEED") or random.SystemRandom().getrandbits(32))
    request.node.add_report_section("setup", "seed", f"RELAY_TEST_SEED={seed}")
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        channels = []
        for number, dialect in enumerate((CHAT, RESPONSES, ANTHROPIC), 1):
            mock = await start(MockOptions(models=(f"up-{MODEL}",), chunks=CHUNKS, interval_ms=1))
            stack.push_async_callback(mock.close)
            mock.set_fail(*FAULTS)
            base = {"base_url": f"http://127.0.0.1:{mock.port}"} if dialect is ANTHROPIC else {}
            channels.append(channel_of(dialect, number, mock.port, **base))
        rig = await stack.enter_async_context(Rig(make_snapshot(channels), CONFIG))
        kinds = [(client, how) for client in DIALECTS for how in ("stream", "JSON")] * CALLS
        dice.shuffle(kinds)
        room = asyncio.Semaphore(24)

        async def one(number: int, client: TranslateDialect, how: str) -> str:
            async with room:
                return await outcome(rig, client, how, f"Tell me of {number}.")

        found = Counter(await asyncio.gather(*(one(n, *kind) for n, kind in enumerate(kinds))))
        ends = await rig.ended(len(kinds))
    reasons = Counter(str(end.reason) for end in ends)
    assert len(ends) == len(kinds)
    assert reasons["completed"] == found["whole"] > len(kinds) / 2
    assert reasons["truncated"] == found["broken off"]
    ways = Counter(end.translated for end in ends if end.reason == "completed")
    assert len(ways) > 4, ways
    for end in ends:
        if end.reason == "completed":
            assert (end.output_tokens, end.estimated) == (CHUNKS, False)
