"""Goal: a batch is its account's alone, held for as it begins, charged once, by its results.

Method: the scripted upstream keeps files and batches; the official clients for Python and raw
requests ask a whole data plane; sums are done here by hand.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI, NotFoundError

from relay.config import Config
from relay.door_rules import DoorRules
from relay.flow.ports import Reservation
from relay.flow.state import background
from relay.mock.batches import MockBatches
from relay.mock.options import MockOptions
from relay.mock.server import MockServer, start
from relay.model import Account, Dialect, Key, PriceDetail, ServiceTier, Snapshot
from relay.ports import Limiter
from relay.records import CallEnd
from relay.wire.api_keys import digest
from relay.wire.state.jobs import BATCH_JOB, MESSAGE_BATCH_JOB
from tests.flow.one_bucket import OneBucket
from tests.flow.rig import KEY, MODEL, PEPPER, Rig, make_channel, make_snapshot
from tests.flow.test_credit import Bank, working
from tests.flow.test_state import OTHER_KEY, SharedMemory, ask, get

CHUNKS = 8
HALF = ServiceTier(name="batch", input=500_000_000, output=1_000_000_000, cached_input=250_000_000)
"""Half of what the rig's model costs."""


class Scene:
    """Relays before one scripted upstream."""

    def __init__(self, rigs: list[Rig], mock: MockServer, memory: SharedMemory) -> None:
        self.rigs = rigs
        self.rig = rigs[0]
        self.mock = mock
        self.memory = memory

    @property
    def kept(self) -> MockBatches:
        return self.mock.batches

    @property
    def ends(self) -> list[CallEnd]:
        """The ends of batches that were begun."""
        ends = [end for rig in self.rigs for end in rig.journal.ends]
        return [end for end in ends if end.endpoint in ("batches", "messages/batches")]

    async def ended(self, count: int = 1) -> list[CallEnd]:
        async with asyncio.timeout(10):
            while len(self.ends) < count:
                await asyncio.sleep(0.01)
        return self.ends

    def client(self, at: int = 0, key: str = KEY) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.rigs[at].url, api_key=key, max_retries=0)

    def claude(self, at: int = 0, key: str = KEY) -> AsyncAnthropic:
        root = self.rigs[at].url.removesuffix("/v1")
        return AsyncAnthropic(base_url=root, api_key=key, max_retries=0)


def catalog(port: int, dialect: Dialect, tiers: tuple[ServiceTier, ...], **key: Any) -> Snapshot:
    # A file's lines name the model as its provider does.
    names = {MODEL: MODEL if dialect is Dialect.OPENAI else f"up-{MODEL}"}
    channels = [make_channel(1, port, protocol=dialect, models=names)]
    snapshot = make_snapshot(channels, **key)
    price = msgspec.structs.replace(snapshot.prices[MODEL], detail=PriceDetail(service_tiers=tiers))
    other = Key(id=2, account_id=2, name="o", digest=digest(PEPPER, OTHER_KEY), last4="-key")
    return msgspec.structs.replace(
        snapshot,
        prices={MODEL: price},
        keys=snapshot.keys | {other.digest: other},
        accounts=snapshot.accounts | {2: Account(id=2, name="other", group_id=1)},
    )


@asynccontextmanager
async def standing(
    dialect: Dialect = Dialect.OPENAI,
    relays: int = 1,
    tiers: tuple[ServiceTier, ...] = (HALF,),
    paid_by: Sequence[Reservation] = (),
    limiter: Limiter | None = None,
    **key: Any,
) -> AsyncIterator[Scene]:
    mock = await start(MockOptions(chunks=CHUNKS))
    memory = SharedMemory()
    snapshot = catalog(mock.port, dialect, tiers, **key)
    # The provider runs on the relay's own loop: what it takes for 50,000 lines is no overload.
    config = Config(door=DoorRules(shed_lag_ms=0))
    rigs = [
        Rig(snapshot, owner_store=memory, paid_by=paid_by, limiter=limiter, config=config)
        for _ in range(relays)
    ]
    try:
        for rig in rigs:
            await rig.__aenter__()
        yield Scene(rigs, mock, memory)
    finally:
        for rig in rigs:
            await rig.__aexit__()
        await mock.close()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_S", "LOOK_S"):
        monkeypatch.setattr(background, name, 0.02)
    for job in (BATCH_JOB, MESSAGE_BATCH_JOB):
        monkeypatch.setattr(job, "most_s", 0.02)


