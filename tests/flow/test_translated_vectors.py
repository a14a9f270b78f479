"""Goal: embeddings of Gemini's serve OpenAI's clients, and OpenAI's serve Gemini's.

Method: the official client and raw requests over scripted upstreams of the other dialect.
"""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.flow.rig import KEY, MODEL, Peer, Rig, make_channel, make_snapshot, post
from tests.flow.test_claude_hosts import read
from tests.flow.test_converse import answers, body_of
from tests.flow.translated_cells import channel_of
from tests.pure.translate.samples import ANTHROPIC, GEMINI

VECTORS = [[0.5, -0.25, 1.0], [0.0, 2.0, -1.5]]
GEMINIS = {"embeddings": [{"values": vector} for vector in VECTORS]}
OPENAIS = {
    "object": "list",
    "data": [{"object": "embedding", "index": at, "embedding": VECTORS[at]} for at in (1, 0)],
    "model": "up",
    "usage": {"prompt_tokens": 8, "total_tokens": 8},
}
TEXTS = ["one", "two"]


@pytest.mark.parametrize("form", ["base64", "float"])
async def test_geminis_vectors_serve_openais_client(form: Any) -> None:
    async with (
        Peer(answers(GEMINIS)) as peer,
        Rig(make_snapshot([channel_of(GEMINI, 1, peer.port)])) as rig,
        AsyncOpenAI(base_url=rig.url, api_key=KEY, max_retries=0) as client,
    ):
        more = {} if form == "base64" else {"encoding_format": form}  # its own default
        made = await client.embeddings.create(model=MODEL, input=TEXTS, dimensions=3, **more)
        assert [row.embedding for row in made.data] == VECTORS
        assert [row.index for row in made.data] == [0, 1] and made.model == MODEL
        (end,) = await rig.ended()
        assert end.translated == "openai>gemini" and end.endpoint == "embeddings"
        # Gemini does not say what its vectors used: it is estimated, and marked.
        assert end.estimated and end.input_tokens > 0 and end.output_tokens == 0
        assert made.usage.prompt_tokens == end.input_tokens and end.cost_nanos > 0
    target, _, body = read(peer.requests[0])
    assert target == f"/v1beta/models/up-{MODEL}:batchEmbedContents"
    assert body["requests"] == [
        {
            "model": f"models/up-{MODEL}",
            "content": {"parts": [{"text": text}]},
            "outputDimensionality": 3,
        }
        for text in TEXTS
    ]


@pytest.mark.parametrize("verb", ["embedContent", "batchEmbedContents"])
async def test_openais_vectors_serve_geminis_clients(verb: str) -> None:
    one = {
        "model": f"models/{MODEL}",
        "content": {"parts": [{"text": "one"}]},
        "taskType": "RETRIEVAL_QUERY",
    }
    batch = verb == "batchEmbedContents"
    told = OPENAIS if batch else {**OPENAIS, "data": OPENAIS["data"][1:]}  # type: ignore[index]
    async with (
        Peer(answers(told)) as peer,
        Rig(make_snapshot([make_channel(1, peer.port)])) as rig,
    ):
        body = {"requests": [one, one]} if batch else one
        raw = await rig.say(post(f"/v1beta/models/{MODEL}:{verb}", body))
        expected = GEMINIS if batch else {"embedding": {"values": VECTORS[0]}}
        assert body_of(raw) == expected
        assert b"x-relay-dropped: taskType" in raw
        (end,) = await rig.ended()
        assert (end.input_tokens, end.output_tokens) == (8, 0) and not end.estimated
    asked = read(peer.requests[0])[2]
    assert asked["input"] == ["one"] * (2 if batch else 1)
    assert asked["encoding_format"] == "float" and asked["model"] == f"up-{MODEL}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"input": [1, 2]}, "input"), ({"input": "a", "encoding_format": "int8"}, "encoding_format")],
)
async def test_what_gemini_cannot_be_told_is_refused_by_name(
    fields: dict[str, Any], param: str
) -> None:
    async with (
        Peer(answers(GEMINIS)) as peer,
        Rig(make_snapshot([channel_of(GEMINI, 1, peer.port)])) as rig,
    ):
        raw = await rig.say(post("/v1/embeddings", {"model": MODEL, **fields}))
        assert raw.startswith(b"HTTP/1.1 400 ")
        assert json.loads(raw.partition(b"\r\n\r\n")[2])["error"]["param"] == param
        assert peer.requests == []


async def test_a_provider_without_embeddings_is_not_asked() -> None:
    async with (
        Peer(answers(GEMINIS)) as peer,
        Rig(make_snapshot([channel_of(ANTHROPIC, 1, peer.port)])) as rig,
    ):
        raw = await rig.say(post("/v1/embeddings", {"model": MODEL, "input": "a"}))
        assert raw.startswith(b"HTTP/1.1 404 ") and peer.requests == []


async def test_an_answer_without_vectors_is_none() -> None:
    async with (
        Peer(answers({"embeddings": [{"values": "many"}]})) as peer,
        Rig(make_snapshot([channel_of(GEMINI, 1, peer.port)])) as rig,
    ):
        raw = await rig.say(post("/v1/embeddings", {"model": MODEL, "input": "a"}))
        assert raw.startswith(b"HTTP/1.1 502 ")
