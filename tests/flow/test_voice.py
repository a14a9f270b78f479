"""Goal: sessions of voice pass through as they are, and each of their responses is paid and told.

Method: aiohttp's WebSocket client before a relay, and a provider of sessions behind it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from relay.errors import CreditExhausted, RelayError
from relay.extras import Extras
from relay.flow.call import Call
from relay.model import PriceDetail
from relay.usage import Usage
from tests.flow.rig import KEY, MODEL, Rig, make_snapshot, post
from tests.flow.voice_provider import SOUND, USAGE, WRITER, Voice

COST = (59 * 1000 + 64 * 500 + 9 * 32_000 + 30 * 2000 + 91 * 64_000) // 2


class Purse:
    """A reservation that refuses, or makes wait, as a test says."""

    def __init__(self) -> None:
        self.refusal: RelayError | None = None
        self.waits = False
        self.taken = 0
        self.closed: list[int] = []

    def take(self, call: Call) -> bool:
        if self.refusal is not None and not self.waits:
            raise self.refusal
        self.taken += not self.waits
        return not self.waits

    async def wait(self, call: Call) -> None:
        await asyncio.sleep(0.05)
        if self.refusal is not None:
            raise self.refusal
        self.taken += 1

    def update(self, call: Call, usage: Usage) -> None:
        """Nothing."""

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        self.closed.append(cost_nanos)


def catalog(*providers: Voice, **key_fields: Any) -> Any:
    snapshot = make_snapshot([one.channel() for one in providers], **key_fields)
    detail = PriceDetail(audio_input=32_000_000_000, audio_output=64_000_000_000)
    priced = msgspec.structs.replace(snapshot.prices[MODEL], detail=detail)
    nothing = msgspec.structs.replace(
        snapshot.prices["free-writer"], input=0, output=0, cached_input=0
    )
    prices = {**snapshot.prices, MODEL: priced, "free-writer": nothing}
    return msgspec.structs.replace(snapshot, prices=prices)


@asynccontextmanager
async def voice(
    rig: Rig, query: str = f"model={MODEL}", key: str = KEY, **options: Any
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """Open a session of voice with the relay."""
    headers = {"Authorization": f"Bearer {key}", "OpenAI-Beta": "realtime=v1"}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{rig.url}/realtime?{query}", headers=headers, max_msg_size=0, **options
        ) as socket,
    ):
        yield socket


@asynccontextmanager
async def standing(
    purse: Purse | None = None, **key_fields: Any
) -> AsyncIterator[tuple[Rig, Voice]]:
    async with (
        Voice() as provider,
        Rig(catalog(provider, **key_fields), paid_by=[purse] if purse else ()) as rig,
    ):
        yield rig, provider


async def hear(socket: aiohttp.ClientWebSocketResponse, *until: str) -> list[dict[str, Any]]:
    """Return the events up to the first of a type of `until`."""
    events: list[dict[str, Any]] = []
    while not events or (until and events[-1]["type"] not in until):
        message = await socket.receive(timeout=5)
        assert message.type is aiohttp.WSMsgType.TEXT, (message, events)
        events.append(json.loads(message.data))
    return events


async def closed(socket: aiohttp.ClientWebSocketResponse) -> int | None:
    while not socket.closed:
        await socket.receive(timeout=5)
    return socket.close_code


async def test_a_response_passes_unchanged_and_is_charged_for_its_sound() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        (first,) = await hear(socket)
        assert first["type"] == "session.created", first
        await socket.send_json({"type": "response.create", "event_id": "mine"})
        events = await hear(socket, "response.done")
        assert [event["type"] for event in events] == [
            "response.created",
            *["response.output_audio.delta"] * 3,
            "response.done",
        ]
        (ended,) = await rig.ended()
        assert ended.endpoint == "realtime" and ended.stream and ended.status == 200
        assert ended.model == MODEL and ended.served_model == f"up-{MODEL}"
        assert (ended.input_tokens, ended.cached_tokens, ended.output_tokens) == (132, 64, 121)
        assert (ended.audio_input_tokens, ended.audio_output_tokens) == (9, 91)
        assert ended.cost_nanos == COST and not ended.estimated and ended.attempts == 1
        assert [start.request_id for start in rig.journal.starts] == [ended.request_id]
        request = provider.handshakes[0]
        assert request.query == {"model": f"up-{MODEL}"} and request.headers["OpenAI-Beta"]
        assert request.headers["Authorization"] == "Bearer sk-upstream-1"
        assert provider.heard == [{"type": "response.create", "event_id": "mine"}]


async def test_responses_that_nobody_asked_for_are_paid_as_well() -> None:
    purse = Purse()
    async with standing(purse) as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        await socket.send_json({"type": "input_audio_buffer.append", "audio": SOUND})
        await socket.send_json({"type": "input_audio_buffer.commit"})
        await hear(socket, "response.done")
        assert [end.cost_nanos for end in await rig.ended()] == [COST]
        assert purse.taken == 1 and purse.closed == [COST]
        assert [event["type"].rpartition(".")[2] for event in provider.heard] == [
            "append",
            "commit",
        ]


async def test_responses_beside_each_other_are_paid_one_by_one() -> None:
    async with standing() as (rig, _), voice(rig) as socket:
        await hear(socket, "session.created")
        for _ in range(3):
            asked = {"type": "response.create", "response": {"conversation": "none"}}
            await socket.send_json(asked)
        for _ in range(3):
            await hear(socket, "response.done")
        ends = await rig.ended(3)
        assert [end.cost_nanos for end in ends] == [COST] * 3
        assert len({end.request_id for end in ends}) == 3
        assert rig.server.counters.inflight == 0


async def test_what_waits_for_money_keeps_what_stands_behind_it_waiting() -> None:
    purse = Purse()
    purse.waits = True
    async with standing(purse) as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        await socket.send_json({"type": "response.create"})
        await socket.send_json({"type": "conversation.item.create", "item": {}})
        await hear(socket, "response.done")
        assert [event["type"] for event in provider.heard] == [
            "response.create",
            "conversation.item.create",
        ]
        assert purse.taken == 1 and purse.closed == [COST]


@pytest.mark.parametrize("waits", [False, True])
async def test_who_cannot_pay_is_not_answered_and_has_to_go(waits: bool) -> None:
    purse = Purse()
    purse.refusal, purse.waits = CreditExhausted("No credit is left."), waits
    async with standing(purse) as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        await socket.send_json({"type": "response.create", "event_id": "mine"})
        (told,) = await hear(socket, "error")
        assert told["status"] == 429 and told["error"]["code"] == "credit_balance_exhausted"
        assert told["error"]["event_id"] == "mine"
        assert await closed(socket) == 1008 and provider.heard == []
        (ended,) = await rig.ended()
        assert ended.status == 429 and not ended.cost_nanos


async def test_what_the_provider_begins_for_who_cannot_pay_is_cancelled_and_charged() -> None:
    purse = Purse()
    async with standing(purse) as (rig, provider), voice(rig) as socket:
        provider.holds = asyncio.Event()
        await hear(socket, "session.created")
        purse.refusal = CreditExhausted("No credit is left.")
        await socket.send_json({"type": "input_audio_buffer.commit"})
        await hear(socket, "error")
        assert await closed(socket) == 1008
        (ended,) = await rig.ended()
        assert provider.heard[-1]["type"] == "response.cancel" and ended.cost_nanos == COST


async def test_a_response_that_is_refused_upstream_costs_nothing() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        provider.deltas, provider.usage = 0, {**USAGE, "input_tokens": 0, "output_tokens": 0}
        await socket.send_json({"type": "response.create"})
        await hear(socket, "response.done")
        (ended,) = await rig.ended()
        assert ended.cost_nanos == 0 and ended.input_tokens == 0


async def test_a_client_that_leaves_pays_what_its_response_came_to() -> None:
    async with standing() as (rig, provider):
        provider.holds = asyncio.Event()
        async with voice(rig) as socket:
            await hear(socket, "session.created")
            await socket.send_json({"type": "response.create"})
            await hear(socket, "response.output_audio.delta")
        (ended,) = await rig.ended()
        assert ended.reason == "client_gone" and ended.cost_nanos == COST
        async with asyncio.timeout(5):
            while not provider.sockets[0].closed:
                await asyncio.sleep(0.01)
        assert rig.server.counters.inflight == 0


async def test_a_provider_that_dies_is_told_and_charged_for_what_it_said() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        provider.holds = asyncio.Event()
        await hear(socket, "session.created")
        await socket.send_json({"type": "response.create"})
        for _ in range(3):
            await hear(socket, "response.output_audio.delta")
        transport = provider.handshakes[0].transport
        assert transport is not None
        transport.abort()
        (told,) = await hear(socket, "error")
        assert told["error"]["code"] == "upstream_truncated" and await closed(socket) == 1001
        (ended,) = await rig.ended()
        assert ended.estimated and ended.reason == "truncated"
        assert 55 <= ended.audio_output_tokens <= 60  # three seconds, at a token for 50 ms


async def test_a_session_that_is_lost_is_one_failure_however_many_responses_it_had() -> None:
    """Whose fault it was nobody knows: one customer's session takes no channel from all others."""
    async with standing() as (rig, provider):
        for _ in range(2):
            async with voice(rig) as socket:
                provider.holds, provider.deltas = asyncio.Event(), 1
                await hear(socket, "session.created")
                for _ in range(20):
                    await socket.send_json({"type": "response.create"})
                for _ in range(20):
                    await hear(socket, "response.output_audio.delta")
                transport = provider.handshakes[-1].transport
                assert transport is not None
                transport.abort()
                assert await closed(socket) == 1001
        ends = await rig.ended(40)
        assert {end.reason for end in ends} == {"truncated"}
        async with voice(rig) as socket:
            provider.holds = None
            await hear(socket, "session.created")
            await socket.send_json({"type": "response.create"})
            await hear(socket, "response.done")


