"""Goal: what a channel made goes back to it, whatever worker and host the next turn comes to.

Method: providers that refuse what another one made, relays before them that share one memory, and
the official client beside raw requests.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from openai import AsyncOpenAI

from relay.errors import DependencyDown
from relay.model import Account, Key, LostState, Snapshot
from relay.wire.api_keys import digest
from tests.flow.provider import Provider
from tests.flow.rig import KEY, MODEL, PEPPER, Rig, make_snapshot, post

OTHER_KEY = "relay_other-key"


class SharedMemory:
    """What Redis is to the workers of a relay."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.lists: dict[bytes, list[bytes]] = {}
        self.asked = 0
        self.lost = False

    def put(self, digest: bytes, value: bytes, ttl_s: int) -> None:
        assert ttl_s > 0
        self.values[digest] = value

    def push(self, digest: bytes, value: bytes, ttl_s: int) -> None:
        assert ttl_s > 0
        self.lists.setdefault(digest, []).insert(0, value)

    def drop(self, digest: bytes, value: bytes) -> None:
        self.lists[digest].remove(value)

    async def listed(self, digest: bytes) -> list[bytes]:
        if self.lost:
            raise DependencyDown("gone")
        return self.lists.get(digest, [])

    async def get(self, digests: Sequence[bytes]) -> list[bytes | None]:
        self.asked += 1
        if self.lost:
            raise DependencyDown("gone")
        return [self.values.get(digest) for digest in digests]


def catalog(providers: list[Provider], **line: Any) -> Snapshot:
    """Return a catalog over the providers, with a second account beside the first."""
    snapshot = make_snapshot([provider.channel() for provider in providers])
    other = Key(id=2, account_id=2, name="o", digest=digest(PEPPER, OTHER_KEY), last4="-key")
    one = msgspec.structs.replace(snapshot.lines[1], **line)
    return msgspec.structs.replace(
        snapshot,
        lines={1: one},
        keys=snapshot.keys | {other.digest: other},
        accounts=snapshot.accounts | {2: Account(id=2, name="other", group_id=1)},
    )


@asynccontextmanager
async def standing(
    channels: int = 3, relays: int = 1, **line: Any
) -> AsyncIterator[tuple[list[Rig], list[Provider], SharedMemory]]:
    """Stand relays with one shared memory before some providers."""
    memory = SharedMemory()
    async with AsyncExitStack() as stack:
        made = [Provider(number) for number in range(1, channels + 1)]
        providers = [await stack.enter_async_context(one) for one in made]
        rigs = [
            await stack.enter_async_context(Rig(catalog(providers, **line), owner_store=memory))
            for _ in range(relays)
        ]
        yield rigs, providers, memory


async def ask(rig: Rig, path: str, body: dict[str, Any], key: str = KEY) -> tuple[int, Any]:
    raw = await rig.say(post(path, body, key=key))
    return read(raw)


async def get(rig: Rig, method: str, path: str, key: str = KEY) -> tuple[int, Any]:
    raw = await rig.say(
        f"{method} {path} HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer {key}\r\n"
        "Connection: close\r\n\r\n".encode()
    )
    return read(raw)


def read(raw: bytes) -> tuple[int, Any]:
    head, _, body = raw.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    return status, msgspec.json.decode(body) if b"application/json" in head else body


def made_where(providers: list[Provider], name: str) -> Provider:
    return next(one for one in providers if name in one.responses)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chain_stays_with_its_channel_over_all_workers(stream: bool) -> None:
    async with standing(channels=3, relays=4) as (rigs, providers, _):
        clients = [AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) for rig in rigs]
        previous: str | None = None
        for turn in range(20):
            asked: dict[str, Any] = {"model": MODEL, "input": f"turn {turn}"}
            if previous:
                asked["previous_response_id"] = previous
            client = clients[turn % len(clients)]
            if stream:
                events = await client.responses.create(**asked, stream=True)
                response: Any = [event async for event in events][-1].response
            else:
                response = await client.responses.create(**asked)
            previous = response.id
        for client in clients:
            await client.close()
        assert sorted(len(one.responses) for one in providers) == [0, 0, 20]
        ends = [end for rig in rigs for end in rig.journal.ends]
        assert all(end.status == 200 and end.attempts == 1 for end in ends) and len(ends) == 20


async def test_encrypted_reasoning_goes_back_to_who_made_it() -> None:
    async with standing(channels=3, relays=2) as (rigs, providers, _):
        context: list[Any] = [{"role": "user", "content": "begin"}]
        for turn in range(6):
            body = {"model": MODEL, "input": context, "store": False, "stream": bool(turn % 2)}
            status, answer = await ask(rigs[turn % 2], "/v1/responses", body)
            assert status == 200, answer
            output = answer["output"] if turn % 2 == 0 else _completed(answer)["output"]
            context = [*context, *output, {"role": "user", "content": f"turn {turn}"}]
        assert sorted(len(one.made) for one in providers) == [0, 0, 6]


def _completed(said: bytes) -> Any:
    at = said.rindex(b'data: {"type":"response.completed"')
    return msgspec.json.decode(said[at + 6 : said.index(b"\n\n", at)])["response"]


