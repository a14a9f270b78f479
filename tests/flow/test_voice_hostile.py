"""Goal: neither client nor provider of a session of voice gets by odd words what is not theirs.

Method: counts that are none, bounds that bound nothing, floods from either side, a bug of ours.
"""

import asyncio
from typing import Any

import aiohttp
import pytest

from relay.flow.call import Call
from tests.flow.test_voice import COST, Purse, hear, standing, voice


@pytest.mark.parametrize(
    "usage",
    [
        {"input_tokens": 11.0, "output_tokens": "7"},
        {"input_tokens": "11", "output_tokens": 7.0, "input_token_details": []},
        {"input_tokens": 11, "output_tokens": 7, "input_token_details": {"audio_tokens": None}},
        {"input_tokens": 11, "output_tokens": 7, "seconds": "?", "output_token_details": 5},
    ],
)
async def test_counts_are_read_however_they_are_written(usage: dict[str, Any]) -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        provider.usage = usage
        await socket.send_json({"type": "response.create"})
        await hear(socket, "response.done")
        (ended,) = await rig.ended()
        assert (ended.input_tokens, ended.output_tokens, ended.estimated) == (11, 7, False)
        assert ended.cost_nanos == (11 * 1000 + 7 * 2000) // 2 and ended.status == 200


@pytest.mark.parametrize("usage", [{"input_tokens": -5}, {"a": 1}, [], "x", {}, None])
async def test_a_response_whose_count_is_none_is_charged_by_its_sound(usage: Any) -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        provider.usage = usage
        await socket.send_json({"type": "response.create"})
        await hear(socket, "response.done")
        (ended,) = await rig.ended()
        assert ended.estimated and 58 <= ended.audio_output_tokens <= 60
        assert len(rig.journal.starts) == 1


async def test_responses_at_once_are_bounded_for_a_client() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        provider.holds, provider.deltas = asyncio.Event(), 0
        for number in range(70):
            await socket.send_json({"type": "response.create", "event_id": f"mine-{number}"})
        told = [(await hear(socket, "error"))[0] for _ in range(6)]
        assert [one["error"]["event_id"] for one in told] == [f"mine-{n}" for n in range(64, 70)]
        assert {one["status"] for one in told} == {400}
        provider.holds.set()
        await rig.ended(64)
        assert len(rig.journal.starts) == 64
        provider.holds = None
        await socket.send_json({"type": "response.create"})
        await rig.ended(65)


@pytest.mark.parametrize("name", ["x" * 300, "one of many"])
async def test_a_provider_that_begins_without_end_loses_its_session(name: str) -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        for number in range(1 if len(name) > 100 else 70):
            told = {"id": f"{name} {number}"}
            await provider.sockets[-1].send_json({"type": "response.created", "response": told})
        message = await socket.receive(timeout=5)
        while message.type is aiohttp.WSMsgType.TEXT:
            message = await socket.receive(timeout=5)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        await rig.ended(len(rig.journal.starts))
        assert len(rig.journal.starts) <= 64


@pytest.mark.parametrize("bound", [-5, 0, -(2**62), "inf", "-5", 1.5, [], None])
async def test_a_bound_that_bounds_nothing_is_none(bound: Any) -> None:
    """Nothing less is held for a response than without one, and its session goes on."""
    held: list[int | None] = []

    class Holding(Purse):
        def take(self, call: Call) -> bool:
            held.append(call.request.output_tokens_max)
            return super().take(call)

    async with standing(Holding()) as (rig, _), voice(rig) as socket:
        await hear(socket, "session.created")
        for _ in range(2):
            asked = {"type": "response.create", "response": {"max_output_tokens": bound}}
            await socket.send_json(asked)
            await hear(socket, "response.done")
        assert [end.status for end in await rig.ended(2)] == [200, 200]
        assert held == [None, None]


async def test_a_bug_of_ours_is_told_and_costs_neither_session_nor_count() -> None:
    class Buggy(Purse):
        def take(self, call: Call) -> bool:
            if not self.taken:
                self.taken = 1
                raise ZeroDivisionError
            return super().take(call)

    async with standing(Buggy()) as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        await socket.send_json({"type": "response.create", "event_id": "mine"})
        (told,) = await hear(socket, "error")
        assert told["status"] == 500 and told["error"]["event_id"] == "mine"
        assert not provider.heard
        await socket.send_json({"type": "response.create"})
        await hear(socket, "response.done")
        ends = await rig.ended(2)
        assert [(end.status, end.cost_nanos) for end in ends] == [(500, 0), (200, COST)]
        assert rig.server.counters.inflight == 0
