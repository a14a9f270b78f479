"""Judgements of a stream's first events, its ending, its errors, and the one event to drop."""

import json
from typing import Any

import pytest

from relay.call import Endpoint
from relay.wire.verdict import (
    Ending,
    First,
    done_marker,
    drop_usage_event,
    find_error,
    judge_ending,
    judge_first,
    safe_code,
)

CHAT, RESPONSES, MESSAGES = Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES
DONE = b"data: [DONE]\n\n"


def event(fields: Any = None, name: str = "", **more: Any) -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps((fields or {}) | more).encode() + b"\n\n"


def delta(finish_reason: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish_reason}])


@pytest.mark.parametrize(
    ("block", "verdict"),
    [
        (b": OPENROUTER PROCESSING\n\n", First.WAIT),
        (event(name="ping", type="ping"), First.WAIT),
        (event(type="message_start", message={}), First.WAIT),
        (
            event(type="response.created", response={"status": "in_progress", "error": None}),
            First.WAIT,
        ),
        (event(choices=[], prompt_filter_results=[]), First.WAIT),
        (delta(role="assistant", content=""), First.WAIT),
        (delta(role="assistant", content="", refusal=None), First.WAIT),
        (DONE, First.WAIT),
        (delta(content="a"), First.OUTPUT),
        (delta(role="assistant", content="") + delta(content="a"), First.OUTPUT),
        (delta(tool_calls=[{}]), First.OUTPUT),
        (delta(reasoning_content="a"), First.OUTPUT),
        (delta("stop"), First.OUTPUT),
        (event(choices=[{"text": "a"}]), First.OUTPUT),
        (event(type="response.output_text.delta", delta="a"), First.OUTPUT),
        (b"data: not json\n\n", First.ERROR),
        (event(error={"message": "x"}), First.ERROR),
        (event(name="error", type="error"), First.ERROR),
        (event(type="response.failed", response={"status": "failed"}), First.ERROR),
        (b": hi\n\n" + event(error="busy"), First.ERROR),
    ],
)
def test_first_events(block: bytes, verdict: First) -> None:
    assert judge_first(block, CHAT) is verdict


@pytest.mark.parametrize(
    ("tail", "endpoint", "ending"),
    [
        (delta("stop") + DONE, CHAT, Ending.COMPLETE),
        (delta("stop"), CHAT, Ending.COMPLETE),
        (DONE, CHAT, Ending.COMPLETE),
        (delta(content="a"), CHAT, Ending.TRUNCATED),
        (b"", CHAT, Ending.TRUNCATED),
        (b'ut at its start"}\n\n' + delta("length"), CHAT, Ending.COMPLETE),
        (delta("length") + event(error={"code": 400}, usage={}) + DONE, CHAT, Ending.FAILED),
        (event(type="response.completed"), RESPONSES, Ending.COMPLETE),
        (event(type="response.incomplete"), RESPONSES, Ending.COMPLETE),
        (event(type="response.failed"), RESPONSES, Ending.FAILED),
        (event(type="response.output_text.delta") + DONE, RESPONSES, Ending.TRUNCATED),
        (event(type="message_stop"), CHAT, Ending.COMPLETE),
        (event(candidates=[{"finishReason": "STOP"}]), CHAT, Ending.COMPLETE),
        (event(candidates=[{}]), CHAT, Ending.TRUNCATED),
        (event(type="message_stop") + event(type="ping"), MESSAGES, Ending.COMPLETE),
        (event(type="message_stop") + DONE, MESSAGES, Ending.COMPLETE),
        (event(type="message_delta", usage={"output_tokens": 1}), MESSAGES, Ending.TRUNCATED),
        (b't":1,"usage":{"output_tokens":1}}\n\n', MESSAGES, Ending.TRUNCATED),
        (b"event: message_stop\n\n", MESSAGES, Ending.TRUNCATED),
        (event(type="content_block_stop") + DONE, MESSAGES, Ending.TRUNCATED),
        (delta("stop") + b": bye\n\n", MESSAGES, Ending.TRUNCATED),
        (event(type="error", error={"type": "api_error"}, name="error"), MESSAGES, Ending.FAILED),
        (event(type="message-end", delta={"usage": {}}), CHAT, Ending.COMPLETE),
    ],
)
def test_endings(tail: bytes, endpoint: Endpoint, ending: Ending) -> None:
    assert judge_ending(tail, endpoint) is ending


def test_done_marker() -> None:
    assert done_marker(delta("stop") + DONE)
    assert not done_marker(delta("stop"))


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (event(error=None), None),
        (delta(content='{"error": "quoted"}'), None),
        (event(error={"message": "SECRET", "code": "overloaded"}), "overloaded"),
        (event(error={"message": "SECRET", "code": 429}), "429"),
        (event(error={"message": "SECRET", "type": "server_error"}), "server_error"),
        (event(error={"message": "SECRET", "code": "SECRET words"}), "upstream_error"),
        (event(error="SECRET words"), "upstream_error"),
        (event(response={"status": "failed", "error": {"code": "x"}}), "x"),
        (delta(content="a") + event(error={"code": "b"}), "b"),
        (b'data: {"error" not json\n\n', None),
    ],
)
def test_errors_are_told_from_words(block: bytes, code: str | None) -> None:
    assert find_error(block) == code


def test_what_is_no_utf_8_is_no_beginning_of_an_answer() -> None:
    block = delta(content="a")
    assert judge_first(block.replace(b'"a"', b'"\xff\xfe"'), CHAT) is First.ERROR
    assert judge_first(block.replace(b'"a"', '"ä"'.encode()), CHAT) is First.OUTPUT


def test_safe_codes() -> None:
    assert safe_code("a_b-c.9") == "a_b-c.9"
    assert safe_code(5) == "5"
    assert safe_code("a b") is None and safe_code(None) is None and safe_code("x" * 65) is None


def test_exactly_the_usage_event_is_dropped() -> None:
    usage = event(choices=[], usage={"prompt_tokens": 1})
    for other in (
        delta(content="a"),
        event(choices=[{"delta": {}, "finish_reason": "stop"}], usage={"prompt_tokens": 1}),
        event(choices=[], usage=None),
        delta(content='{"choices":[],"usage":{}}'),
    ):
        assert drop_usage_event(other) == other
        assert drop_usage_event(other + usage + DONE) == other + DONE
    block = delta(content="a")
    assert drop_usage_event(block) is block
    compact = usage.replace(b": ", b":").replace(b"data:", b"data: ")
    assert drop_usage_event(compact) == b""