def line(custom_id: str, model: str = MODEL, **fields: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "Tell me."}], **fields}
    told = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return msgspec.json.encode(told) + b"\n"


def request(custom_id: str, model: str = MODEL, **fields: Any) -> Any:
    said: Any = [{"role": "user", "content": "Tell me."}]
    params = {"model": model, "max_tokens": 100, "messages": said, **fields}
    return {"custom_id": custom_id, "params": params}


def paid(requests: int) -> int:
    """Return what so many requests cost: 2 tokens in, CHUNKS out, half of it for the group."""
    return requests * (2 * 500 + CHUNKS * 1_000) // 2


async def begin(client: AsyncOpenAI, *lines: bytes) -> Any:
    sent = await client.files.create(file=("b.jsonl", b"".join(lines)), purpose="batch")
    return await client.batches.create(
        input_file_id=sent.id, endpoint="/v1/chat/completions", completion_window="24h"
    )


async def test_the_official_client_runs_a_batch_over_any_worker() -> None:
    async with standing(relays=2) as scene, scene.client(0) as here, scene.client(1) as there:
        made = await begin(here, *(line(f"r{at}", max_tokens=50) for at in range(5)))
        assert made.status == "validating" and scene.ends == []
        (end,) = await scene.ended()
        done = await there.batches.retrieve(made.id)
        assert done.status == "completed" and done.output_file_id
        told = (await there.files.content(done.output_file_id)).text.splitlines()
        assert len(told) == 5
        assert (end.cost_nanos, end.input_tokens, end.output_tokens) == (paid(5), 10, 5 * CHUNKS)
        assert (end.estimated, end.reason, end.model) == (False, "completed", MODEL)
        assert end.extras is not None and end.extras.tier == "batch" and end.extras.requests == 5
        await asyncio.sleep(0.2)
        assert len(scene.ends) == 1
        free = [one for rig in scene.rigs for one in rig.journal.ends if one not in scene.ends]
        assert {one.cost_nanos for one in free} == {0}


async def test_the_official_client_runs_a_message_batch() -> None:
    async with (
        standing(Dialect.ANTHROPIC, relays=2) as scene,
        scene.claude(0) as here,
        scene.claude(1) as there,
    ):
        made = await here.messages.batches.create(requests=[request(f"r{n}") for n in range(4)])
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(4) and end.endpoint == "messages/batches"
        assert end.served_model == f"up-{MODEL}"
        done = await there.messages.batches.retrieve(made.id)
        assert done.processing_status == "ended" and done.results_url is not None
        assert done.results_url.startswith(scene.rigs[1].url)
        results = [one async for one in await there.messages.batches.results(made.id)]
        assert [one.result.type for one in results] == ["succeeded"] * 4
        assert (await there.messages.batches.delete(made.id)).id == made.id


async def test_what_was_not_served_is_not_charged() -> None:
    lines = [line("a"), line("error-1"), line("expired-1"), line("b"), line("expired-2")]
    async with standing() as scene, scene.client() as client:
        made = await begin(client, *lines)
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(2)
        done = await client.batches.retrieve(made.id)
        assert done.error_file_id is not None
        wrong = (await client.files.content(done.error_file_id)).text
        assert wrong.count("\n") == 3 and "batch_expired" in wrong


@pytest.mark.parametrize("custom_id", ["error-1", "expired-1"])
async def test_a_file_of_one_error_is_a_file_and_a_batch_of_none_is_free(custom_id: str) -> None:
    async with standing() as scene, scene.client() as client:
        made = await begin(client, line(custom_id))
        (end,) = await scene.ended()
        assert (end.cost_nanos, end.status) == (0, 200)
        done = await client.batches.retrieve(made.id)
        assert done.error_file_id is not None
        assert custom_id in (await client.files.content(done.error_file_id)).text


async def test_a_message_batch_with_errors_is_charged_by_what_was_served() -> None:
    async with standing(Dialect.ANTHROPIC) as scene, scene.claude() as client:
        asked = [request(name) for name in ("a", "error-1", "expired-1", "b", "c")]
        made = await client.messages.batches.create(requests=asked)
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(3)
        types = [one.result.type async for one in await client.messages.batches.results(made.id)]
        assert sorted(types) == ["errored", "expired", *["succeeded"] * 3]


