"""Heads hold what they should and nothing else; only canonical frames count as passable as is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Channel, Dialect, Secret
from relay.records import Endpoint
from relay.wire.http import answer_head, frame, identity_head, is_canonical, request_head


def channel(**fields: object) -> Channel:
    defaults: dict[str, object] = {
        "id": 1,
        "name": "a",
        "base_url": "https://user@api.example.com:8443/v1/",
        "api_key": Secret("sk-secret"),
        "models": {},
    }
    return Channel(**(defaults | fields))  # type: ignore[arg-type]


def test_request_head_is_made_of_the_channel_alone() -> None:
    head = request_head(channel(), Endpoint.CHAT)
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat/completions HTTP/1.1"
    assert b"Host: api.example.com:8443" in lines
    assert b"Authorization: Bearer sk-secret" in lines
    assert b"Accept-Encoding: identity" in lines
    assert lines[-1] == b"Content-Length: "


def test_credential_goes_where_the_protocol_wants_it() -> None:
    head = request_head(channel(protocol=Dialect.ANTHROPIC), Endpoint.CHAT)
    assert b"x-api-key: sk-secret" in head
    assert b"Authorization" not in head
    assert b"uthorization" not in request_head(channel(api_key=Secret("")), Endpoint.CHAT)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("https://api.anthropic.com", b"/v1/messages"),
        ("https://api.anthropic.com/v1/", b"/v1/messages"),
        ("https://api.example.com/anthropic/", b"/anthropic/v1/messages"),
    ],
)
def test_an_anthropic_address_is_taken_with_and_without_v1(url: str, path: bytes) -> None:
    asked = channel(protocol=Dialect.ANTHROPIC, base_url=url)
    head = request_head(asked, Endpoint.MESSAGES)
    assert head.startswith(b"POST " + path + b" HTTP/1.1\r\n")
    head = request_head(asked, Endpoint.COUNT_TOKENS, "?beta=true")
    assert head.startswith(b"POST " + path + b"/count_tokens?beta=true HTTP/1.1\r\n")


def test_answer_heads() -> None:
    head = answer_head(b"a/b")  # with a date, once a server runs in this process
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and head.endswith(b"Content-Type: a/b\r\n")
    assert identity_head(b"r") == b"x-request-id: r\r\nrequest-id: r\r\n"


payloads = st.binary(max_size=300).map(lambda data: data + b"\n\n")


@given(st.lists(payloads, min_size=1, max_size=5))
def test_plain_frames_of_whole_events_are_canonical(parts: list[bytes]) -> None:
    assert is_canonical(b"".join(map(frame, parts)), parts)


@given(st.lists(payloads, min_size=1, max_size=5), st.sampled_from([b";x=1", b";"]))
def test_frames_with_extensions_are_not(parts: list[bytes], extension: bytes) -> None:
    raw = b"".join(map(frame, parts[:-1]))
    last = parts[-1]
    raw += b"%x%b\r\n%b\r\n" % (len(last), extension, last)
    assert not is_canonical(raw, parts)


@given(st.binary(min_size=300, max_size=5000), st.integers(1, 299))
def test_a_cut_frame_is_not(payload: bytes, kept: int) -> None:
    payload = payload[: kept - 2] + b"\n\n" + payload[kept:]
    header = b"%x\r\n" % len(payload)
    assert not is_canonical(header + payload[:kept], [payload[:kept]])


def test_nothing_and_crlf_events_are_not() -> None:
    assert not is_canonical(b"", [])
    event = b"data: x\r\n\r\n"
    assert not is_canonical(frame(event), [event])
