"""Goal: a call that has ended is gone, and its question with it. Method: no collector comes by."""

import gc
from collections.abc import Iterator

import pytest

from relay.flow.call import Call
from relay.mock.options import MockOptions
from relay.mock.server import start
from tests.flow.rig import MODEL, Rig, chat, make_channel, make_snapshot, post

CALLS = 10


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> int:
    return sum(isinstance(thing, Call) for thing in gc.get_objects())


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
