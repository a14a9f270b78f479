"""Goal: a batch of Gemini's is its account's alone, held for as it begins, charged once.

Method: a scripted provider that keeps batches as Gemini's API does; raw requests to a whole data
plane, over several workers; sums are done here by hand. The official client is asked in
tests/clients/test_gemini_batches.py.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from relay.flow.ports import Reservation
from relay.flow.state import background
from relay.model import Account, Dialect, Key, PriceDetail, ServiceTier
from relay.reach import Reach
from relay.records import CallEnd
from relay.wire.api_keys import digest
from relay.wire.state.jobs import CONTENT_BATCH_JOB
from tests.flow.gemini_batches import TOKENS_IN, TOKENS_OUT, GeminiBatches
from tests.flow.rig import KEY, MODEL, PEPPER, Rig, make_channel, make_snapshot
from tests.flow.test_batches import HALF
from tests.flow.test_credit import Bank, until, working
from tests.flow.test_state import OTHER_KEY, SharedMemory, ask, get

BEGIN = f"/v1beta/models/{MODEL}:batchGenerateContent"


class Scene:
    """Relays before one project, or several."""

    def __init__(
        self, rigs: list[Rig], providers: list[GeminiBatches], memory: SharedMemory
    ) -> None:
        self.rigs = rigs
        self.rig = rigs[0]
        self.providers = providers
        self.provider = providers[0]
        self.memory = memory

    @property
    def ends(self) -> list[CallEnd]:
        """The ends of batches that were begun."""
        ends = [end for rig in self.rigs for end in rig.journal.ends]
        return [end for end in ends if end.endpoint == "models:batchGenerateContent"]

    async def ended(self, count: int = 1) -> list[CallEnd]:
        async with asyncio.timeout(10):
            while len(self.ends) < count:
                await asyncio.sleep(0.01)
        return self.ends

    async def begin(self, *keys: str, at: int = 0, key: str = KEY, **batch: Any) -> str:
        """Begin a batch; return its name."""
        status, told = await ask(self.rigs[at], BEGIN, body_of(*keys, **batch), key)
        assert status == 200, told
        name: str = told["name"]
        return name


def body_of(*keys: str, **batch: Any) -> dict[str, Any]:
    asked = [{"request": contents(), "metadata": {"key": key}} for key in keys]
    return {"batch": {"inputConfig": {"requests": {"requests": asked}}, **batch}}


def contents(**more: Any) -> dict[str, Any]:
    said = [{"role": "user", "parts": [{"text": "Tell me."}]}]
    return {"contents": said, "generationConfig": {"maxOutputTokens": 100}, **more}


def paid(requests: int) -> int:
    """Return what so many requests cost: half of the price, and of that half for the group."""
    return requests * (TOKENS_IN * 500 + TOKENS_OUT * 1_000) // 2


@asynccontextmanager
async def standing(
    relays: int = 1,
    channels: int = 1,
    tiers: tuple[ServiceTier, ...] = (HALF,),
    paid_by: Sequence[Reservation] = (),
    reach: Reach | None = None,
) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        providers = [
            await stack.enter_async_context(GeminiBatches(n)) for n in range(1, channels + 1)
        ]
        made = [
            make_channel(
                number,
                one.port,
                protocol=Dialect.GEMINI,
                base_url=f"http://127.0.0.1:{one.port}",
                reach=reach,
            )
            for number, one in enumerate(providers, 1)
        ]
        snapshot = make_snapshot(made)
        price = snapshot.prices[MODEL]
        price = msgspec.structs.replace(price, detail=PriceDetail(service_tiers=tiers))
        other = Key(id=2, account_id=2, name="o", digest=digest(PEPPER, OTHER_KEY), last4="-key")
        snapshot = msgspec.structs.replace(
            snapshot,
            prices={MODEL: price},
            keys=snapshot.keys | {other.digest: other},
            accounts=snapshot.accounts | {2: Account(id=2, name="other", group_id=1)},
        )
        memory = SharedMemory()
        rigs = [
            await stack.enter_async_context(Rig(snapshot, owner_store=memory, paid_by=paid_by))
            for _ in range(relays)
        ]
        yield Scene(rigs, providers, memory)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "LOOK_S"):
        monkeypatch.setattr(background, name, 0.02)
    monkeypatch.setattr(CONTENT_BATCH_JOB, "most_s", 0.02)


async def test_a_batch_runs_over_any_worker_and_is_charged_once() -> None:
    async with standing(relays=2, channels=3) as scene:
        name = await scene.begin("a", "b", "c", displayName="mine")
        assert scene.ends == []
        (end,) = await scene.ended()
        assert (end.cost_nanos, end.input_tokens, end.output_tokens) == (paid(3), 6, 24)
        assert (end.estimated, end.reason, end.model) == (False, "completed", MODEL)
        assert end.extras is not None and end.extras.tier == "batch" and end.extras.requests == 3
        assert end.served_model == f"up-{MODEL}"
        status, told = await get(scene.rigs[1], "GET", f"/v1beta/{name}")
        assert status == 200 and told["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
        made = told["metadata"]["output"]["inlinedResponses"]["inlinedResponses"]
        assert [one["metadata"]["key"] for one in made] == ["a", "b", "c"]
        (asked,) = (body for one in scene.providers for body in one.bodies)
        assert asked["batch"]["displayName"] == "mine"
        sent = asked["batch"]["inputConfig"]["requests"]["requests"]
        assert [one["request"]["model"] for one in sent] == [f"models/up-{MODEL}"] * 3
        assert [one["metadata"] for one in sent] == [{"key": key} for key in "abc"]
        (begun,) = (path for one in scene.providers for path in one.paths if path[0] == "POST")
        assert begun == ("POST", f"models/up-{MODEL}:batchGenerateContent")
        await asyncio.sleep(0.2)
        assert len(scene.ends) == 1
        free = [one for rig in scene.rigs for one in rig.journal.ends if one not in scene.ends]
        assert {one.cost_nanos for one in free} == {0}


async def test_what_was_refused_is_not_charged_and_what_is_not_said_is_estimated() -> None:
    async with standing() as scene:
        await scene.begin("a", "error-1", "b", "error-2")
        (end,) = await scene.ended()
        assert (end.cost_nanos, end.estimated) == (paid(2), False)
        await scene.begin("silent-1", "a")
        end = (await scene.ended(2))[1]
        assert end.estimated and end.output_tokens > TOKENS_OUT and end.cost_nanos > paid(1)
        await scene.begin("error-1")
        assert (await scene.ended(3))[2].cost_nanos == 0


async def test_what_was_served_before_a_cancellation_is_charged() -> None:
    async with standing(relays=2) as scene:
        scene.provider.looks = 10**6
        name = await scene.begin(*"abcdef")
        assert (await ask(scene.rigs[1], f"/v1beta/{name}:cancel", {}))[0] == 200
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(3)


@pytest.mark.parametrize("state", ["FAILED", "EXPIRED"])
async def test_a_batch_that_made_nothing_is_free_and_told_as_it_is(state: str) -> None:
    async with standing() as scene:
        scene.provider.looks = 10**6
        name = await scene.begin("a", "b")
        scene.provider.end(name, state)
        (end,) = await scene.ended()
        assert (end.cost_nanos, end.status) == (0, 200)
        status, told = await get(scene.rig, "GET", f"/v1beta/{name}")
        assert status == 200 and told["metadata"]["state"] == f"BATCH_STATE_{state}"
        assert ("error" in told) is (state == "FAILED")


async def test_what_cannot_be_read_is_not_charged_but_asked_for_again() -> None:
    async with standing() as scene:
        scene.provider.looks, scene.provider.hides_answers = 10**6, True
        name = await scene.begin("a", "b")
        scene.provider.end(name)
        looks = scene.rig.server.engine.background.looks
        async with asyncio.timeout(5):
            while not looks.unread():
                await asyncio.sleep(0.01)
        assert scene.ends == []
        scene.provider.hides_answers = False
        scene.provider.end(name)
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(2)


async def test_another_accounts_batch_is_not_there() -> None:
    async with standing() as scene:
        name = await scene.begin("a")
        await scene.ended()
        for method, path in (
            ("GET", f"/v1beta/{name}"),
            ("DELETE", f"/v1beta/{name}"),
            ("POST", f"/v1beta/{name}:cancel"),
            ("GET", "/v1beta/batches/none"),
        ):
            status, told = await get(scene.rig, method, path, OTHER_KEY)
            assert (status, told["error"]["status"]) == (404, "NOT_FOUND")
        assert (await get(scene.rig, "GET", "/v1beta/batches", OTHER_KEY)) == (200, {})
        assert list(scene.provider.batches) == [name]


async def test_a_list_shows_an_accounts_own_batches_by_pages() -> None:
    async with standing(relays=2, channels=2) as scene:
        made = [await scene.begin("a") for _ in range(5)]
        await scene.begin("a", key=OTHER_KEY)
        await scene.ended(6)
        seen, query = [], "?pageSize=2"
        for _ in range(3):
            status, told = await get(scene.rigs[1], "GET", f"/v1beta/batches{query}")
            assert status == 200
            seen += [one["name"] for one in told["operations"]]
            assert not any("output" in one["metadata"] for one in told["operations"])
            query = f"?pageSize=2&pageToken={told.get('nextPageToken', '')}"
        assert seen == made[::-1] and "nextPageToken" not in told
        scene.memory.lost = True
        assert (await get(scene.rigs[1], "GET", "/v1beta/batches"))[0] == 503


async def test_a_batch_is_deleted_when_it_was_counted() -> None:
    async with standing() as scene:
        scene.provider.looks = 10**6
        name = await scene.begin("a")
        assert (await get(scene.rig, "DELETE", f"/v1beta/{name}"))[0] == 409
        scene.provider.end(name)
        await scene.ended()
        assert (await get(scene.rig, "DELETE", f"/v1beta/{name}"))[0] == 200
        assert scene.provider.batches == {}


async def test_what_a_batch_may_use_is_held_while_it_runs() -> None:
    # Each may write 1,000 tokens, at half of $1/M: $0.0005, and a little for what it sends.
    bank = Bank(_1=6_000_000)
    async with working(bank) as credit, standing(paid_by=[credit]) as scene:
        scene.provider.looks = 10**6
        asked = body_of(*["a"] * 10)
        for one in asked["batch"]["inputConfig"]["requests"]["requests"]:
            one["request"]["generationConfig"] = {"max_output_tokens": 1_000}
        purse = credit.leasing.account(1).purse
        status, told = await ask(scene.rig, BEGIN, asked)
        assert status == 200
        held = purse.held_nanos
        assert 10 * 500_000 < held < 10 * 520_000
        status, refused = await ask(scene.rig, BEGIN, asked)
        assert status in (402, 429) and "balance" in refused["error"]["message"]
        assert len(scene.provider.batches) == 1
        scene.provider.end(told["name"])
        await scene.ended(2)
        assert sorted(end.cost_nanos for end in scene.ends) == [0, paid(10)]
        assert purse.held_nanos == 0


async def test_a_model_without_a_batch_price_is_refused_by_name() -> None:
    async with standing(tiers=()) as scene:
        status, told = await ask(scene.rig, BEGIN, body_of("a"))
        assert status == 400 and MODEL in told["error"]["message"]
        assert scene.provider.batches == {}


FILE = {"batch": {"inputConfig": {"fileName": "files/abc"}}}
NAMED = {
    "batch": {"inputConfig": {"requests": {"requests": [{"request": contents(model="models/x")}]}}}
}
UNKNOWN = {"batch": {"inputConfig": {"requests": {"requests": [{"request": {}, "key": "a"}]}}}}
WEBHOOK = body_of("a", webhookConfig={"uris": ["https://example.com"]})
NONE: dict[str, Any] = {"batch": {"inputConfig": {"requests": {"requests": []}}}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (FILE, "cannot be read there"),
        (NAMED, "Request 1 of the batch"),
        (UNKNOWN, "Request 1 of the batch"),
        (WEBHOOK, "not what a batch is begun with"),
        (NONE, "at least one request"),
        ({}, "not what a batch is begun with"),
    ],
)
async def test_what_cannot_be_taken_is_refused_by_name(body: dict[str, Any], said: str) -> None:
    async with standing() as scene:
        status, told = await ask(scene.rig, BEGIN, body)
        assert (status, told["error"]["status"]) == (400, "INVALID_ARGUMENT"), told
        assert said in told["error"]["message"]
        assert scene.provider.paths == []


async def test_a_channel_without_batches_is_not_asked_for_one() -> None:
    vertex = Reach(
        paths={"*": "/v1/projects/p/locations/l/publishers/google/models/{model}:{path}"}
    )
    async with standing(reach=vertex) as scene:
        status, told = await ask(scene.rig, BEGIN, body_of("a"))
        assert status == 404 and "takes batches" in told["error"]["message"]


async def test_one_whose_answer_broke_off_is_not_begun_a_second_time() -> None:
    async with standing(channels=2) as scene:
        for provider in scene.providers:
            provider.cuts_begin = True
        status, _ = await ask(scene.rig, BEGIN, body_of("a"))
        assert status >= 500
        assert sum(len(one.batches) for one in scene.providers) == 1


async def test_both_spellings_are_read() -> None:
    async with standing() as scene:
        asked = {"requests": {"requests": [{"request": {"contents": contents()["contents"]}}]}}
        status, _ = await ask(
            scene.rig, BEGIN, {"batch": {"display_name": "d", "input_config": asked}}
        )
        assert status == 200
        assert scene.provider.bodies[0]["batch"]["displayName"] == "d"
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(1)


async def test_a_batch_of_texts_to_embed_costs_what_was_read() -> None:
    async with standing() as scene:
        begin = BEGIN.replace("batchGenerateContent", "asyncBatchEmbedContent")
        texts = [{"request": {"content": {"parts": [{"text": f"Text {n}."}]}}} for n in range(3)]
        body = {"batch": {"inputConfig": {"requests": {"requests": texts}}}}
        status, told = await ask(scene.rig, begin, body)
        assert status == 200, told
        await until(lambda: scene.rig.journal.ends)
        (end,) = scene.rig.journal.ends
        assert (end.input_tokens, end.output_tokens, end.estimated) == (3 * TOKENS_IN, 0, False)
        assert end.endpoint == "models:asyncBatchEmbedContent"
        assert end.cost_nanos == 3 * TOKENS_IN * 500 // 2
        status, done = await get(scene.rig, "GET", f"/v1beta/{told['name']}")
        made = done["metadata"]["output"]["inlinedEmbedContentResponses"]["inlinedResponses"]
        assert status == 200 and len(made) == 3
