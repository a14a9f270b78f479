"""Every refusal of an upstream gets the right blame, and none of its text goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import (
    ChannelDenied,
    ChannelLacksModel,
    ChannelLimited,
    ChannelOverloaded,
    ChannelRefused,
    ChannelTimeout,
    RelayError,
    UpstreamRejected,
)
from relay.records import Endpoint
from relay.wire.upstream_errors import find_wrong, find_wrong_start, is_error_body, read_refusal


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, ChannelDenied),
        (402, ChannelDenied),
        (403, ChannelDenied),
        (404, ChannelLacksModel),
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


def test_a_rejection_keeps_only_plain_tokens() -> None:
    body = (
        b'{"error":{"message":"your prompt SECRET","code":"context_length_exceeded",'
        b'"param":"messages","type":"invalid_request_error"}}'
    )
    error = read_refusal(400, {}, body, now_s=0.0)
    assert error.status == 400
    assert error.code == "context_length_exceeded"
    assert error.param == "messages"
    assert "SECRET" not in error.message
    odd = read_refusal(
        422, {}, b'{"error":{"code":"I said: SECRET","type":"x y","param":"a b"}}', now_s=0.0
    )
    assert (odd.code, odd.param) == (None, None)
    assert "SECRET" not in odd.message


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (
            "messages.1: SECRET prompt is too long: 200123 tokens > 200000 maximum SECRET",
            "prompt is too long: 200123 tokens > 200000 maximum",
        ),
        (
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, SECRET",
            "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000",
        ),
        ("max_tokens: 64000 > 8192, which SECRET may", "max_tokens: 64000 > 8192"),
    ],
)
def test_what_agents_read_in_a_rejection_is_kept(said: str, kept: str) -> None:
    body = b'{"type":"error","error":{"type":"invalid_request_error","message":"%b"}}'
    error = read_refusal(400, {}, body % said.encode(), now_s=0.0)
    assert error.message.endswith(f"(400: invalid_request_error: {kept}).")
    assert "SECRET" not in error.message


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