async def test_compacted_turns_and_references_go_back_to_who_made_them() -> None:
    async with standing(channels=3, relays=2) as (rigs, _, _):
        for _ in range(4):
            _, compacted = await ask(rigs[0], "/v1/responses/compact", {"model": MODEL})
            asked = {"model": MODEL, "input": [*compacted["output"], {"role": "user"}]}
            status, answer = await ask(rigs[1], "/v1/responses", asked)
            assert status == 200, answer
            reference = {"type": "item_reference", "id": answer["output"][1]["id"]}
            asked = {"model": MODEL, "input": [reference, {"role": "user", "content": "so"}]}
            status, answer = await ask(rigs[0], "/v1/responses", asked)
            assert status == 200, answer
        assert rigs[0].journal.ends[0].cost_nanos > 0  # compacting is charged


async def test_an_owner_that_is_gone_is_told_in_words_that_clients_know() -> None:
    async with standing(channels=3) as ([rig], providers, _):
        _, first = await ask(rig, "/v1/responses", {"model": MODEL, "input": "hello"})
        await made_where(providers, first["id"]).kill()
        asked = {"model": MODEL, "input": "more", "previous_response_id": first["id"]}
        status, told = await ask(rig, "/v1/responses", asked)
        assert status == 404 and told["error"]["code"] == "previous_response_not_found"
        assert told["error"]["param"] == "previous_response_id"
        assert told["error"]["type"] == "invalid_request_error"
        status, again = await ask(rig, "/v1/responses", {"model": MODEL, "input": "all of it"})
        assert status == 200 and made_where(providers, again["id"]) is not None
        reasoning = first["output"]
        status, told = await ask(rig, "/v1/responses", {"model": MODEL, "input": reasoning})
        assert status == 400 and told["error"]["code"] == "invalid_encrypted_content"


async def test_an_owner_that_fails_once_is_asked_again_by_its_client() -> None:
    async with standing(channels=3) as ([rig], providers, _):
        _, first = await ask(rig, "/v1/responses", {"model": MODEL, "input": "hello"})
        owner = made_where(providers, first["id"])
        owner.dead = True
        asked = {"model": MODEL, "input": "more", "previous_response_id": first["id"]}
        status, _ = await ask(rig, "/v1/responses", asked)
        assert status == 502
        owner.dead = False
        status, _ = await ask(rig, "/v1/responses", asked)
        assert status == 200
        owner.dead = True
        told = [await ask(rig, "/v1/responses", asked) for _ in range(4)]
        assert [status for status, _ in told][-1] == 404  # its breaker is open by now


async def test_a_line_may_go_on_without_reasoning_where_the_context_is_all_there() -> None:
    async with standing(channels=2, lost_state=LostState.DROP) as ([rig], providers, _):
        _, first = await ask(rig, "/v1/responses", {"model": MODEL, "input": "hello"})
        await made_where(providers, first["id"]).kill()
        context = [{"role": "user", "content": "hello"}, *first["output"], {"role": "user"}]
        raw = await rig.say(post("/v1/responses", {"model": MODEL, "input": context}))
        status, answer = read(raw)
        assert status == 200 and b"x-relay-dropped: reasoning" in raw
        other = made_where(providers, answer["id"])
        assert [item.get("type") for item in other.bodies[-1]["input"]] == [None, "message", None]
        asked = {"model": MODEL, "input": "x", "previous_response_id": first["id"]}
        _, told = await ask(rig, "/v1/responses", asked)
        assert told["error"]["code"] == "previous_response_not_found"  # there is no context here


async def test_no_account_reaches_what_another_one_made() -> None:
    async with standing(channels=2) as ([rig], providers, _):
        _, first = await ask(rig, "/v1/responses", {"model": MODEL, "input": "hello"})
        name = first["id"]
        asked = {"model": MODEL, "input": "more", "previous_response_id": name}
        status, told = await ask(rig, "/v1/responses", asked, key=OTHER_KEY)
        assert status == 404 and told["error"]["code"] == "previous_response_not_found"
        for method, path in (
            ("GET", f"/v1/responses/{name}"),
            ("DELETE", f"/v1/responses/{name}"),
            ("GET", f"/v1/responses/{name}/input_items"),
            ("POST", f"/v1/responses/{name}/cancel"),
        ):
            status, told = await get(rig, method, path, key=OTHER_KEY)
            assert status == 404 and name in made_where(providers, name).responses
            status, told = await get(rig, method, path.replace(name, "resp_nobodys00000000"))
            assert status == 404
        assert sum(len(one.calls) for one in providers) == 1  # nobody was asked


async def test_calls_without_state_ask_nobody_and_go_where_they_like() -> None:
    async with standing(channels=3) as ([rig], providers, memory):
        for turn in range(30):
            body = {"model": MODEL, "input": f"{turn} is new", "store": False}
            assert (await ask(rig, "/v1/responses", body))[0] == 200
        assert memory.asked == 0
        assert sum(bool(one.made) for one in providers) > 1


async def test_without_its_memory_a_worker_knows_what_it_made_itself() -> None:
    async with standing(channels=3, relays=2) as (rigs, _, memory):
        memory.lost = True
        _, first = await ask(rigs[0], "/v1/responses", {"model": MODEL, "input": "hello"})
        asked = {"model": MODEL, "input": "more", "previous_response_id": first["id"]}
        assert (await ask(rigs[0], "/v1/responses", asked))[0] == 200
        status, told = await get(rigs[1], "GET", f"/v1/responses/{first['id']}")
        assert status == 503 and told["error"]["code"] == "service_unavailable"


async def test_an_unknown_id_is_tried_where_the_call_would_have_gone() -> None:
    async with standing(channels=1) as ([rig], _, _):
        asked = {"model": MODEL, "input": "x", "previous_response_id": "resp_before_the_relay"}
        status, told = await ask(rig, "/v1/responses", asked)
        assert status == 400 and told["error"]["code"] == "previous_response_not_found"
