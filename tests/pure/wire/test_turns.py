"""Goal: frames become the requests they stand for, and turns of before are put in front of them.

Method: frames as agents send them, flat and wrapped; sessions that are kept within bounds.
"""

import json
from typing import Any

import pytest

from relay.errors import BadRequest, RateLimited, TooLarge, UpstreamRejected
from relay.wire.turns.context import BYTES_MAX, TURNS_MAX, ContextRoom, TurnContext, items_of
from relay.wire.turns.frames import error_text, event_text, read_create


def create(**fields: Any) -> Any:
    return read_create(json.dumps({"type": "response.create", "model": "m", **fields}).encode())


def done(**item: Any) -> bytes:
    return json.dumps({"type": "response.output_item.done", "item": item}).encode()


def test_what_is_the_sockets_own_is_taken_out() -> None:
    made = create(input="hi", stream_id="l-1", generate=False, background=True, stream=False, n=1)
    assert json.loads(made.body()) == {"model": "m", "input": "hi", "stream": True, "n": 1}
    assert made.lane == "l-1" and not made.generates
    wrapped = {"type": "response.create", "response": {"model": "m", "input": []}}
    made = read_create(json.dumps(wrapped).encode())
    assert json.loads(made.body()) == {"model": "m", "input": [], "stream": True}


@pytest.mark.parametrize(
    "frame",
    [b"", b"[]", b"{}", b'{"type":7}', b'{"type":"response.create","stream_id":7}', b"\xff"],
)
def test_what_begins_no_turn_is_refused(frame: bytes) -> None:
    with pytest.raises(BadRequest):
        read_create(frame)


def test_a_lane_is_named_in_its_events_and_nothing_else_changes() -> None:
    payload = b'{"type":"response.created","sequence_number":0 }'
    assert event_text(payload, "") is payload
    told = json.loads(event_text(payload, "l-1"))
    assert told == {**json.loads(payload), "stream_id": "l-1"}


def test_errors_have_the_status_that_http_would_have() -> None:
    told = json.loads(error_text(RateLimited("Wait.", retry_after_s=1.5), "req_1", "l"))
    assert told["status"] == 429 and told["headers"] == {"retry-after": "2"}
    assert told["stream_id"] == "l" and told["error"]["code"] == "rate_limit_exceeded"
    assert json.loads(error_text(TooLarge("Too large."), "req_1", ""))["status"] == 400
    error = UpstreamRejected("no")
    error.own_body = b'{"error":{"code":"context_length_exceeded","message":"Too long."}}'
    told = json.loads(error_text(error, "req_1", ""))
    assert told["error"]["message"] == "Too long."
    assert told["error"]["code"] == "context_length_exceeded"


def test_a_turn_goes_on_from_the_one_it_names() -> None:
    context = TurnContext(ContextRoom())
    first = create(input="hello")
    asked = items_of(first)
    assert asked is not None
    made = [
        done(type="reasoning", id="rs_1"),
        done(type="reasoning", id="rs_2", encrypted_content="x"),
        done(type="message", role="assistant", content=[]),
        b"nothing",
    ]
    context.keep("resp_1", asked, made)
    following = create(input=[{"type": "function_call_output"}], previous_response_id="resp_1")
    assert context.complete(following)
    told = json.loads(following.body())
    assert "previous_response_id" not in told
    assert [(item.get("role"), item.get("id")) for item in told["input"]] == [
        ("user", None),
        (None, "rs_2"),
        ("assistant", None),
        (None, None),
    ]
    unknown = create(input=[], previous_response_id="resp_2")
    assert not context.complete(unknown) and unknown.text("previous_response_id") == "resp_2"
    odd = create(input=7, previous_response_id="resp_1")
    assert not context.complete(odd)


def test_what_is_kept_is_bounded_for_a_session_and_for_all() -> None:
    room = ContextRoom(bytes_max=3 * BYTES_MAX)
    sessions = [TurnContext(room) for _ in range(9)]
    for context in sessions:
        for number in range(TURNS_MAX + 2):
            context.keep(f"resp_{number}", b"x" * (BYTES_MAX // 3), [])
            assert context.held_bytes <= BYTES_MAX and room.held_bytes <= room.bytes_max
        assert not context.complete(create(input=[], previous_response_id="resp_0"))
    for context in sessions:
        context.clear()
    assert room.held_bytes == 0
