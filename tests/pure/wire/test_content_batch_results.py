"""Goal: a batch of Gemini's costs what its answers say, and its paths are told from OpenAI's.

Method: operations in each of their states, as the provider tells of them and damaged; paths as the
google-genai clients of both majors write them.
"""

from typing import Any

import msgspec
import pytest

from relay.errors import MethodNotAllowed
from relay.model import Dialect
from relay.records import Endpoint
from relay.usage import NOTHING, Usage
from relay.wire.state.content_batches import begun_contents, ended_contents
from relay.wire.state.jobs import CONTENT_BATCH_JOB
from relay.wire.state.marks import BATCH, CONTENT_BATCH
from relay.wire.state.paths import find_kept

USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 2}
SERVED = {"response": {"candidates": [], "usageMetadata": USAGE}}
REFUSED = {"error": {"code": 3, "message": "no"}, "metadata": {"key": "a"}}


def operation(state: str, *answers: Any, where: str = "metadata", **more: Any) -> bytes:
    told: dict[str, Any] = {"name": "batches/b1", "metadata": {"state": state}, **more}
    output = {"inlinedResponses": {"inlinedResponses": list(answers)}}
    if answers and where == "metadata":
        told["metadata"]["output"] = output
    elif answers:
        told["response"] = output
    return msgspec.json.encode(told)


def used(body: bytes) -> Usage | None:
    end = CONTENT_BATCH_JOB.read_end(body)
    assert end is not None
    if end.usage is not None:
        return end.usage
    assert end.results is not None
    results = end.results(100)
    assert results.path == ""
    return results.told


@pytest.mark.parametrize("state", ["BATCH_STATE_PENDING", "BATCH_STATE_RUNNING", ""])
def test_one_that_goes_on_has_a_name_and_no_end(state: str) -> None:
    assert begun_contents(operation(state)) == "b1"
    assert CONTENT_BATCH_JOB.read_end(operation(state)) is None
    assert CONTENT_BATCH_JOB.path("b1") == "/batches/b1"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"name":"operations/1"}', b'{"name":7}'])
def test_what_is_no_batch_has_neither(body: bytes) -> None:
    assert begun_contents(body) == "" and ended_contents(body) is None


@pytest.mark.parametrize("where", ["metadata", "response"])
@pytest.mark.parametrize("state", ["BATCH_STATE_SUCCEEDED", "JOB_STATE_SUCCEEDED"])
def test_what_was_served_is_summed_up(state: str, where: str) -> None:
    usage = used(operation(state, SERVED, REFUSED, SERVED, where=where))
    assert usage is not None and usage.extras is not None
    assert (usage.input_tokens, usage.output_tokens, usage.estimated) == (20, 14, False)
    assert (usage.extras.tier, usage.extras.requests) == ("batch", 2)
    assert begun_contents(operation(state, SERVED)) == ""


def test_what_is_not_told_is_estimated() -> None:
    silent = {"candidates": [{"content": {"parts": [{"text": "word " * 20}]}}]}
    usage = used(operation("BATCH_STATE_SUCCEEDED", {"response": silent}))
    assert usage is not None and usage.estimated
    assert usage.input_tokens == 100 and usage.output_tokens > 0


@pytest.mark.parametrize("state", ["BATCH_STATE_FAILED", "BATCH_STATE_EXPIRED"])
def test_what_made_nothing_costs_nothing(state: str) -> None:
    assert used(operation(state)) is NOTHING
    assert used(operation("", done=True, error={"code": 13})) is NOTHING
    assert used(operation("BATCH_STATE_SUCCEEDED", REFUSED)) is NOTHING


def test_what_was_made_before_a_cancellation_is_summed_up() -> None:
    usage = used(operation("BATCH_STATE_CANCELLED", SERVED))
    assert usage is not None and usage.input_tokens == 10
    assert used(operation("BATCH_STATE_CANCELLED")) is NOTHING


def test_what_cannot_be_read_is_not_known() -> None:
    assert used(operation("BATCH_STATE_SUCCEEDED")) is None
    assert used(operation("", done=True)) is None
    assert used(operation("BATCH_STATE_SUCCEEDED", SERVED, 7)) is None


@pytest.mark.parametrize(
    ("target", "dialect", "mark"),
    [
        ("/v1beta/batches/b1", Dialect.OPENAI, CONTENT_BATCH),
        ("/v1alpha/batches/b1", Dialect.GEMINI, CONTENT_BATCH),
        ("/v1/batches/b1", Dialect.GEMINI, CONTENT_BATCH),
        ("/v1/batches/b1", Dialect.OPENAI, BATCH),
        ("/v1/batches/b1", Dialect.ANTHROPIC, BATCH),
    ],
)
def test_whose_batch_a_path_means(target: str, dialect: Dialect, mark: bytes) -> None:
    kept = find_kept("GET", target, dialect)
    assert kept is not None and (kept.mark, kept.path) == (mark + b"b1", "/batches/b1")
    assert kept.passes_raw is (mark is CONTENT_BATCH)


def test_the_paths_of_geminis_batches() -> None:
    for root in ("/v1", "/v1beta", "/v1/v1beta", "/v1beta/v1beta", ""):
        begun = find_kept("POST", f"{root}/models/gemini%2D3:batchGenerateContent")
        assert begun is not None and begun.begins_batch and begun.model == "gemini-3"
        assert (begun.endpoint, begun.mark) == (Endpoint.CONTENT_BATCHES, b"")
    page = find_kept("GET", "/v1beta/batches?pageSize=2&pageToken=b1&filter=x")
    assert page is not None and page.lists and page.path == "/batches?pageSize=2&pageToken=b1"
    ended = find_kept("POST", "/v1/batches/b1:cancel?alt=json", Dialect.GEMINI)
    assert ended is not None and ended.path == "/batches/b1:cancel" and not ended.passes_raw
    assert find_kept("POST", "/v1/batches/b1:cancel") is None
    assert find_kept("GET", "/v1beta/batches/a/b") is None
    for method, path in (
        ("GET", "/v1beta/models/m:batchGenerateContent"),
        ("PUT", "/v1beta/batches/b1"),
        ("POST", "/v1beta/batches"),
    ):
        with pytest.raises(MethodNotAllowed):
            find_kept(method, path)


@pytest.mark.parametrize(
    ("told", "tokens", "estimated"),
    [({"tokenCount": "7"}, 14, False), ({"tokenCount": 7}, 14, False), ({}, 200, True)],
)
def test_texts_that_were_embedded_are_counted(
    told: dict[str, Any], tokens: int, *, estimated: bool
) -> None:
    one = {"response": {"embedding": {"values": [0.1]}, **told}}
    output = {"inlinedEmbedContentResponses": {"inlinedResponses": [one, REFUSED, one]}}
    metadata = {"state": "BATCH_STATE_SUCCEEDED", "output": output}
    usage = used(msgspec.json.encode({"name": "batches/b1", "metadata": metadata}))
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (tokens, 0)
    assert usage.estimated is estimated
