"""Goal: the official Gemini client for Node, which Gemini CLI is built on, works unchanged.

Method: one process of it plays scenarios against a whole data plane, whose upstream speaks Gemini
or another dialect; see tests/flow/test_gemini.py for the same client in Python, and more.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from relay.translate import TranslateDialect
from tests.clients.process import GEMINI_NODE, ClientProcess
from tests.clients.test_translated_tools import answers as turns
from tests.flow.rig import KEY, MODEL, Peer, Rig, make_channel, make_snapshot
from tests.flow.test_converse import answers
from tests.flow.test_translated_vectors import GEMINIS, OPENAIS, VECTORS
from tests.flow.translated_cells import Upstream, channel_of
from tests.pure.translate.reading import meaning, read_body
from tests.pure.translate.samples import ANTHROPIC, BODIES, CHAT, DIALECTS, GEMINI, STREAMS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[ClientProcess]:
    process = ClientProcess(GEMINI_NODE)
    yield process
    await process.close()


async def see(client: ClientProcess, rig: Rig, scenario: str, **options: Any) -> dict[str, Any]:
    """Return what the client saw in a scenario that must go well."""
    outcome = await client.play(scenario, rig.url.removesuffix("/v1"), KEY, **options)
    assert outcome.failure is None and outcome.value is not None, outcome.failure
    return outcome.value


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("how", ["stream", "JSON"])
async def test_answers(client: ClientProcess, dialect: TranslateDialect, how: str) -> None:
    upstream = Upstream(dialect)
    upstream.say(how, (STREAMS if how == "stream" else BODIES)[dialect]("text"))
    async with (
        upstream.peer,
        Rig(make_snapshot([channel_of(dialect, 1, upstream.peer.port)])) as rig,
    ):
        seen = await see(client, rig, "stream" if how == "stream" else "create")
        (end,) = await rig.ended()
        said = meaning(read_body(dialect, BODIES[dialect]("text")))
        assert seen["text"] and seen["text"] in json.dumps(said, default=str, ensure_ascii=False)
        assert seen["finish"] == "STOP" and end.status == 200
        assert seen["usage"][0] == end.input_tokens


class Turns(Upstream):
    """An upstream with another answer for each question."""

    def __init__(self, dialect: TranslateDialect, *bodies: bytes) -> None:
        super().__init__(dialect)
        self._bodies = list(bodies)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.say("JSON", self._bodies.pop(0))
        await super()._answer(reader, writer)


@pytest.mark.parametrize("dialect", [one for one in DIALECTS if one is not GEMINI])
async def test_tools_of_another_dialect(client: ClientProcess, dialect: TranslateDialect) -> None:
    first, _, last = turns(dialect, "JSON")
    upstream = Turns(dialect, first, last)
    async with (
        upstream.peer,
        Rig(make_snapshot([channel_of(dialect, 1, upstream.peer.port)])) as rig,
    ):
        seen = await see(client, rig, "tools")
        assert [call["name"] for call in seen["calls"]] == ["weather"] and seen["text"]
        assert "sunny" in upstream.asked.decode()


async def test_counts_vectors_and_models(client: ClientProcess) -> None:
    for channel, told, scenario, seen in (
        (GEMINI, {"totalTokens": 17}, "count", {"totalTokens": 17}),
        (ANTHROPIC, {"input_tokens": 17}, "count", {"totalTokens": 17}),
        (GEMINI, GEMINIS, "embed", {"vectors": VECTORS}),
        (CHAT, OPENAIS, "embed", {"vectors": VECTORS}),
        (GEMINI, {}, "models", {"listed": [f"models/{MODEL}"]}),
    ):
        async with Peer(answers(told)) as peer:
            one = (
                make_channel(1, peer.port) if channel is CHAT else channel_of(channel, 1, peer.port)
            )
            async with Rig(make_snapshot([one])) as rig:
                assert await see(client, rig, scenario) == seen


async def test_a_refusal_is_the_clients_own_exception(client: ClientProcess) -> None:
    async with (
        Peer(answers({})) as peer,
        Rig(make_snapshot([channel_of(GEMINI, 1, peer.port)])) as rig,
    ):
        root = rig.url.removesuffix("/v1")
        wrong = await client.play("create", root, "relay_wrong")
        assert wrong.failure is not None and wrong.failure.status == 401
        unknown = await client.play("create", root, KEY, model="unknown")
        assert unknown.failure is not None and unknown.failure.status == 404
