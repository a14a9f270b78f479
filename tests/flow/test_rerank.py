"""Goal: rerankers of each provider are asked in their own words and charged by their own unit.

Method: the answers of Cohere, Jina and Voyage behind a relay, told as they come.
"""

import json
from typing import Any

import msgspec
import pytest

from relay.model import PriceDetail
from tests.flow.rig import MODEL, Peer, Rig, make_channel, make_snapshot, post
from tests.flow.test_claude_hosts import read
from tests.flow.test_converse import answers, body_of

ROWS = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.1}]
COHERE = {
    "id": "1",
    "results": ROWS,
    "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 2}},
}
JINA = {"model": "jina-reranker-v3", "usage": {"total_tokens": 800}, "results": ROWS}
VOYAGE = {"object": "list", "data": ROWS, "model": "rerank-3", "usage": {"total_tokens": 800}}
UNITS = PriceDetail(per_search_unit=2_000_000)


@pytest.mark.parametrize(
    ("answer", "more", "detail", "cost"),
    [
        (COHERE, {"top_n": 1}, UNITS, 2 * 2_000_000 // 2),
        (JINA, {"top_n": 1, "return_documents": False}, None, 800 * 1_000 // 2),
        (VOYAGE, {"top_k": 1, "truncation": True}, None, 800 * 1_000 // 2),
    ],
)
async def test_a_reranker_is_charged_by_its_own_unit(
    answer: dict[str, Any], more: dict[str, Any], detail: PriceDetail | None, cost: int
) -> None:
    async with Peer(answers(answer)) as peer:
        snapshot = make_snapshot([make_channel(1, peer.port)])
        price = snapshot.prices[MODEL]
        if detail is not None:
            price = msgspec.structs.replace(price, input=0, output=0, cached_input=0, detail=detail)
        async with Rig(msgspec.structs.replace(snapshot, prices={MODEL: price})) as rig:
            body = {"model": MODEL, "query": "cat", "documents": ["x" * 900, "y" * 900], **more}
            raw = await rig.say(post("/v1/rerank", body))
            assert body_of(raw) == json.loads(json.dumps(answer))
            (end,) = await rig.ended()
            assert end.endpoint == "rerank" and end.cost_nanos == cost
    target, _, asked = read(peer.requests[0])
    assert target == "/v1/rerank" and asked == {**body, "model": f"up-{MODEL}"}
