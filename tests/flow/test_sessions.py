"""Goal: agents hold sessions over a WebSocket, whatever channel answers their turns.

Method: aiohttp's WebSocket client and raw sockets before a relay, providers that speak HTTP alone
and know no turn that they were told not to keep.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from relay.edge.tunnel import session as sessions
from relay.model import Dialect
from relay.wire.websocket import TEXT, frame_of
from tests.flow.provider import USAGE
from tests.flow.rig import KEY, MODEL, Peer, Rig, make_channel, make_snapshot
from tests.flow.test_spliced_messages import end, said, says, start
from tests.flow.test_state import made_where, standing

MASK = b"mask"
COST = (USAGE["input_tokens"] * 1_000 + USAGE["output_tokens"] * 2_000) // 2
Socket = aiohttp.ClientWebSocketResponse


@asynccontextmanager
async def session(rig: Rig, *, key: str = KEY, **options: Any) -> AsyncIterator[Socket]:
    """Open a session with the relay."""
    headers = {"Authorization": f"Bearer {key}", "OpenAI-Beta": "responses_websockets=2026-02-06"}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{rig.url}/responses", headers=headers, **options) as socket,
    ):
        yield socket


def create(said: Any = "hello", **fields: Any) -> dict[str, Any]:
    return {"type": "response.create", "model": MODEL, "input": said, "store": False, **fields}


async def hear(socket: Socket) -> dict[str, Any]:
    """Return the next event."""
    message = await socket.receive(timeout=5)
    assert message.type is aiohttp.WSMsgType.TEXT, message
    told = json.loads(message.data)
    assert isinstance(told, dict)
    return told


async def turn(socket: Socket, **fields: Any) -> list[dict[str, Any]]:
    """Ask for a turn; return its events."""
    await socket.send_json(create(**fields))
    events = [await hear(socket)]
    while events[-1]["type"] not in ("response.completed", "response.failed", "error"):
        events.append(await hear(socket))
    return events


async def test_a_session_of_twenty_turns_goes_on_from_what_was_said() -> None:
    async with standing(channels=3) as ([rig], providers, _), session(rig) as socket:
        previous: dict[str, Any] = {}
        for number in range(20):
            events = await turn(socket, said=[{"role": "user", "content": f"{number}"}], **previous)
            assert [event["type"] for event in events][:2] == [
                "response.created",
                "response.output_item.added",
            ]
            assert [event["sequence_number"] for event in events] == list(range(6))
            previous = {"previous_response_id": events[-1]["response"]["id"]}
        (served,) = (one for one in providers if one.made)
        last = served.bodies[-1]
        assert "previous_response_id" not in last and last["stream"] is True
        assert [item.get("content") for item in last["input"]][::2] == [f"{n}" for n in range(20)]
        assert len(last["input"]) == 39  # each turn but the last made one item of reasoning
        ends = await rig.ended(20)
        assert [end.cost_nanos for end in ends] == [COST] * 20
        assert {end.endpoint for end in ends} == {"responses"}
        assert {end.attempts for end in ends} == {1} and len({e.request_id for e in ends}) == 20


async def test_a_turn_goes_to_another_channel_where_no_state_binds_it() -> None:
    async with standing(channels=2) as ([rig], providers, _), session(rig) as socket:
        for provider in providers:
            provider.dead = True
            events = await turn(socket)
            assert events[-1]["type"] == "response.completed"
            provider.dead = False


async def test_a_turn_whose_channel_is_gone_ends_as_agents_know_it() -> None:
    async with standing(channels=2) as ([rig], providers, _), session(rig) as socket:
        first = await turn(socket)
        name = first[-1]["response"]["id"]
        (owner,) = (one for one in providers if name in one.made)
        await owner.kill()
        (told,) = await turn(socket, said=[], previous_response_id=name)
        assert told["status"] == 400 and told["error"]["code"] == "invalid_encrypted_content"
        again = await turn(socket, said="all of it, without reasoning")
        assert again[-1]["type"] == "response.completed"


async def test_an_unknown_turn_is_told_in_the_providers_words() -> None:
    async with standing(channels=1) as ([rig], _, _), session(rig) as socket:
        (told,) = await turn(socket, previous_response_id="resp_of_another_socket")
        assert told["type"] == "error" and told["status"] == 400
        assert told["error"]["code"] == "previous_response_not_found"
        assert (await turn(socket))[-1]["type"] == "response.completed"


async def test_a_warm_up_asks_nobody_and_is_gone_on_from() -> None:
    async with standing(channels=1) as ([rig], [provider], _), session(rig) as socket:
        events = await turn(socket, said=[{"role": "user", "content": "context"}], generate=False)
        assert [event["type"] for event in events] == ["response.created", "response.completed"]
        name = events[-1]["response"]["id"]
        assert provider.calls == [] and rig.journal.ends == []
        await turn(socket, said=[{"role": "user", "content": "go"}], previous_response_id=name)
        assert [item["content"] for item in provider.bodies[-1]["input"]] == ["context", "go"]


async def test_lanes_run_beside_each_other_and_are_paid_one_by_one() -> None:
    async with standing(channels=1) as ([rig], [provider], _), session(rig) as socket:
        provider.holds = asyncio.Event()
        for lane in "abcd":
            await socket.send_json(create(stream_id=lane))
        await socket.send_json(create(said="second", stream_id="a"))
        async with asyncio.timeout(5):
            while len(provider.made) < 4:
                await asyncio.sleep(0.01)
        assert len(provider.made) == 4  # the fifth waits for its lane
        provider.holds.set()
        events = [await hear(socket) for _ in range(30)]
        for lane in "abcd":
            mine = [e["sequence_number"] for e in events if e["stream_id"] == lane]
            assert mine == list(range(6)) * (2 if lane == "a" else 1)
        ends = await rig.ended(5)
        assert [end.cost_nanos for end in ends] == [COST] * 5


async def test_turns_without_a_lane_wait_for_each_other() -> None:
    async with standing(channels=1) as ([rig], [provider], _), session(rig) as socket:
        for number in range(5):
            await socket.send_json(create(said=f"{number}"))
        events = [await hear(socket) for _ in range(30)]
        assert [event["sequence_number"] for event in events] == list(range(6)) * 5
        assert [body["input"] for body in provider.bodies] == ["0", "1", "2", "3", "4"]
        assert "stream_id" not in events[0]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("nonsense", None),
        ('{"type":"response.inject"}', "unknown_event"),
        (json.dumps(create(stream_id="a b")), None),
        (json.dumps({"type": "response.create", "input": "no model"}), None),
        (json.dumps({**create(), "model": "unknown"}), "model_not_found"),
    ],
)
async def test_a_frame_that_is_no_turn_is_told_and_the_session_goes_on(
    frame: str, code: str | None
) -> None:
    async with standing(channels=1) as ([rig], _, _), session(rig) as socket:
        await socket.send_str(frame)
        told = await hear(socket)
        assert told["type"] == "error" and told["error"]["code"] == code
        assert told["status"] in (400, 404)
        assert (await turn(socket))[-1]["type"] == "response.completed"


async def test_a_frame_that_is_too_large_is_told_and_never_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions, "MESSAGE_BYTES_MAX", 100_000)
    async with standing(channels=1) as ([rig], _, _), session(rig) as socket:
        await socket.send_json(create(said="x" * 300_000))
        told = await hear(socket)
        assert told["status"] == 400 and told["error"]["code"] == "request_too_large"
        await socket.send_bytes(b"binary")
        assert (await hear(socket))["status"] == 400
        assert (await turn(socket, said="y" * 90_000))[-1]["type"] == "response.completed"


async def test_large_frames_are_taken_whole() -> None:
    async with standing(channels=1) as ([rig], [provider], _), session(rig) as socket:
        said = "x" * 20_000_000
        assert (await turn(socket, said=said))[-1]["type"] == "response.completed"
        assert provider.bodies[-1]["input"] == said


async def test_a_revoked_key_ends_its_sessions() -> None:
    async with standing(channels=1) as ([rig], [provider], _), session(rig) as socket:
        assert (await turn(socket))[-1]["type"] == "response.completed"
        (key,) = (k for k in rig.snapshot.keys.values() if k.id == 1)
        gone = msgspec.structs.replace(rig.snapshot, keys={}, generation=2)
        assert key.digest in rig.snapshot.keys
        rig.server.swap(gone)
        told = await hear(socket)
        assert told["status"] == 401 and told["error"]["code"] == "invalid_api_key"
        assert (await socket.receive(timeout=2)).type is aiohttp.WSMsgType.CLOSE
        assert socket.close_code == 1008 and len(provider.made) == 1


async def test_a_revoked_key_ends_a_turn_under_way() -> None:
    async with standing(channels=1) as ([rig], [provider], _), session(rig) as socket:
        provider.holds = asyncio.Event()
        await socket.send_json(create())
        async with asyncio.timeout(5):
            while not provider.made:
                await asyncio.sleep(0.01)
        rig.server.swap(msgspec.structs.replace(rig.snapshot, keys={}, generation=2))
        assert (await hear(socket))["status"] == 401
        assert (await rig.ended(1))[0].reason == "key_revoked"
        provider.holds.set()


async def test_a_strangers_key_opens_no_session() -> None:
    async with standing(channels=1) as ([rig], _, _):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with session(rig, key="relay_unknown"):
                pass
        assert refused.value.status == 401
        headers = {"Sec-WebSocket-Protocol": f"openai-insecure-api-key.{KEY}, responses"}
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(f"{rig.url}/responses", headers=headers) as socket,
        ):
            assert (await turn(socket))[-1]["type"] == "response.completed"


async def test_a_worker_that_ends_closes_sessions_between_turns() -> None:
    async with (
        standing(channels=1) as ([rig], [provider], _),
        session(rig) as idle,
        session(rig) as busy,
    ):
        provider.holds = asyncio.Event()
        await busy.send_json(create())
        async with asyncio.timeout(5):
            while not provider.made:
                await asyncio.sleep(0.01)
        draining = asyncio.create_task(rig.server.drain(10.0))
        assert (await idle.receive(timeout=2)).type is aiohttp.WSMsgType.CLOSE
        assert idle.close_code == 1012
        provider.holds.set()
        events = [await hear(busy) for _ in range(6)]
        assert events[-1]["type"] == "response.completed"
        assert (await busy.receive(timeout=2)).type is aiohttp.WSMsgType.CLOSE
        assert busy.close_code == 1012
        async with asyncio.timeout(5):
            await draining
        assert [end.cost_nanos for end in rig.journal.ends] == [COST]


async def test_a_client_that_leaves_ends_its_turns() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        async with session(rig) as socket:
            provider.holds = asyncio.Event()
            await socket.send_json(create(said="first"))
            await socket.send_json(create(said="second"))
            async with asyncio.timeout(5):
                while not provider.made:
                    await asyncio.sleep(0.01)
        ends = await rig.ended(2)
        assert {end.reason for end in ends} == {"client_gone"} and len(provider.made) == 1
        provider.holds.set()
        assert rig.server.counters.inflight == 0


async def test_what_is_no_websocket_is_refused() -> None:
    async with standing(channels=1) as ([rig], _, _):
        head = (
            "GET /v1/responses HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Authorization: Bearer {KEY}\r\n"
        )
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        for lines, status in (
            (key + "Sec-WebSocket-Version: 8\r\n", b"426"),
            ("Sec-WebSocket-Version: 13\r\n", b"400"),
        ):
            raw = await rig.say(f"{head}{lines}\r\n".encode(), until=b"\r\n\r\n")
            assert raw.split(b" ")[1] == status
        good = f"{head}{key}Sec-WebSocket-Version: 13\r\n\r\n".encode()
        # A turn may come in the same packet as the handshake.
        early = frame_of(TEXT, json.dumps(create()).encode(), MASK)
        raw = await rig.say(good + early, until=b'"type":"response.completed"')
        assert raw.startswith(b"HTTP/1.1 101") and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in raw
        raw = await rig.say(good + b"\xc1\x80mask")
        assert raw.endswith(b"reserved bit is set: nothing was agreed on")


async def test_sessions_of_providers_that_keep_turns_go_to_their_owner() -> None:
    async with standing(channels=3) as ([rig], providers, _), session(rig) as socket:
        previous: dict[str, Any] = {}
        for _ in range(5):
            events = await turn(socket, store=True, **previous)
            name = events[-1]["response"]["id"]
            previous = {"previous_response_id": name}
            owner = made_where(providers, name)
        assert len(owner.made) == 5
        assert owner.bodies[-1]["previous_response_id"] == owner.made[-2]


async def test_a_session_is_held_over_channels_of_another_dialect() -> None:
    words = ["Hello", " from", " Claude"]
    answer = start(1) + said(0, *words) + end(9)
    async with Peer(says(answer, whole=True)) as peer:
        channel = make_channel(1, peer.port, protocol=Dialect.ANTHROPIC, models={MODEL: "claude"})
        async with Rig(make_snapshot([channel])) as rig, session(rig) as socket:
            events = await turn(socket, said=[{"role": "user", "content": "hi"}])
            assert events[0]["type"] == "response.created"
            assert events[-1]["type"] == "response.completed", events[-1]
            (item,) = (i for i in events[-1]["response"]["output"] if i["type"] == "message")
            assert item["content"][0]["text"] == "Hello from Claude"
            (ended,) = await rig.ended()
            assert ended.status == 200 and ended.output_tokens == 9
