"""Goal: a call that has ended is gone, and its question with it, however it ended.

Method: no collector comes by. What every such way leaves behind is counted, in both forms: over a
connection that was kept (asked at once) and over a new one (asked by a task).
"""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from relay.config import Config, Timeouts
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call
from relay.mock.options import MockOptions
from relay.mock.server import start
from relay.model import Dialect, Resume
from tests.flow.rig import MODEL, Rig, chat, make_channel, make_snapshot, post

CALLS = 10


@pytest.fixture(autouse=True, scope="module")
def nothing_older() -> Iterator[None]:
    """Leave out what other tests have left: a full collection of that takes a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> int:
    """Count calls and attempts; an attempt has its call, and a call its question."""
    return sum(isinstance(thing, (Call, Attempt)) for thing in gc.get_objects())


@pytest.mark.parametrize("stream", [False, True])
async def test_the_last_reference_to_a_call_goes_with_its_end(*, stream: bool) -> None:
    mock = await start(MockOptions(models=(f"up-{MODEL}",), chunks=3))
    before = alive()
    async with Rig(make_snapshot([make_channel(1, mock.port)])) as rig:
        for _ in range(CALLS):
            answer = await rig.say(post("/v1/chat/completions", chat(stream=stream)))
            assert answer.startswith(b"HTTP/1.1 200")
        assert len(await rig.ended(CALLS)) == CALLS
    await mock.close()
    assert alive() - before == 0


ENDS = [
    *("status:400", "status:401", "status:404", "status:413", "status:429", "status:500"),
    *("garbage", "http-09", "huge-head", "endless-1xx", "rst-before-head", "rst-after-head"),
    *("hang", "gzip", "waf", "html-for-sse", "bad-chunk", "error-first", "empty-stream"),
    *("cut-after:2", "rst-after:2", "stall-after:2", "error-after:2", "finish-then-rst"),
    *("no-done", "wrong-length", "refuse"),
]
QUICK = Config(timeouts=Timeouts(first_byte_s=0.3, answer_s=0.3, gap_s=0.3, connect_s=1.0))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("fail", ENDS)
async def test_a_call_that_fails_leaves_as_little(
    fail: str, *, channels: int, stream: bool
) -> None:
    mocks = [await start(MockOptions(models=(f"up-{MODEL}",), chunks=3)) for _ in range(channels)]
    serving = [make_channel(n, mock.port, tier=n) for n, mock in enumerate(mocks, 1)]
    before = alive()
    async with Rig(make_snapshot(serving), QUICK) as rig:
        question = post("/v1/chat/completions", chat(stream=stream))
        await rig.say(question)  # its connection is kept for the next
        for mock in mocks:
            mock.set_fail(fail)
        for _ in range(2):
            await rig.say(question)
        await rig.ended(3)
        await asyncio.sleep(0)
        assert alive() - before == 0
    for mock in mocks:
        await mock.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fail", ["hang", "stall-after:2"])
@pytest.mark.parametrize("end", ["client", "key", "deadline"])
async def test_a_call_that_is_ended_early_leaves_as_little(
    fail: str, end: str, *, stream: bool
) -> None:
    mock = await start(MockOptions(models=(f"up-{MODEL}",), chunks=3))
    mock.set_fail(fail)
    timeouts = Timeouts(total_s=0.4 if end == "deadline" else 60.0)
    before = alive()
    async with Rig(make_snapshot([make_channel(1, mock.port)]), Config(timeouts=timeouts)) as rig:
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(post("/v1/chat/completions", chat(stream=stream)))
        async with asyncio.timeout(5):
            while not rig.journal.starts:
                await asyncio.sleep(0.005)
        if end == "key":
            rig.server.swap(msgspec.structs.replace(rig.snapshot, generation=2, keys={}))
        if end == "client":
            writer.close()
        await rig.ended()
        writer.close()
        await asyncio.sleep(0.01)
        assert alive() - before == 0
    await mock.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fail", ["status:500", "hang", "cut-after:2", "rst-before-head", ""])
@pytest.mark.parametrize("line", [{"hedge_ms": 20}, {"splice": True}])
async def test_a_call_that_is_hedged_or_carried_on_leaves_as_little(
    fail: str, line: dict[str, Any], *, stream: bool
) -> None:
    mocks = [await start(MockOptions(models=(f"up-{MODEL}",), chunks=3)) for _ in range(2)]
    serving = [
        make_channel(n, mock.port, tier=n, resume=Resume.TRAILING)
        for n, mock in enumerate(mocks, 1)
    ]
    snapshot = make_snapshot(serving)
    changed = msgspec.structs.replace(snapshot.lines[1], **line)
    snapshot = msgspec.structs.replace(snapshot, lines={1: changed})
    if fail:
        mocks[0].set_fail(fail)
    before = alive()
    async with Rig(snapshot, QUICK) as rig:
        for _ in range(2):
            await rig.say(post("/v1/chat/completions", chat(stream=stream)))
        await rig.ended(2)
        await asyncio.sleep(0.01)
        assert alive() - before == 0
    for mock in mocks:
        await mock.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("own", [False, True], ids=["translated only", "translated in the end"])
@pytest.mark.parametrize("fail", ["", *ENDS])
async def test_a_call_that_is_translated_leaves_as_little(
    fail: str, *, own: bool, stream: bool
) -> None:
    mock = await start(MockOptions(models=(f"up-{MODEL}",), chunks=3))
    other = {"protocol": Dialect.ANTHROPIC, "tier": 1}
    serving = [make_channel(1, mock.port, **other)] + ([make_channel(2, 9)] if own else [])
    if fail:
        mock.set_fail(fail)
    before = alive()
    async with Rig(make_snapshot(serving), QUICK) as rig:
        for _ in range(2):
            await rig.say(post("/v1/chat/completions", chat(stream=stream)))
        await rig.say(post("/v1/chat/completions", chat(stream=stream, n=2)))
        await rig.ended(3)
        await asyncio.sleep(0.01)
        assert alive() - before == 0
    await mock.close()
