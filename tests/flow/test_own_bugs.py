"""Goal: a bug of ours is found from the log alone, and nothing of a request is in that.

Method: a limiter that raises with the prompt in its message, in each way that a call can begin; the
log is read as an operator gets it.
"""

import asyncio
import io
import json
import logging
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from relay import event_log
from relay.ports import Limiter
from tests.flow.rig import KEY, MODEL, Rig, chat, make_channel, make_snapshot, post

CANARY = "CANARY51d0"
CHAT = "/v1/chat/completions"


class BuggyLimiter:
    """Raises what no code of ours should; `waits`: only once it is waited for."""

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits

    def admit(self, *_: object) -> None:
        if not self._waits:
            raise KeyError(CANARY)

    async def wait(self, *_: object) -> None:
        raise ValueError(f"{CANARY} is none")

    def foresee(self, *_: object) -> None:
        return None


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the process logs, as an operator gets it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    event_log.configure({"RELAY_LOG": "json"}, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def question() -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}]}
    return post(CHAT, body).replace(b"Connection: close\r\n", b"")


async def ask_in_pieces(rig: Rig) -> bytes:
    """Ask so that the body comes after the head: a task serves it."""
    raw = question()
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(raw[:-10])
    await writer.drain()
    while not rig.server.counters.inflight:
        await asyncio.sleep(0.005)
    writer.write(raw[-10:])
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("pieces", [False, True])
async def test_the_place_of_a_bug_is_logged_and_no_content(
    lines: io.StringIO, *, waits: bool, pieces: bool
) -> None:
    limiter = cast("Limiter", BuggyLimiter(waits=waits))
    snapshot = make_snapshot([make_channel(1, 1)], rpm=9)
    async with Rig(snapshot, limiter=limiter) as rig:
        assert await (ask_in_pieces(rig) if pieces else rig.say(question())) == b""
        logged = lines.getvalue()
        found: list[dict[str, Any]] = [
            event
            for line in logged.splitlines()
            if (event := json.loads(line))["event"] == "unexpected failure"
        ]
        (event,) = found
        assert event["error"] == ("ValueError" if waits else "KeyError")
        assert any("test_own_bugs.py:" in place for place in event["at"])
        assert any("edge/service.py:" in place for place in event["at"])
        assert CANARY not in logged and KEY not in logged
        assert rig.server.counters.inflight == 0
        (end,) = await rig.ended()
        assert (end.status, end.cost_nanos) == (500, 0)
        # and the relay goes on
        assert b"401" in await rig.say(post(CHAT, chat(), key="relay_other"))


async def test_a_bug_that_somebody_has_found_does_not_fill_the_log(lines: io.StringIO) -> None:
    limiter = cast("Limiter", BuggyLimiter(waits=False))
    snapshot = make_snapshot([make_channel(1, 1)], rpm=9)
    async with Rig(snapshot, limiter=limiter) as rig:
        begun_s = time.monotonic()
        for _ in range(100):
            await rig.say(question())
        seconds = int(time.monotonic() - begun_s) + 2
        found = lines.getvalue().splitlines()
        events = [json.loads(line) for line in found]
        counts = [e["count"] for e in events if e["event"] == "unexpected failure"]
        assert 0 < len(counts) <= 10 * seconds
        assert sum(counts) <= 100
