"""Goal: what is judged or embedded may be a list, of texts, pictures or tokens, and is charged.

Method: an upstream that keeps what it is asked, the official client before a relay.
"""

import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from relay.model import Price, Snapshot
from tests.flow.rig import KEY, MODEL, Rig, make_channel, make_snapshot
from tests.local_app import serve_app

PICTURE = "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 2_000).decode()
INPUTS: list[Any] = [
    "one text",
    ["a text", "and another", "and a third"],
    [{"type": "text", "text": "a text beside a picture"}],
    [
        {"type": "text", "text": "a text"},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
    ],
    [{"type": "image_url", "image_url": {"url": PICTURE}}],
]


class Judge:
    """An upstream that judges and embeds, and keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.port = 0
        self.usage: dict[str, int] | None = None

    async def serve(self, request: web.Request) -> web.Response:
        fields = await request.json()
        self.asked.append(fields)
        given = fields["input"]
        if request.path.endswith("/embeddings"):
            number = len(given) if isinstance(given[0], list) else 1
            rows = [
                {"object": "embedding", "index": at, "embedding": [0.5]} for at in range(number)
            ]
            told = {"object": "list", "data": rows, "model": fields["model"]}
            return web.json_response(told | ({"usage": self.usage} if self.usage else {}))
        number = len(given) if isinstance(given, list) and isinstance(given[0], str) else 1
        verdict = {
            "flagged": False,
            "categories": {"hate": False},
            "category_scores": {"hate": 0.01},
            "category_applied_input_types": {"hate": ["text"]},
        }
        told = {"id": "modr-1", "model": fields["model"], "results": [verdict] * number}
        return web.json_response(told)


@pytest.fixture
async def judge() -> AsyncIterator[Judge]:
    found = Judge()
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("POST", "/{rest:.*}", found.serve)
    async with serve_app(application) as found.port:
        yield found


def priced(port: int, **rates: int) -> Snapshot:
    snapshot = make_snapshot([make_channel(1, port)])
    price = Price(id=7, model=MODEL, input=0, output=0, cached_input=0)
    price = msgspec.structs.replace(price, **rates)
    return msgspec.structs.replace(snapshot, prices={MODEL: price})


@pytest.mark.parametrize("given", INPUTS)
async def test_a_list_is_judged_as_it_came(judge: Judge, given: Any) -> None:
    async with (
        Rig(priced(judge.port, input=2_000_000_000)) as rig,
        AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client,
    ):
        verdict = await client.moderations.create(model=MODEL, input=given)
        many = isinstance(given, list) and isinstance(given[0], str)
        assert len(verdict.results) == (len(given) if many else 1)
        assert judge.asked == [{"model": f"up-{MODEL}", "input": given}]
        (end,) = await rig.ended(1)
        # Its provider tells no tokens: what was sent is estimated, a picture not by its letters.
        assert end.estimated and 0 < end.input_tokens < 5_000 and end.output_tokens == 0
        assert end.cost_nanos == -(-end.input_tokens * 2_000 // 2)


@pytest.mark.parametrize(("rates", "cost_nanos"), [({}, 0), ({"per_call": 500_000}, 250_000)])
async def test_judging_costs_what_its_operator_says_nothing_included(
    judge: Judge, rates: dict[str, int], cost_nanos: int
) -> None:
    async with (
        Rig(priced(judge.port, **rates)) as rig,
        AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client,
    ):
        await client.moderations.create(model=MODEL, input=INPUTS[1])
        (end,) = await rig.ended(1)
        assert (end.cost_nanos, end.endpoint, end.status) == (cost_nanos, "moderations", 200)


@pytest.mark.parametrize(
    "given", [["a", "b"], [1, 2, 3, 4], [[1, 2, 3], [4, 5], [6]], [[100_257] * 2_048] * 8]
)
@pytest.mark.parametrize("says", [True, False])
async def test_lists_of_tokens_are_embedded_as_they_came(
    judge: Judge, given: Any, says: bool
) -> None:
    flat = [one for part in given for one in (part if isinstance(part, list) else [part])]
    judge.usage = {"prompt_tokens": len(flat), "total_tokens": len(flat)} if says else None
    async with (
        Rig(priced(judge.port, input=1_000_000_000)) as rig,
        AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client,
    ):
        made = await client.embeddings.create(model=MODEL, input=given, encoding_format="float")
        assert len(made.data) == (len(given) if isinstance(given[0], list) else 1)
        assert judge.asked[0]["input"] == given
        (end,) = await rig.ended(1)
        if says:
            assert (end.input_tokens, end.estimated) == (len(flat), False)
            assert end.cost_nanos == -(-len(flat) * 1_000 // 2)
        else:  # each token is written in digits: what they take is the most that they can be
            assert end.estimated and len(flat) // 4 <= end.input_tokens <= 8 * len(flat) + 64
