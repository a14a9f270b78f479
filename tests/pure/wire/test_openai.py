"""Our own bodies, events and headers, in the shapes that the official clients parse."""

import json

from hypothesis import given
from hypothesis import strategies as st

from relay.errors import BadRequest, ChannelTruncated, RateLimited, Unavailable
from relay.records import Endpoint
from relay.wire.dialects.openai import (
    error_body,
    error_event,
    model_body,
    models_body,
)
from relay.wire.retry_headers import error_headers


def test_error_body() -> None:
    error = BadRequest("No.", param="model")
    assert json.loads(error_body(error, "req_1")) == {
        "error": {
            "message": "No. (request id: req_1)",
            "type": "invalid_request_error",
            "param": "model",
            "code": None,
            "request_id": "req_1",
        }
    }


def test_error_events() -> None:
    error = ChannelTruncated("Broke off.")
    event = error_event(error, "req_1", Endpoint.CHAT)
    assert event.startswith(b"data: ") and event.endswith(b"\n\n")
    assert json.loads(event[6:])["error"]["code"] == "upstream_truncated"
    event = error_event(error, "req_1", Endpoint.RESPONSES)
    assert event.startswith(b"event: response.failed\ndata: ")
    failed = json.loads(event.partition(b"data: ")[2])
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert "req_1" in failed["response"]["error"]["message"]
    created = b'event: response.created\ndata: {"response":{"id":"resp_abc-1","model":"m"}}\n\n'
    event = error_event(error, "req_1", Endpoint.RESPONSES, created, 4)
    failed = json.loads(event.partition(b"data: ")[2])
    assert (failed["response"]["id"], failed["sequence_number"]) == ("resp_abc-1", 4)
    assert failed["response"]["model"] == "m"


@given(st.floats(0, 0.999), st.floats(0, 1000))
def test_waits_are_jittered_upwards_and_capped(dice: float, wait_s: float) -> None:
    headers = dict(error_headers(Unavailable("x", retry_after_s=wait_s), dice))
    wait_ms = int(headers["retry-after-ms"])
    assert min(wait_s * 1000, 60_000) <= wait_ms <= 60_000
    assert 1 <= int(headers["retry-after"]) <= 60
    assert "x-should-retry" not in headers


def test_where_waiting_does_not_help_clients_are_told() -> None:
    assert error_headers(BadRequest("x"), 0.5) == [("x-should-retry", "false")]
    assert error_headers(RateLimited("x"), 0.5) == []
    error = Unavailable("x")
    error.should_retry = True
    assert error_headers(error, 0.5) == [("x-should-retry", "true")]


def test_models() -> None:
    listed = json.loads(models_body(["a", "b"], 7))
    assert listed["object"] == "list"
    assert listed["data"][1] == json.loads(model_body("b", 7))
    assert listed["data"][0] == {
        "id": "a",
        "object": "model",
        "created": 7,
        "owned_by": "relay",
    }
