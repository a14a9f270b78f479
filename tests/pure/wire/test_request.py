"""What is read of a JSON body, what is refused, and what an upstream gets instead of it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import BadRequest
from relay.records import Endpoint
from relay.wire.request.json_request import peek_json, reframe_json

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
OWN = ("model", "stream", "stream_options", "n", "max_tokens")
others = st.dictionaries(
    st.text(max_size=6).filter(lambda name: name not in OWN), json_values, max_size=4
)


def peek(body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return peek_json(data, Endpoint.CHAT)


@given(others, st.booleans(), st.sampled_from(["a", "b"]))
def test_reframing_changes_what_it_says_and_nothing_else(
    rest: dict[str, Any], add_usage: bool, model: str
) -> None:
    request = peek({"model": "a", **rest})
    found = json.loads(reframe_json(request, model=model, add_usage=add_usage))
    expected = {"model": model, **rest}
    if add_usage:
        expected["stream_options"] = {"include_usage": True}
    assert found == expected


def test_other_stream_options_stay() -> None:
    request = peek({"model": "a", "stream_options": {"include_obfuscation": False}})
    found = json.loads(reframe_json(request, model="a", add_usage=True))
    assert found["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    request = peek({"model": "a", "stream_options": None})
    assert json.loads(reframe_json(request, model="a", add_usage=True))["stream_options"] == {
        "include_usage": True
    }


def test_values_go_on_byte_for_byte() -> None:
    body = b'{ "model" : "a", "messages": [ {"content":"\\u00e9 1.0e5", "x": 1.50 } ] }'
    assert b'[ {"content":"\\u00e9 1.0e5", "x": 1.50 } ]' in reframe_json(
        peek(body), model="b", add_usage=False
    )


def test_a_key_given_twice_means_one_thing_to_both_sides() -> None:
    request = peek(b'{"model":"dear","model":"cheap","mod\\u0065l":"last"}')
    assert request.model == "last"
    sent = reframe_json(request, model="last", add_usage=False)
    assert sent == b'{"model":"last"}'


def test_what_is_read() -> None:
    request = peek(
        {
            "model": "a",
            "stream": True,
            "n": 2,
            "max_tokens": 5,
            "max_completion_tokens": 9,
            "stream_options": {"include_usage": True},
        }
    )
    assert (request.stream, request.n, request.output_tokens_max) == (True, 2, 9)
    assert request.usage_asked
    plain = peek({"model": "a", "stream": None, "max_tokens": None})
    assert (plain.stream, plain.n, plain.output_tokens_max, plain.usage_asked) == (
        False,
        1,
        None,
        False,
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"SECRET", None),
        (b'"SECRET"', None),
        (b"[]", None),
        (b'{"model":"a"} SECRET', None),
        (b'{"SECRET":"\xff"}', None),
        (b'{"a":' * 100_000, None),
        (b'{"a":"\x01"}', None),
        ({}, "model"),
        ({"model": None}, "model"),
        ({"model": ["SECRET"]}, "model"),
        ({"model": ""}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"model": "a", "stream": "SECRET"}, "stream"),
        ({"model": "a", "n": 0}, "n"),
        ({"model": "a", "n": 1.5}, "n"),
        ({"model": "a", "best_of": 0}, "best_of"),
        ({"model": "a", "max_tokens": 2**31}, "max_tokens"),
        ({"model": "a", "max_tokens": "SECRET"}, "max_tokens"),
        ({"model": "a", "stream_options": "SECRET"}, "stream_options"),
        ({"model": "a", "stream_options": {"include_usage": "SECRET"}}, "stream_options"),
    ],
)
def test_bad_bodies_are_refused_without_an_echo(body: Any, param: str | None) -> None:
    with pytest.raises(BadRequest) as caught:
        peek(body)
    assert caught.value.param == param
    assert "SECRET" not in caught.value.message
    assert caught.value.__context__ is None


@given(st.binary(max_size=60))
def test_no_bytes_can_do_worse_than_a_400(body: bytes) -> None:
    try:
        request = peek(body)
    except BadRequest:
        return
    assert json.loads(reframe_json(request, model=request.model, add_usage=False))


def test_a_body_has_so_many_fields_and_no_more() -> None:
    fields = {"model": "a", **{f"f{number}": 1 for number in range(1_023)}}
    assert peek(fields).model == "a"
    with pytest.raises(BadRequest, match="more than 1,024 fields"):
        peek(fields | {"one_more": 1})
