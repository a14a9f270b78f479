"""Goal: the sum of a batch's results is what a bill by hand would be, whatever stands in them.

Method: lines as providers write them, fed to the sum; objects of batches in each of their states.
"""

from typing import Any

import msgspec
import pytest

from relay.errors import ChannelGarbled
from relay.usage import NOTHING, Usage
from relay.wire.state.batches import (
    BatchResults,
    begun_batch,
    ended_batch,
    made_files,
    with_own_results,
)

CHAT = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
RESPONSES = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
CLAUDE = {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 2}
VECTORS = {"prompt_tokens": 8, "total_tokens": 8}


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def served(usage: Any, **more: Any) -> bytes:
    body = {"id": "x", **({"usage": usage} if usage is not None else {}), **more}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return encode({"id": "l", "custom_id": "c", "response": response, "error": None})


def refused(status: int = 400) -> bytes:
    body = {"error": {"message": "no"}, "usage": CHAT}
    response = {"status_code": status, "body": body}
    return encode({"custom_id": "c", "response": response, "error": None})


def result(kind: str, **more: Any) -> bytes:
    return encode({"custom_id": "c", "result": {"type": kind, **more}})


def summed(*lines: bytes, count: int | None = 1, wordless: bool = False) -> Usage | None:
    results = BatchResults("/x", count, None, 100, wordless=wordless)
    for line in lines:
        results.take(line)
    return results.usage()


def test_all_that_was_served_is_added_up_in_every_providers_words() -> None:
    usage = summed(
        served(CHAT),
        served(RESPONSES),
        refused(),
        refused(500),
        encode({"custom_id": "e", "response": None, "error": {"code": "batch_expired"}}),
        result("succeeded", message={"usage": CLAUDE, "content": []}),
        *(result(kind) for kind in ("errored", "canceled", "expired")),
    )
    assert usage is not None and usage.extras is not None
    assert (usage.input_tokens, usage.cached_tokens, usage.output_tokens) == (27, 6, 10)
    assert (usage.extras.requests, usage.extras.tier, usage.estimated) == (3, "batch", False)
    assert usage.tier_told


def test_what_is_not_said_is_estimated_but_for_output_that_is_no_text() -> None:
    said = {"choices": [{"message": {"role": "assistant", "content": "word " * 50}}]}
    silent = summed(served(None, **said))
    assert silent is not None and silent.estimated and silent.input_tokens == 100
    assert 30 < silent.output_tokens < 120
    vectors = summed(served(VECTORS), wordless=True)
    assert vectors is not None
    assert (vectors.input_tokens, vectors.output_tokens, vectors.estimated) == (8, 0, False)


def test_an_answer_that_holds_other_peoples_words_is_still_an_answer() -> None:
    picture = {"output": [{"type": "image_generation_call", "result": "aGk="}]}
    usage = summed(served(CHAT, **picture))
    assert usage is not None and usage.input_tokens == 10
    claim = summed(served({**CHAT, "prompt_tokens_details": {"cached_tokens": 99}}))
    assert claim is not None and claim.cached_tokens == 10


@pytest.mark.parametrize("line", [b"{", b"[]", b"nothing", b'{"response":7}', b"[" * 5000])
def test_a_line_that_cannot_be_read_is_said(line: bytes) -> None:
    with pytest.raises(ChannelGarbled):
        summed(line)


def test_results_without_an_answer_are_nothing_only_where_none_is_due() -> None:
    assert summed(refused(), count=0) is NOTHING
    assert summed(refused(), count=None) is NOTHING
    assert summed(refused(), count=2) is None


def batch(status: str, completed: int = 0, **more: Any) -> bytes:
    counts = {"total": 5, "completed": completed, "failed": 0}
    return encode({"id": "batch_1", "status": status, "request_counts": counts, **more})


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "cancelling", "?"])
def test_a_batch_that_goes_on_has_no_end(status: str) -> None:
    assert ended_batch(batch(status)) is None
    assert begun_batch(batch(status)) == "batch_1"


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_whatever_way_a_batch_ended_its_results_are_read(status: str) -> None:
    assert ended_batch(batch(status)) is NOTHING
    assert begun_batch(batch(status)) == ""
    read = ended_batch(batch(status, 2, output_file_id="file-1/../x"))
    assert callable(read) and read(1).path == "/files/file-1%2F..%2Fx/content"
    unnamed = ended_batch(batch(status, 2))
    assert callable(unnamed) and unnamed(1).path == ""


def test_what_the_object_tells_of_all_stands_by() -> None:
    usage = {"input_tokens": 20, "output_tokens": 9, "total_tokens": 29}
    read = ended_batch(batch("completed", 4, output_file_id="f", usage=usage))
    assert callable(read)
    told = read(1).told
    assert told is not None and told.extras is not None
    assert (told.input_tokens, told.output_tokens, told.extras.requests) == (20, 9, 4)
    empty = ended_batch(batch("completed", 4, output_file_id="f", usage={"input_tokens": 0}))
    assert callable(empty) and empty(1).told is None


def message_batch(status: str, **counts: int) -> bytes:
    return encode({"id": "msgbatch_1", "processing_status": status, "request_counts": counts})


def test_message_batches_end_in_words_of_their_own() -> None:
    for status in ("in_progress", "canceling"):
        assert ended_batch(message_batch(status, succeeded=1)) is None
    assert ended_batch(message_batch("ended", errored=3)) is NOTHING
    read = ended_batch(message_batch("ended", succeeded=3))
    assert callable(read) and read(1).path == "/messages/batches/msgbatch_1/results"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id":7}', b'{"error":{"message":"no"}}'])
def test_what_is_no_batch_is_no_end(body: bytes) -> None:
    assert ended_batch(body) is None and begun_batch(body) == "" and made_files(body) == []


def test_results_are_fetched_from_us() -> None:
    url = "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"
    for body in (encode({"results_url": url}), b'{ "results_url" :  "%b" }' % url.encode()):
        told = with_own_results(body, b"https://relay.example:8443")
        found = msgspec.json.decode(told)["results_url"]
        assert found == "https://relay.example:8443/v1/messages/batches/msgbatch_1/results"
    for body in (b'{"results_url":null}', b'{"results_url":"ftp://x/y"}'):
        assert with_own_results(body, b"https://relay.example") == body