async def test_what_a_result_does_not_say_is_estimated_and_marked() -> None:
    async with standing() as scene, scene.client() as client:
        await begin(client, line("silent-1"), line("a"))
        (end,) = await scene.ended()
        assert end.estimated and end.input_tokens > 4 and end.output_tokens > CHUNKS
        assert end.cost_nanos > paid(1)


async def test_what_was_served_before_a_cancellation_is_charged() -> None:
    async with standing() as scene, scene.client() as client:
        scene.kept.looks = 10**6
        made = await begin(client, *(line(f"r{at}") for at in range(6)))
        assert (await client.batches.cancel(made.id)).status == "cancelled"
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(3)


async def test_a_cancelled_message_batch_is_charged_by_what_was_served() -> None:
    async with standing(Dialect.ANTHROPIC) as scene, scene.claude() as client:
        scene.kept.looks = 10**6
        made = await client.messages.batches.create(requests=[request(f"r{n}") for n in range(4)])
        await client.messages.batches.cancel(made.id)
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(2)


async def test_another_accounts_batch_file_and_results_are_not_there() -> None:
    async with standing() as scene, scene.client() as client, scene.client(key=OTHER_KEY) as other:
        made = await begin(client, line("a"))
        await scene.ended()
        done = await client.batches.retrieve(made.id)
        for asked in (
            other.batches.retrieve(made.id),
            other.batches.cancel(made.id),
            other.files.content(done.output_file_id or ""),
            other.batches.create(
                input_file_id=made.input_file_id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
            ),
        ):
            with pytest.raises(NotFoundError):
                await asked
        assert len(scene.kept.batches) == 1


async def test_a_list_shows_an_accounts_own_batches_by_pages() -> None:
    async with standing(relays=2) as scene, scene.client(0) as here, scene.client(1) as there:
        made = [(await begin(here, line("a"))).id for _ in range(5)]
        async with scene.client(key=OTHER_KEY) as other:
            foreign = (await begin(other, line("a"))).id
            assert [one.id async for one in other.batches.list()] == [foreign]
        assert [one.id async for one in there.batches.list(limit=2)] == made[::-1]
        page = await there.batches.list(limit=2)
        assert page.has_more and [one.id for one in page.data] == made[:2:-1]
        scene.memory.lost = True
        assert (await get(scene.rigs[1], "GET", "/v1/batches"))[0] == 503


async def test_a_list_of_message_batches_goes_both_ways() -> None:
    async with standing(Dialect.ANTHROPIC) as scene, scene.claude() as client:
        made = []
        for _ in range(3):
            asked = [request("a")]
            made.append((await client.messages.batches.create(requests=asked)).id)
        assert [one.id async for one in client.messages.batches.list(limit=1)] == made[::-1]
        page = await client.messages.batches.list(before_id=made[0], limit=1)
        assert [one.id for one in page.data] == [made[1]] and page.has_more
        await scene.ended(3)
        first = (await client.messages.batches.list()).data[0]
        assert (first.results_url or "").startswith(scene.rig.url)