async def test_another_channel_is_tried_where_one_opens_no_session() -> None:
    async with Voice(1) as bad, Voice(2) as good, Rig(catalog(bad, good)) as rig:
        bad.refuses = 500
        for _ in range(4):
            async with voice(rig) as socket:
                await hear(socket, "session.created")
                await socket.send_json({"type": "response.create"})
                await hear(socket, "response.done")
        ends = await rig.ended(4)
        assert {end.channel_id for end in ends} == {2} and {end.status for end in ends} == {200}


async def test_a_session_that_nobody_opens_is_told_why() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket)
        provider.refuses = 500
        async with voice(rig) as other:
            (told,) = await hear(other, "error")
            assert told["status"] == 502 and await closed(other) == 1001
        (ended,) = await rig.ended()
        assert ended.status == 502 and ended.reason == "upstream_failed"
        assert not socket.closed


@pytest.mark.parametrize(
    ("query", "code"), [("model=unknown", "model_not_found"), ("", None), ("model=", None)]
)
async def test_a_session_of_no_model_is_refused_by_name(query: str, code: str | None) -> None:
    async with standing() as (rig, _), voice(rig, query) as socket:
        await socket.send_json({"type": "response.create"})
        (told,) = await hear(socket, "error")
        assert told["error"]["param"] == "model" and told["error"]["code"] == code


