"""Goal: a session's turns go over a WebSocket to channels that speak it, and over HTTP to others.

Method: aiohttp's client before a relay; providers that keep the last turn of a socket for that
socket alone, and those that refuse a handshake.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from relay.reach import Reach, Speaks
from tests.flow.provider import Provider
from tests.flow.rig import Rig, make_snapshot
from tests.flow.test_sessions import COST, create, hear, session, turn
from tests.flow.test_state import standing


@asynccontextmanager
async def speaking(
    channels: int = 1, **line: Any
) -> AsyncIterator[tuple[Rig, list[Provider], aiohttp.ClientWebSocketResponse]]:
    """Stand a session before providers that all speak it."""
    async with standing(channels=channels, **line) as ([rig], providers, _):
        for provider in providers:
            provider.speaks_websocket = True
        async with session(rig) as socket:
            yield rig, providers, socket


async def test_twenty_turns_go_over_one_socket_with_what_is_new() -> None:
    async with speaking(channels=3) as (rig, providers, socket):
        previous: dict[str, Any] = {}
        for number in range(20):
            events = await turn(socket, said=[{"role": "user", "content": f"{number}"}], **previous)
            assert [event["sequence_number"] for event in events] == list(range(6))
            previous = {"previous_response_id": events[-1]["response"]["id"]}
        (served,) = (one for one in providers if one.made)
        assert len(served.handshakes) == 1 and served.calls == [("GET", "/responses")]
        assert [len(body["input"]) for body in served.bodies] == [1] * 20
        before = [body.get("previous_response_id") for body in served.bodies]
        assert before == [None, *served.made[:-1]]
        beta = served.handshakes[0].headers.getall("OpenAI-Beta")
        assert beta == ["responses_websockets=2026-02-06"]
        ends = await rig.ended(20)
        assert [end.cost_nanos for end in ends] == [COST] * 20
        assert {end.endpoint for end in ends} == {"responses"} and {e.status for e in ends} == {200}
        assert {end.attempts for end in ends} == {1} and len({e.request_id for e in ends}) == 20


async def test_frames_pass_as_they_are() -> None:
    async with speaking() as (_, [provider], socket):
        events = await turn(socket, metadata={"a": "b"}, client_metadata={"x": "y"})
        assert events[-1]["response"]["id"] == provider.made[0]
        assert provider.bodies[0]["client_metadata"] == {"x": "y"}
        assert "stream" not in provider.bodies[0] and provider.bodies[0]["store"] is False


async def test_a_channel_that_refuses_a_handshake_is_asked_over_http_for_a_while() -> None:
    async with standing(channels=1) as ([rig], [provider], _):
        for _ in range(2):
            async with session(rig) as socket:
                for _ in range(2):
                    assert (await turn(socket))[-1]["type"] == "response.completed"
        assert [method for method, _ in provider.calls] == ["GET", *["POST"] * 4]
        assert [end.attempts for end in await rig.ended(4)] == [1] * 4


@pytest.mark.parametrize(("wish", "asked"), [(Speaks.NO, "POST"), (Speaks.YES, "GET")])
async def test_a_channel_may_say_whether_it_speaks_it(wish: Speaks, asked: str) -> None:
    async with Provider(1) as provider:
        provider.speaks_websocket = True
        channel = provider.channel(reach=Reach(websocket=wish))
        async with Rig(make_snapshot([channel])) as rig, session(rig) as socket:
            assert (await turn(socket))[-1]["type"] == "response.completed"
            assert [method for method, _ in provider.calls] == [asked]


async def test_a_socket_that_is_lost_between_turns_loses_none() -> None:
    async with speaking() as (rig, [provider], socket):
        previous: dict[str, Any] = {}
        for number in range(6):
            events = await turn(socket, said=[{"role": "user", "content": f"{number}"}], **previous)
            assert events[-1]["type"] == "response.completed"
            previous = {"previous_response_id": events[-1]["response"]["id"]}
            await provider.sockets[-1].close()
        assert len(provider.handshakes) == 6
        # Whoever has no turn before is told all of it.
        assert [len(body["input"]) for body in provider.bodies] == [1, 3, 5, 7, 9, 11]
        assert [end.attempts for end in await rig.ended(6)] == [1] * 6


async def test_a_provider_that_has_forgotten_a_turn_is_told_all_of_it() -> None:
    async with speaking() as (rig, [provider], socket):
        first = await turn(socket, said=[{"role": "user", "content": "0"}])
        error = {"code": "previous_response_not_found", "message": "gone", "type": "invalid"}
        provider.refusals = [{"type": "error", "status": 400, "error": error}]
        name = first[-1]["response"]["id"]
        again = await turn(
            socket, said=[{"role": "user", "content": "1"}], previous_response_id=name
        )
        assert again[-1]["type"] == "response.completed"
        assert [len(body["input"]) for body in provider.bodies] == [1, 1, 3]
        assert [end.attempts for end in await rig.ended(2)] == [1, 1]


async def test_a_socket_that_has_had_its_hour_is_followed_by_another() -> None:
    async with speaking() as (rig, [provider], socket):
        await turn(socket)
        error = {"code": "websocket_connection_limit_reached", "message": "60 minutes"}
        provider.refusals = [{"type": "error", "status": 400, "error": error}]
        assert (await turn(socket))[-1]["type"] == "response.completed"
        assert len(provider.handshakes) == 2
        assert [end.attempts for end in await rig.ended(2)] == [1, 1]


async def test_a_refusal_over_a_socket_is_one_over_http() -> None:
    async with speaking(channels=2) as (rig, providers, socket):
        error = {"code": "rate_limit_exceeded", "message": "slow down", "type": "requests"}
        told = {"type": "error", "status": 429, "error": error, "headers": {"retry-after": "7"}}
        for provider in providers:
            provider.refusals = [told]
        first = await turn(socket)
        (end,) = await rig.ended()
        assert first[-1]["type"] == "error" and first[-1]["status"] == 429
        assert end.attempts == 2 and end.status == 429 and end.cost_nanos == 0
        wrong = {"code": "invalid_prompt", "message": "no", "type": "invalid_request_error"}
        providers[0].refusals = providers[1].refusals = [
            {"type": "error", "status": 400, "error": wrong}
        ]
        (again,) = await turn(socket)
        assert again["status"] == 400 and again["error"]["code"] == "invalid_prompt"


async def test_a_turn_moves_to_another_channel_when_its_socket_is_cut_before_any_event() -> None:
    async with speaking(channels=2) as (rig, providers, socket):
        first = await turn(socket)
        name = first[-1]["response"]["id"]
        (owner,) = (one for one in providers if name in one.made)
        owner.cut_after = 0
        again = await turn(socket, said="all of it")
        assert again[-1]["type"] == "response.completed"
        ends = await rig.ended(2)
        assert ends[1].attempts == 2 and ends[1].cost_nanos == COST


async def test_a_turn_that_is_cut_ends_as_agents_resend_it_and_is_charged_what_came() -> None:
    async with speaking() as (rig, [provider], socket):
        provider.cut_after = 4
        events = await turn(socket)
        assert events[-1]["type"] == "response.failed"
        (end,) = await rig.ended()
        assert end.reason == "truncated" and end.estimated and end.cost_nanos > 0
        provider.cut_after = None
        assert (await turn(socket))[-1]["type"] == "response.completed"
        assert len(provider.handshakes) == 2


async def test_lanes_have_sockets_of_their_own_and_are_paid_one_by_one() -> None:
    async with speaking() as (rig, [provider], socket):
        provider.holds = asyncio.Event()
        for lane in "abcd":
            await socket.send_json(create(stream_id=lane))
        async with asyncio.timeout(5):
            while len(provider.made) < 4:
                await asyncio.sleep(0.01)
        provider.holds.set()
        events = [await hear(socket) for _ in range(24)]
        for lane in "abcd":
            mine = [event["sequence_number"] for event in events if event["stream_id"] == lane]
            assert mine == list(range(6))
        assert len(provider.handshakes) == 4
        assert [end.cost_nanos for end in await rig.ended(4)] == [COST] * 4


async def test_a_client_that_leaves_takes_its_sockets_along() -> None:
    async with speaking() as (rig, [provider], socket):
        await turn(socket)
        provider.holds = asyncio.Event()
        await socket.send_json(create())
        async with asyncio.timeout(5):
            while len(provider.made) < 2:
                await asyncio.sleep(0.01)
            await socket.close()
            provider.holds.set()
            while rig.server.pool.open_count:
                await asyncio.sleep(0.01)
        assert [end.reason for end in await rig.ended(2)] == ["completed", "client_gone"]


async def test_a_revoked_key_ends_a_turn_within_a_second() -> None:
    async with speaking() as (rig, [provider], socket):
        provider.holds = asyncio.Event()
        await socket.send_json(create())
        async with asyncio.timeout(5):
            while not provider.made:
                await asyncio.sleep(0.01)
        rig.server.swap(msgspec.structs.replace(rig.snapshot, keys={}, generation=2))
        began = asyncio.get_running_loop().time()
        told = await hear(socket)
        assert told["type"] == "error" and told["status"] == 401
        assert asyncio.get_running_loop().time() - began < 1
        message = await socket.receive(timeout=5)
        assert message.type is aiohttp.WSMsgType.CLOSE and message.data == 1008


async def test_large_turns_go_over_a_socket_whole() -> None:
    async with speaking() as (_, [provider], socket):
        said = "x" * 20_000_000
        assert (await turn(socket, said=said))[-1]["type"] == "response.completed"
        assert provider.bodies[-1]["input"] == said and len(provider.handshakes) == 1