async def test_a_model_without_a_batch_price_is_refused_by_name() -> None:
    async with standing(tiers=()) as scene, scene.client() as client:
        sent = await client.files.create(file=("b.jsonl", line("a")), purpose="batch")
        asked = {
            "input_file_id": sent.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        status, told = await ask(scene.rig, "/v1/batches", asked)
        assert status == 400 and told["error"]["code"] == "unpriced"
        assert MODEL in told["error"]["message"] and scene.kept.batches == {}
    async with standing(Dialect.ANTHROPIC, tiers=()) as scene:
        status, told = await ask(scene.rig, "/v1/messages/batches", {"requests": [request("a")]})
        assert status == 400 and MODEL in told["error"]["message"]
        assert scene.kept.messages == {}


@pytest.mark.parametrize(
    ("lines", "endpoint", "status", "said"),
    [
        ([line("a"), line("b", "other-model")], "/v1/chat/completions", 400, "Request 2"),
        ([line("a"), b"{nonsense\n"], "/v1/chat/completions", 400, "Request 2"),
        ([line("a")], "/v1/responses", 400, "Request 1"),
        ([line("a")], "/v1/images/generations", 400, "Batches are taken here for"),
        ([line("a", "other-model")], "/v1/chat/completions", 404, "other-model"),
        ([], "/v1/chat/completions", 400, "holds no request"),
    ],
)
async def test_what_cannot_be_priced_is_not_begun(
    lines: list[bytes], endpoint: str, status: int, said: str
) -> None:
    async with standing() as scene, scene.client() as client:
        sent = await client.files.create(file=("b.jsonl", b"".join(lines)), purpose="batch")
        asked = {"input_file_id": sent.id, "endpoint": endpoint, "completion_window": "24h"}
        found, told = await ask(scene.rig, "/v1/batches", asked)
        assert (found, said in told["error"]["message"]) == (status, True), told
        assert scene.kept.batches == {}


async def test_a_key_begins_no_batch_of_a_model_that_it_may_not_use() -> None:
    async with standing(models=frozenset({"another"})) as scene, scene.client() as client:
        sent = await client.files.create(file=("b.jsonl", line("a")), purpose="batch")
        asked = {
            "input_file_id": sent.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        assert (await ask(scene.rig, "/v1/batches", asked))[0] == 403
    async with standing(Dialect.ANTHROPIC, models=frozenset({"another"})) as scene:
        asked_messages = {"requests": [request("a")]}
        assert (await ask(scene.rig, "/v1/messages/batches", asked_messages))[0] == 403


async def test_what_a_batch_made_is_not_deleted_before_it_was_counted() -> None:
    async with standing(relays=2) as scene, scene.client(1) as client:
        scene.kept.looks = 10**6
        made = await begin(client, line("a"))
        await asyncio.sleep(0.1)
        scene.mock.set_fail("status:500")
        scene.kept.end(made.id)
        await asyncio.sleep(0.1)
        scene.mock.set_fail()
        done = await client.batches.retrieve(made.id)
        path = f"/v1/files/{done.output_file_id}"
        status = (await get(scene.rigs[0], "DELETE", path))[0]
        assert status == 409 or scene.ends
        await scene.ended()
        assert (await get(scene.rigs[0], "DELETE", path))[0] == 200


async def test_a_provider_that_dies_is_asked_again_and_nothing_is_charged_blindly() -> None:
    async with standing() as scene, scene.client() as client:
        scene.kept.looks = 10**6
        made = await begin(client, line("a"), line("b"))
        scene.mock.set_fail("status:401")
        await asyncio.sleep(0.3)
        assert scene.ends == []
        assert scene.rig.server.engine.background.looks.unread() == {"channel-1": 1}
        scene.mock.set_fail()
        scene.kept.looks = 10**6
        await asyncio.sleep(0.1)
        assert scene.rig.server.engine.background.looks.unread() == {} or scene.ends
        scene.kept.end(made.id)
        output = scene.kept.batches[made.id]["output_file_id"]
        held = scene.kept.files.pop(output)
        async with asyncio.timeout(5):
            while not scene.rig.server.engine.background.looks.unread():
                await asyncio.sleep(0.01)
        assert scene.ends == []
        assert scene.rig.server.engine.background.looks.unread() == {"channel-1": 1}
        scene.kept.files[output] = held
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(2)
        assert scene.rig.server.engine.background.looks.unread() == {}


async def test_what_its_object_tells_counts_where_the_results_are_gone() -> None:
    async with standing() as scene, scene.client() as client:
        scene.kept.looks, scene.kept.told_usage = 10**6, True
        made = await begin(client, line("a"), line("b"))
        scene.kept.end(made.id)
        scene.kept.files.pop(scene.kept.batches[made.id]["output_file_id"])
        (end,) = await scene.ended()
        assert end.cost_nanos == paid(2)


async def test_results_that_never_come_are_given_up_without_a_charge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BATCH_JOB, "total_s", 0.3)
    async with standing() as scene, scene.client() as client:
        scene.kept.looks = 10**6
        made = await begin(client, line("a"))
        scene.kept.end(made.id)
        scene.kept.files.pop(scene.kept.batches[made.id]["output_file_id"])
        (end,) = await scene.ended()
        assert (end.cost_nanos, end.error_code) == (0, "results_lost")


async def test_a_worker_that_goes_leaves_all_that_it_takes_to_settle_a_batch() -> None:
    async with standing() as scene, scene.client() as client:
        scene.kept.looks = 10**6
        made = await begin(client, line("a", max_tokens=50), line("b"))
        await scene.rig.server.drain(0.0)
        assert scene.ends == []
        note = scene.rig.journal.checkpoints[-1]
        unended = note.unended
        assert unended is not None and unended.name == made.id and unended.asked is not None
        assert (unended.asked.requests, unended.asked.unbounded) == (2, 1)
        assert note.cost_nanos == 0 and unended.price_id == 7


async def test_a_batch_whose_answer_broke_off_is_not_begun_twice() -> None:
    first, second = await start(MockOptions()), await start(MockOptions())
    try:
        names = {MODEL: MODEL}
        snapshot = catalog(first.port, Dialect.ANTHROPIC, (HALF,))
        channels = [
            make_channel(number, mock.port, protocol=Dialect.ANTHROPIC, models=names)
            for number, mock in enumerate((first, second), 1)
        ]
        full = make_snapshot(channels)
        async with Rig(msgspec.structs.replace(full, prices=snapshot.prices)) as rig:
            for mock in (first, second):
                mock.set_fail("cut-after:0")
            asked = {"requests": [request("a")]}
            status, _ = await ask(rig, "/v1/messages/batches", asked)
            assert status == 502
            assert len(first.batches.messages) + len(second.batches.messages) == 1
    finally:
        await first.close()
        await second.close()


async def test_what_a_batch_may_use_is_held_while_it_runs_and_what_is_left_is_free_again() -> None:
    # Each may write 1,000 tokens, at half of $1/M: $0.0005, and a little for what it sends.
    bank = Bank(_1=6_000_000)
    async with (
        working(bank) as credit,
        standing(paid_by=[credit]) as scene,
        scene.client() as client,
    ):
        scene.kept.looks = 10**6
        lines = [line(f"r{at}", max_tokens=1_000) for at in range(10)]
        purse = credit.leasing.account(1).purse
        made = await begin(client, *lines)
        held = purse.held_nanos
        assert 10 * 500_000 < held < 10 * 520_000
        sent = await client.files.create(file=("b.jsonl", b"".join(lines)), purpose="batch")
        asked = {
            "input_file_id": sent.id,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        status, told = await ask(scene.rig, "/v1/batches", asked)
        assert status in (402, 429) and "balance" in told["error"]["message"]
        assert len(scene.kept.batches) == 1
        scene.kept.end(made.id)
        refused, end = await scene.ended(2)
        assert (refused.cost_nanos, end.cost_nanos) == (0, paid(10)) and purse.held_nanos == 0
        assert (await ask(scene.rig, "/v1/batches", asked))[0] == 200


async def test_a_batch_counts_as_one_request_of_the_limits_of_a_minute() -> None:
    limiter = OneBucket(per_s=100, tokens=5.0)
    async with standing(limiter=limiter, tpm=1_000, rpm=6_000) as scene, scene.client() as client:
        await begin(client, *(line(f"r{at}", max_tokens=10_000) for at in range(500)))
        await scene.ended()
        assert limiter.taken <= 4 and scene.ends[0].input_tokens == 1_000


async def test_a_file_that_is_to_be_a_batch_goes_where_its_model_is() -> None:
    plain, right = await start(MockOptions(name="plain")), await start(MockOptions(name="right"))
    try:
        channels = [
            make_channel(1, plain.port, models={"other": "other"}),
            make_channel(2, plain.port, models={MODEL: f"up-{MODEL}"}),
            make_channel(3, right.port, models={MODEL: MODEL}, tier=9),
        ]
        full = make_snapshot(channels)
        prices = catalog(right.port, Dialect.OPENAI, (HALF,)).prices
        async with (
            Rig(msgspec.structs.replace(full, prices=full.prices | prices)) as rig,
            AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client,
        ):
            for _ in range(3):
                assert (await begin(client, line("a"))).id in right.batches.batches
            sent = await client.files.create(file=("a.txt", line("a")), purpose="user_data")
            assert sent.id in plain.batches.files
    finally:
        await plain.close()
        await right.close()