async def test_a_revoked_key_ends_its_session_and_what_runs() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        provider.holds = asyncio.Event()
        await hear(socket, "session.created")
        await socket.send_json({"type": "response.create"})
        await hear(socket, "response.output_audio.delta")
        rig.server.swap(msgspec.structs.replace(rig.snapshot, keys={}, generation=2))
        told = (await hear(socket, "error"))[-1]
        assert told["status"] == 401 and await closed(socket) == 1008
        assert (await rig.ended())[0].reason == "key_revoked"


async def test_a_worker_that_ends_closes_sessions_between_responses() -> None:
    async with standing() as (rig, provider), voice(rig) as idle, voice(rig) as busy:
        provider.holds = asyncio.Event()
        await hear(idle, "session.created")
        await hear(busy, "session.created")
        await busy.send_json({"type": "response.create"})
        await hear(busy, "response.output_audio.delta")
        draining = asyncio.create_task(rig.server.drain(10.0))
        assert await closed(idle) == 1012
        provider.holds.set()
        await hear(busy, "response.done")
        assert await closed(busy) == 1012
        async with asyncio.timeout(5):
            await draining
        assert [end.cost_nanos for end in rig.journal.ends] == [COST]


async def test_a_channel_that_is_drained_is_left_between_responses() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        gone = msgspec.structs.replace(rig.snapshot, routes={}, channels={}, generation=2)
        rig.server.swap(gone)
        await socket.send_json({"type": "response.create"})
        (told,) = await hear(socket, "error")
        assert told["error"]["code"] == "model_not_found" and provider.heard == []


