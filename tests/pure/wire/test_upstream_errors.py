"""A refusal becomes the right error: its words for who wrote the request, nothing for others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import (
    ChannelDenied,
    ChannelForbade,
    ChannelLacksModel,
    ChannelLimited,
    ChannelOverloaded,
    ChannelRefused,
    ChannelTimeout,
    RelayError,
    UpstreamRejected,
)
from relay.records import Endpoint
from relay.wire.refusals.upstream_errors import (
    find_wrong,
    find_wrong_start,
    is_error_body,
    read_refusal,
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ChannelDenied),
        (402, ChannelDenied),
        (403, ChannelForbade),
        (404, ChannelLacksModel),
        (405, ChannelLacksModel),
        (410, ChannelLacksModel),
        (501, ChannelLacksModel),
        (408, ChannelTimeout),
        (429, ChannelLimited),
        (302, ChannelRefused),
        (500, ChannelRefused),
        (504, ChannelTimeout),
        (524, ChannelTimeout),
        (529, ChannelOverloaded),
        (400, UpstreamRejected),
        (413, UpstreamRejected),
        (422, UpstreamRejected),
    ],
)
def test_blame(status: int, kind: type[RelayError]) -> None:
    error = read_refusal(status, {}, b"", now_s=0.0)
    assert type(error) is kind
    assert error.switch is (kind is not UpstreamRejected)


def test_a_rejection_is_told_in_the_providers_own_words() -> None:
    body = (
        b'{"error":{"message":"Unsupported value: \'temperature\' does not support 0.1.",'
        b'"type":"invalid_request_error","param":"messages[0].content","code":"unsupported_value"}}'
    )
    error = read_refusal(400, {}, body, now_s=0.0)
    assert (error.status, error.code) == (400, "unsupported_value")
    assert error.param == "messages[0].content"
    assert error.message == "Unsupported value: 'temperature' does not support 0.1."
    assert error.own_body == body


def test_what_is_logged_of_a_rejection_is_a_plain_token() -> None:
    body = b'{"error":{"code":"I said: SECRET","type":"x y","param":"a\\nb","message":"m"}}'
    odd = read_refusal(422, {}, body, now_s=0.0)
    assert (odd.code, odd.param) == (None, None)
    numeric = read_refusal(400, {}, b'{"error":{"code":400,"message":"No."}}', now_s=0.0)
    assert (numeric.code, numeric.message) == (None, "No.")


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>No</html>", b"[1]", b'"no"', b"{}", b'{"error":', b"\xff", b'[{"error":1}]'],
)
def test_a_body_without_words_is_told_in_ours(body: bytes) -> None:
    error = read_refusal(400, {}, body, now_s=0.0)
    assert error.message == "The model's provider refused this request as invalid (400)."
    assert error.own_body == b""


@pytest.mark.parametrize(
    "said",
    [
        "messages.1: prompt is too long: 200123 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
        "This model's maximum context length is 128000 tokens. However, you requested 130000.",
        "the request exceeds the available context size. try increasing the context size",
        "The input token count (1250074) exceeds the maximum number of tokens allowed (1048576).",
    ],
)
def test_what_agents_read_in_a_rejection_is_kept(said: str) -> None:
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"%b"}}'
    error = read_refusal(400, {}, body % said.encode(), now_s=0.0)
    assert error.message == said
    assert said.encode() in error.own_body


def test_an_account_without_credit_is_the_channels_fault_whatever_the_status() -> None:
    body = b'{"error":{"type":"x","message":"Your credit balance is too low to access the API."}}'
    assert isinstance(read_refusal(400, {}, body, now_s=0.0), ChannelDenied)


@given(st.binary(max_size=200))
def test_no_body_can_crash_it(body: bytes) -> None:
    assert read_refusal(400, {}, body, now_s=0.0).status == 400
    is_error_body(body)


def test_a_refusal_for_the_quota_says_when_it_refills() -> None:
    left = {b"x-ratelimit-remaining-tokens": b"0", b"x-ratelimit-reset-tokens": b"1m30s"}
    assert read_refusal(429, left, b"", now_s=0.0).retry_after_s == 90.0
    soon = {b"retry-after": b"2"}
    assert read_refusal(429, left | soon, b"", now_s=0.0).retry_after_s == 2.0
    assert read_refusal(503, soon, b"", now_s=0.0).retry_after_s == 2.0


@pytest.mark.parametrize("body", [b"{}", b'{"id":"1"}', b'  \r\n{"a":[1]}\n', b'\n{"a":1} '])
def test_an_object_is_an_answer(body: bytes) -> None:
    assert find_wrong(body, Endpoint.CHAT) is None
    assert find_wrong_start(body, Endpoint.CHAT) is None


@pytest.mark.parametrize(
    "body", [b"", b"   ", b"OK", b'"{}"', b"[1]", b"null", b"<html>{}</html>", b'{"id":"1', b'"a"}']
)
def test_anything_else_is_none(body: bytes) -> None:
    assert find_wrong(body, Endpoint.CHAT) is not None
    assert find_wrong(body, Endpoint.EMBEDDINGS) is not None
    assert find_wrong(body, Endpoint.TRANSCRIPTIONS) is None


def test_sound_and_text_have_no_shape() -> None:
    assert find_wrong(b"ID3...", Endpoint.SPEECH) is None
    assert find_wrong(b"Hello there.", Endpoint.TRANSCRIPTIONS) is None
    assert find_wrong_start(b"ID3...", Endpoint.SPEECH) is None
    assert find_wrong_start(b"[1, 2", Endpoint.IMAGES) is not None


def test_error_bodies_under_a_200() -> None:
    assert is_error_body(b'{"error":{"message":"m","type":"t"}}')
    assert not is_error_body(b'{"id":"resp_1","error":null,"output":[]}')
    assert not is_error_body(b'{"choices":[{"message":{"content":"the \\"error\\""}}]}')
    assert not is_error_body(b'"error"')
