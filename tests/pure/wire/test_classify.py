"""Judgements of a stream's first events, its ending, its errors, and the one event to drop."""

import json
from typing import Any

import pytest

from relay.records import Endpoint
from relay.wire.classify import (
    FirstBlock,
    StreamEnding,
    done_marker,
    drop_usage_event,
    find_error,
    judge_ending,
    judge_first,
)
from relay.wire.refusals.fault_body import safe_code

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
        (b": OPENROUTER PROCESSING\n\n", FirstBlock.WAIT),
        (event(name="ping", type="ping"), FirstBlock.WAIT),
        (event(type="message_start", message={}), FirstBlock.WAIT),
        (
            event(type="response.created", response={"status": "in_progress", "error": None}),
            FirstBlock.WAIT,
        ),
        (event(choices=[], prompt_filter_results=[]), FirstBlock.WAIT),
        (delta(role="assistant", content=""), FirstBlock.WAIT),
        (delta(role="assistant", content="", refusal=None), FirstBlock.WAIT),
        (DONE, FirstBlock.WAIT),
        (delta(content="a"), FirstBlock.OUTPUT),
        (delta(role="assistant", content="") + delta(content="a"), FirstBlock.OUTPUT),
        (delta(tool_calls=[{}]), FirstBlock.OUTPUT),
        (delta(reasoning_content="a"), FirstBlock.OUTPUT),
        (delta("stop"), FirstBlock.OUTPUT),
        (event(choices=[{"text": "a"}]), FirstBlock.OUTPUT),
        (event(type="response.output_text.delta", delta="a"), FirstBlock.OUTPUT),
        (b"data: not json\n\n", FirstBlock.ERROR),
        (event(error={"message": "x"}), FirstBlock.ERROR),
        (event(name="error", type="error"), FirstBlock.ERROR),
        (event(type="response.failed", response={"status": "failed"}), FirstBlock.ERROR),
        (b": hi\n\n" + event(error="busy"), FirstBlock.ERROR),
    ],
)
def test_first_events(block: bytes, verdict: FirstBlock) -> None:
    assert judge_first(block, CHAT) is verdict


@pytest.mark.parametrize(
    ("tail", "endpoint", "ending"),
    [
        (delta("stop") + DONE, CHAT, StreamEnding.COMPLETE),
        (delta("stop"), CHAT, StreamEnding.COMPLETE),
        (DONE, CHAT, StreamEnding.COMPLETE),
        (delta(content="a"), CHAT, StreamEnding.TRUNCATED),
        (b"", CHAT, StreamEnding.TRUNCATED),
        (b'ut at its start"}\n\n' + delta("length"), CHAT, StreamEnding.COMPLETE),
        (delta("length") + event(error={"code": 400}, usage={}) + DONE, CHAT, StreamEnding.FAILED),
        (event(type="response.completed"), RESPONSES, StreamEnding.COMPLETE),
        (event(type="response.incomplete"), RESPONSES, StreamEnding.COMPLETE),
        (event(type="response.failed"), RESPONSES, StreamEnding.FAILED),
        (event(type="response.output_text.delta") + DONE, RESPONSES, StreamEnding.TRUNCATED),
        (event(type="message_stop"), CHAT, StreamEnding.COMPLETE),
        (event(candidates=[{"finishReason": "STOP"}]), CHAT, StreamEnding.COMPLETE),
        (event(candidates=[{}]), CHAT, StreamEnding.TRUNCATED),
        (event(type="message_stop") + event(type="ping"), MESSAGES, StreamEnding.COMPLETE),
        (event(type="message_stop") + DONE, MESSAGES, StreamEnding.COMPLETE),
        (event(type="message_delta", usage={"output_tokens": 1}), MESSAGES, StreamEnding.TRUNCATED),
        (b't":1,"usage":{"output_tokens":1}}\n\n', MESSAGES, StreamEnding.TRUNCATED),
        (b"event: message_stop\n\n", MESSAGES, StreamEnding.TRUNCATED),
        (event(type="content_block_stop") + DONE, MESSAGES, StreamEnding.TRUNCATED),
        (delta("stop") + b": bye\n\n", MESSAGES, StreamEnding.TRUNCATED),
        (
            event(type="error", error={"type": "api_error"}, name="error"),
            MESSAGES,
            StreamEnding.FAILED,
        ),
        (event(type="message-end", delta={"usage": {}}), CHAT, StreamEnding.COMPLETE),
    ],
)
def test_endings(tail: bytes, endpoint: Endpoint, ending: StreamEnding) -> None:
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
    assert judge_first(block.replace(b'"a"', b'"\xff\xfe"'), CHAT) is FirstBlock.ERROR
    assert judge_first(block.replace(b'"a"', '"ä"'.encode()), CHAT) is FirstBlock.OUTPUT


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