def writes_down(model: str) -> dict[str, Any]:
    said = {"type": "realtime", "audio": {"input": {"transcription": {"model": model}}}}
    return {"type": "session.update", "event_id": "mine", "session": said}


async def test_what_is_written_down_is_charged_to_the_model_that_does() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        await socket.send_json(writes_down(WRITER))
        await hear(socket, "session.updated")
        usage = {"type": "tokens", "input_tokens": 100, "output_tokens": 20, "total_tokens": 120}
        await provider.transcribe(usage)
        await hear(socket, "conversation.item.input_audio_transcription.completed")
        (ended,) = await rig.ended()
        assert ended.model == WRITER and ended.cost_nanos == (100 * 1000 + 20 * 2000) // 2
        await provider.transcribe({"type": "duration", "seconds": 2.5})
        ended = (await rig.ended(2))[1]
        assert ended.extras == Extras(audio_ms=2500)


@pytest.mark.parametrize(
    ("model", "param"),
    [("unknown-writer", "model"), ("free-writer", "model"), (MODEL, "model")],
)
async def test_what_cannot_be_metered_is_refused_by_name(model: str, param: str) -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        await socket.send_json(writes_down(model))
        (told,) = await hear(socket, "error")
        assert told["error"]["param"] == f"session.audio.input.transcription.{param}"
        assert told["error"]["event_id"] == "mine" and provider.heard == []
        await socket.send_json(writes_down(WRITER))
        await hear(socket, "session.updated")


async def test_a_session_that_hides_what_writes_down_is_closed() -> None:
    async with standing() as (rig, _), voice(rig) as socket:
        await hear(socket, "session.created")
        hidden = json.dumps(writes_down("free-writer")).replace(
            "transcription", "transcriptio\\u006e"
        )
        twice = hidden.replace('"type": "session.update"', '"type": "x", "type": "session.update"')
        await socket.send_str(twice.replace('"event_id": "mine"', '"response": 5'))
        assert await closed(socket) == 1008


async def test_a_session_of_transcription_names_its_model_in_its_first_event() -> None:
    async with standing() as (rig, provider), voice(rig, "intent=transcription") as socket:
        await socket.send_json(writes_down(WRITER))
        await hear(socket, "session.updated")
        assert provider.handshakes[0].query == {"intent": "transcription"}
        await provider.transcribe({"input_tokens": 10, "output_tokens": 5})
        (ended,) = await rig.ended()
        assert (ended.model, ended.input_tokens, ended.output_tokens) == (WRITER, 10, 5)


async def test_keys_and_calls_that_go_past_the_relay_are_refused_by_name() -> None:
    async with standing() as (rig, _):
        for path in ("/v1/realtime/client_secrets", "/v1/realtime/calls", "/v1/realtime"):
            answer = await rig.say(post(path, {}))
            assert answer.startswith(b"HTTP/1.1 404") and b"WebSocket" in answer
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with voice(rig, "call_id=rtc_1"):
                pass
        assert refused.value.status == 400
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            async with voice(rig, key="relay_unknown"):
                pass
        assert refused.value.status == 401


async def test_frames_that_are_too_large_or_binary_are_told() -> None:
    async with standing() as (rig, provider), voice(rig) as socket:
        await hear(socket, "session.created")
        await socket.send_bytes(b"binary")
        assert (await hear(socket, "error"))[0]["status"] == 400
        await socket.send_json({"type": "input_audio_buffer.append", "audio": "A" * 17_000_000})
        assert (await hear(socket, "error"))[0]["status"] == 400
        await socket.send_json({"type": "input_audio_buffer.append", "audio": "A" * 15_000_000})
        await socket.send_json({"type": "response.create"})
        await hear(socket, "response.done")
        assert len(provider.heard[0]["audio"]) == 15_000_000
