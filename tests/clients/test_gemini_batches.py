"""Goal: the official google-genai client runs a batch to its end, and it is charged once.

Method: the client for Python before a whole data plane of several workers, with a scripted provider
of Gemini's API behind it.
"""

import asyncio

import pytest
from google import genai
from google.genai import errors, types

from relay.flow.state import background
from relay.wire.state.jobs import CONTENT_BATCH_JOB
from tests.flow.rig import KEY, MODEL
from tests.flow.test_content_batches import Scene, paid, standing
from tests.flow.test_state import OTHER_KEY

# The client derives from a class of aiohttp's.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "LOOK_S"):
        monkeypatch.setattr(background, name, 0.02)
    monkeypatch.setattr(CONTENT_BATCH_JOB, "most_s", 0.02)


def client(scene: Scene, at: int = 0, key: str = KEY) -> genai.Client:
    root = scene.rigs[at].url.removesuffix("/v1")
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=root))


def requests(count: int) -> list[types.InlinedRequest]:
    config = types.GenerateContentConfig(max_output_tokens=100, system_instruction="Be brief.")
    return [
        types.InlinedRequest(
            model=MODEL, contents=f"Tell me {at}.", config=config, metadata={"key": f"r{at}"}
        )
        for at in range(count)
    ]


async def test_a_batch_from_its_begin_to_its_end() -> None:
    async with standing(relays=2, channels=2) as scene:
        here, there = client(scene, 0).aio, client(scene, 1).aio
        made = await here.batches.create(
            model=MODEL, src=requests(3), config={"display_name": "mine"}
        )
        assert made.name and made.state is types.JobState.JOB_STATE_PENDING
        assert made.display_name == "mine"
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(3)
        done = await there.batches.get(name=made.name)
        assert done.state is types.JobState.JOB_STATE_SUCCEEDED
        assert done.dest is not None and done.dest.inlined_responses is not None
        told = [one.response for one in done.dest.inlined_responses]
        assert [one is not None and bool(one.text) for one in told] == [True] * 3
        listed = [one.name async for one in await there.batches.list(config={"page_size": 1})]
        assert listed == [made.name]
        await there.batches.delete(name=made.name)
        with pytest.raises(errors.ClientError) as refused:
            await here.batches.get(name=made.name)
        assert refused.value.code == 404
        await asyncio.sleep(0.1)
        assert len(scene.ends) == 1


async def test_one_that_is_cancelled_and_one_of_another_account() -> None:
    async with standing() as scene:
        scene.provider.looks = 10**6
        own, other = client(scene).aio, client(scene, key=OTHER_KEY).aio
        made = await own.batches.create(model=MODEL, src=requests(4))
        assert made.name is not None
        with pytest.raises(errors.ClientError) as refused:
            await other.batches.get(name=made.name)
        assert refused.value.code == 404
        await own.batches.cancel(name=made.name)
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(2)
        with pytest.raises(errors.ClientError) as refused:
            await own.batches.create(model=MODEL, src="files/abc")
        assert refused.value.code == 400 and "cannot be read there" in str(refused.value)
