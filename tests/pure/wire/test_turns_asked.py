"""Goal: what is asked over a WebSocket is what HTTP would have asked, and so is its answer.

Method: bodies and texts as providers and agents write them.
"""

import json

import msgspec
import pytest

from relay.wire.sse import event_payload
from relay.wire.turns.asked import create_text, event_of, read_refusal_text, type_of
from relay.wire.turns.frames import Delta

WHOLE = b'[{"a": 1}, {"b":2}]'
BODY = b'{"model":"m","stream":true,"stream_options":{},"store":false,"input":%b}' % WHOLE


def delta(whole: bytes = WHOLE) -> Delta:
    return Delta("resp_1", msgspec.Raw(b'[{"b":2}]'), msgspec.Raw(whole))


def test_what_belongs_to_http_alone_is_left_out() -> None:
    asked = json.loads(create_text(BODY, None))
    whole = [{"a": 1}, {"b": 2}]
    assert asked == {"type": "response.create", "model": "m", "store": False, "input": whole}


def test_only_what_is_new_is_sent_to_who_has_the_rest() -> None:
    asked = json.loads(create_text(BODY, delta()))
    assert asked["input"] == [{"b": 2}] and asked["previous_response_id"] == "resp_1"
    # A request that was changed since (a splice, reasoning left out) is another one.
    assert create_text(BODY, delta(b"[]")) == b""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b'{"type":"response.created","a":1}', b"response.created"),
        (b' { "type" : "error" }', b"error"),
        (b'{"sequence_number":1,"type":"response.completed"}', b"response.completed"),
        (b'{"delta":"\\"type\\":\\"error\\""}', b""),
        (b"nonsense", b""),
        (b"\xff", b""),
    ],
)
def test_the_type_of_a_text_is_its_own(text: bytes, kind: bytes) -> None:
    assert type_of(text) == kind


def test_a_text_over_several_lines_is_one_event() -> None:
    text = json.dumps({"type": "response.created", "a": "b\nc"}, indent=1).encode()
    event = event_of(b"response.created", text)
    assert event.count(b"\n") == 3 and json.loads(event_payload(event)) == json.loads(text)
    plain = b'{"type":"x"}'
    assert event_payload(event_of(b"x", plain)) == plain


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"status": 429, "error": {"code": "slow_down"}}, 429, "slow_down"),
        ({"status_code": 500, "error": {"code": None}}, 500, ""),
        ({"error": {"message": "odd"}}, 0, ""),
        ({"status": 200, "error": {}}, 0, ""),
        ({"status": "no", "error": 1}, 0, ""),
    ],
)
def test_an_error_is_the_refusal_that_http_would_bring(
    told: dict[str, object], status: int, code: str
) -> None:
    found = read_refusal_text(json.dumps({"type": "error", **told}).encode())
    assert (found.status, found.code) == (status, code)
    if status:
        assert json.loads(found.body) == {"error": told["error"]}


def test_headers_of_an_error_are_kept() -> None:
    told = {"status": 429, "headers": {"Retry-After": 7}, "error": {}}
    found = read_refusal_text(json.dumps(told).encode())
    assert found.headers == {b"retry-after": b"7", b"content-type": b"application/json"}
