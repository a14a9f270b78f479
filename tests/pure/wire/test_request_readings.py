"""A body means one thing to us and to the upstream: peek, reframe, and read the result anew."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import BadRequest
from relay.records import Endpoint
from relay.wire.request.json_request import peek_json, reframe_json

CANARY = "CANARY7f3a"
TEXT = st.text('aZ0é中😀"\\ \n\t\x00{}[]:,', max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
OTHERS = st.dictionaries(st.sampled_from(["messages", "tools", "user", "é", "seed"]), VALUES)


def encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


@settings(max_examples=200)
@given(
    others=OTHERS,
    options=st.sampled_from([None, {}, {"include_usage": False, "x": 1}]),
    add_usage=st.booleans(),
)
def test_reframing_changes_only_what_it_must(
    others: dict[str, Any], options: dict[str, Any] | None, *, add_usage: bool
) -> None:
    body = {"model": "public", **others, "stream_options": options}
    request = peek_json(encode(body), Endpoint.CHAT)
    framed = json.loads(reframe_json(request, model="upstream", add_usage=add_usage))
    expected = {**body, "model": "upstream"}
    if add_usage:
        expected["stream_options"] = {**(options or {}), "include_usage": True}
    assert framed == expected


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        request = peek_json(body, Endpoint.CHAT)
    except BadRequest as error:
        assert error.message
    else:
        assert json.loads(body)["model"] == request.model


def test_what_is_read() -> None:
    body = {
        "model": "m",
        "stream": True,
        "max_tokens": 5,
        "max_completion_tokens": 9,
        "max_output_tokens": None,
        "n": 3,
        "stream_options": {"include_usage": True},
    }
    request = peek_json(encode(body), Endpoint.CHAT)
    assert (request.model, request.stream, request.n) == ("m", True, 3)
    assert (request.output_tokens_max, request.usage_asked) == (9, True)
    plain = peek_json(b'{"model":"m","stream":null}', Endpoint.CHAT)
    assert (plain.stream, plain.n, plain.output_tokens_max, plain.usage_asked) == (
        False, 1, None, False,
    )  # fmt: skip


def test_a_key_given_twice_is_sent_once_with_the_value_that_was_read() -> None:
    request = peek_json(b'{"model":"cheap","mod\\u0065l":"dear","n":1,"n":2}', Endpoint.CHAT)
    framed = reframe_json(request, model=request.model, add_usage=False)
    assert json.loads(framed, object_pairs_hook=list) == [("model", "dear"), ("n", 2)]


def test_usage_is_asked_for_where_there_were_no_options() -> None:
    request = peek_json(b'{"model":"m"}', Endpoint.CHAT)
    framed = reframe_json(request, model="m", add_usage=True)
    assert json.loads(framed) == {"model": "m", "stream_options": {"include_usage": True}}


def test_values_go_on_verbatim() -> None:
    request = peek_json(b'{"model":"m","seed":1.50e+3,"s":"\\u00e9 \xc3\xa9"}', Endpoint.CHAT)
    framed = reframe_json(request, model="m", add_usage=False)
    assert framed == b'{"model":"m","seed":1.50e+3,"s":"\\u00e9 \xc3\xa9"}'


def test_speech_streams_events_where_its_format_says_so() -> None:
    assert peek_json(b'{"model":"m","stream_format":"sse"}', Endpoint.SPEECH).stream
    assert not peek_json(b'{"model":"m","stream_format":"audio"}', Endpoint.SPEECH).stream
    assert not peek_json(b'{"model":"m","stream":true}', Endpoint.SPEECH).stream


def test_what_is_never_streamed_is_no_stream() -> None:
    for endpoint in (Endpoint.EMBEDDINGS, Endpoint.MODERATIONS, Endpoint.COUNT_TOKENS):
        assert not peek_json(b'{"model":"m","stream":true}', endpoint).stream


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (CANARY.encode(), None),
        (f'{{"model":"m","x":"{CANARY}'.encode(), None),
        (f'["{CANARY}"]'.encode(), None),
        (f'{{"model":"m"}}{CANARY}'.encode(), None),
        (f'{{"model":"m","x":"{CANARY}'.encode() + b'\xff"}', None),
        (f'{{"{CANARY}'.encode() + b'\xff":1,"model":"m"}', None),
        (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (b"{}", "model"),
        (b'{"model":null}', "model"),
        (b'{"model":7}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":"a\\u0000b"}', "model"),
        (b'{"model":"a\\nb"}', "model"),
        (b'{"model":"' + b"m" * 257 + b'"}', "model"),
        (f'{{"model":"m","stream":"{CANARY}"}}'.encode(), "stream"),
        (f'{{"model":"m","n":"{CANARY}"}}'.encode(), "n"),
        (b'{"model":"m","n":0}', "n"),
        (b'{"model":"m","n":129}', "n"),
        (b'{"model":"m","max_tokens":1.5}', "max_tokens"),
        (b'{"model":"m","max_tokens":2147483648}', "max_tokens"),
        (b'{"model":"m","stream_options":[]}', "stream_options"),
        (b'{"model":"m","stream_options":{"include_usage":1}}', "stream_options"),
    ],
)
def test_a_wrong_body_is_refused_without_quoting_it(body: bytes, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        peek_json(body, Endpoint.CHAT)
    error = caught.value
    assert error.param == param
    assert CANARY not in error.message
    assert error.__context__ is None  # no exception that holds the body hangs on to it
