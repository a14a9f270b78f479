"""Judgements on a stream's first and last events, each dialect's own words and their imitations."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.records import Endpoint
from relay.wire.classify import (
    UNKNOWN_ERROR,
    FirstBlock,
    StreamEnding,
    done_marker,
    drop_usage_event,
    find_error,
    judge_ending,
    judge_first,
)
from relay.wire.refusals.fault_body import safe_code
from relay.wire.sse import split_events

DONE = b"data: [DONE]\n\n"
CHAT = Endpoint.CHAT
RESPONSES = Endpoint.RESPONSES


def event(value: object, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def choice(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    return event({"choices": [{"delta": delta or {}, "finish_reason": finish, **more}]})


def typed(kind: str, **more: Any) -> bytes:
    return event({"type": kind, **more}, kind)


TEXT = choice({"content": "x"})
FINISH = choice({}, "stop")
USAGE = event({"choices": [], "usage": {"prompt_tokens": 1}})
ERROR = event({"error": {"message": "secret text", "code": "overloaded"}})


@pytest.mark.parametrize(
    "block",
    [
        b": OPENROUTER PROCESSING\n\n",
        b"retry: 5\n\n",
        DONE,
        choice({"role": "assistant", "content": "", "refusal": None, "tool_calls": []}),
        event({"choices": [], "prompt_filter_results": [{}]}),
        typed("ping"),
        typed("message_start", message={}),
        typed("content_block_start"),
        typed("response.created", response={"status": "in_progress", "error": None}),
        typed("response.in_progress"),
        typed("response.queued"),
    ],
)
def test_what_is_no_output_yet(block: bytes) -> None:
    assert judge_first(block, CHAT) is FirstBlock.WAIT
    assert judge_first(block + TEXT, CHAT) is FirstBlock.OUTPUT
    assert judge_first(block + ERROR, CHAT) is FirstBlock.ERROR


@pytest.mark.parametrize(
    "block",
    [
        TEXT,
        FINISH,
        choice({"tool_calls": [{"index": 0}]}),
        choice({"reasoning_content": "x"}),
        event({"choices": [{"text": "x"}]}),
        typed("response.output_text.delta", delta="x"),
        typed("image_generation.partial_image"),
        event({"candidates": [{}]}),
    ],
)
def test_what_is_output(block: bytes) -> None:
    assert judge_first(block, CHAT) is FirstBlock.OUTPUT
    assert judge_first(block + ERROR, CHAT) is FirstBlock.OUTPUT


ERRORS = [
    (ERROR, "overloaded"),
    (event({"error": {"message": "x", "code": 429}}), "429"),
    (event({"error": {"code": "has spaces, may be text", "type": "overloaded_error"}}),
     "overloaded_error"),
    (event({"error": "plain text"}), UNKNOWN_ERROR),
    (event({"error": {"message": "x"}}), UNKNOWN_ERROR),
    (event({"type": "error", "error": {"type": "overloaded_error"}}, "error"), "overloaded_error"),
    (event({"type": "error", "code": "server_error", "message": "x"}), "server_error"),
    (typed("response.failed", response={"status": "failed", "error": {"code": "server_error"}}),
     "server_error"),
    (event({"response": {"status": "failed", "error": None}, "x": "error"}), UNKNOWN_ERROR),
    (choice({}, "error"), UNKNOWN_ERROR),
    (b'event: error\ndata: not json "error"\n\n', UNKNOWN_ERROR),
]  # fmt: skip


@pytest.mark.parametrize(("block", "code"), ERRORS)
def test_errors_are_named_by_a_code_only(block: bytes, code: str) -> None:
    assert find_error(TEXT + block + TEXT) == code
    assert judge_ending(TEXT + block, CHAT) is StreamEnding.FAILED
    assert judge_ending(FINISH + block + DONE, CHAT) is StreamEnding.FAILED


@pytest.mark.parametrize(
    "block",
    [
        choice({"content": "error"}),
        choice({"content": '{"error":{"code":"x"}}'}),
        typed("response.completed", response={"status": "completed", "error": None}),
        event({"choices": [], "error": None}),
        event({"choices": [], "error": {}}),
        typed("response.output_item.done", item={"type": "mcp_call", "error": "it failed"}),
        b': "error"\n\n',
        b'data: not json "error"\n\n',
    ],
)
def test_what_only_mentions_errors_is_none(block: bytes) -> None:
    assert find_error(block) is None
    assert judge_ending(block + FINISH + DONE, CHAT) is StreamEnding.COMPLETE


@pytest.mark.parametrize(
    ("tail", "endpoint"),
    [
        (TEXT + DONE, CHAT),
        (TEXT + FINISH, CHAT),
        (TEXT + FINISH + USAGE, CHAT),
        (FINISH + choice({"role": "assistant", "content": ""}) + b": ping\n\n", CHAT),
        (event({"choices": [{"text": "x", "finish_reason": "length"}]}), Endpoint.COMPLETIONS),
        (typed("message_stop"), CHAT),
        (typed("message-end", delta={}), CHAT),
        (event({"candidates": [{"finishReason": "STOP"}]}), CHAT),
        (typed("response.completed"), RESPONSES),
        (event({"type": "response.incomplete"}) + DONE, RESPONSES),
        (typed("image_generation.completed"), Endpoint.IMAGES),
        (typed("image_edit.completed"), Endpoint.IMAGE_EDITS),
        (typed("speech.audio.done"), Endpoint.SPEECH),
        (typed("transcript.text.done") + DONE, Endpoint.TRANSCRIPTIONS),
    ],
)
def test_last_words(tail: bytes, endpoint: Endpoint) -> None:
    assert judge_ending(tail, endpoint) is StreamEnding.COMPLETE
    assert judge_ending(b'tail of a cut event"}\n\n' + tail, endpoint) is StreamEnding.COMPLETE
    assert judge_ending(tail.replace(b"\n", b"\r\n"), endpoint) is StreamEnding.COMPLETE


def test_a_failure_that_gives_no_error_is_one() -> None:
    assert judge_ending(event({"type": "response.failed"}), RESPONSES) is StreamEnding.FAILED


@pytest.mark.parametrize(
    ("tail", "endpoint"),
    [
        (b"", CHAT),
        (b": ping\n\n", CHAT),
        (TEXT, CHAT),
        (TEXT + USAGE, CHAT),
        (b"data: plain text\n\n", CHAT),
        (choice({"content": 'data: [DONE] "finish_reason":"stop"'}), CHAT),
        # Two choices were asked for; the second one was cut.
        (FINISH + choice({"content": "x"}, index=1), CHAT),
        (DONE, RESPONSES),
        (typed("response.output_text.delta", delta="response.completed"), RESPONSES),
        (typed("response.in_progress", response={"usage": None}) + b"event: x\n\n", RESPONSES),
    ],
)
def test_cut_streams(tail: bytes, endpoint: Endpoint) -> None:
    assert judge_ending(tail, endpoint) is StreamEnding.TRUNCATED


LONG = "x" * 20_000


@pytest.mark.parametrize("keep_bytes", [200, 1000, 8192])
def test_a_terminal_event_longer_than_the_tail_is_still_one(keep_bytes: int) -> None:
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    done = typed("response.completed", response={"output": LONG, "usage": usage})
    assert judge_ending(done[-keep_bytes:], RESPONSES) is StreamEnding.COMPLETE
    image = typed("image_generation.completed", b64_json=LONG, usage=usage)
    assert judge_ending(image[-keep_bytes:], Endpoint.IMAGES) is StreamEnding.COMPLETE
    # Amazon's server puts the event line behind the data.
    behind = event({"response": {"output": LONG}})[:-1] + b"event: response.completed\n\n"
    assert judge_ending(behind[-keep_bytes:], RESPONSES) is StreamEnding.COMPLETE
    whole = choice({"content": LONG}, "stop")
    assert judge_ending(whole[-keep_bytes:], CHAT) is StreamEnding.COMPLETE
    for cut in (choice({"content": LONG}), choice({"content": LONG}, "error")):
        assert judge_ending(cut[-keep_bytes:], CHAT) is not StreamEnding.COMPLETE
    item = typed("response.output_item.done", item={"text": LONG})
    assert judge_ending(item[-keep_bytes:], RESPONSES) is StreamEnding.TRUNCATED


@pytest.mark.parametrize(
    ("tail", "seen"),
    [
        (DONE, True),
        (b"data:[DONE]\n\n", True),
        (b"data: [DONE]\r\n\r\n", True),
        (TEXT + b"data: [DONE]", True),
        (DONE + TEXT, True),
        (choice({"content": "data: [DONE]"}), False),
        (choice({"content": "\ndata: [DONE]\n"}), False),
        (b"data: [DONE] not quite\n\n", False),
        (b": data: [DONE]\n\n", False),
        (b"", False),
    ],
)
def test_the_done_marker_is_a_line_of_its_own(tail: bytes, *, seen: bool) -> None:
    assert done_marker(tail) is seen


def test_exactly_the_usage_event_is_dropped() -> None:
    assert drop_usage_event(TEXT + FINISH + USAGE + DONE) == TEXT + FINISH + DONE
    spaced = b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\r\n\r\n'
    assert drop_usage_event(b": ping\n\n" + spaced + DONE) == b": ping\n\n" + DONE


@pytest.mark.parametrize(
    "other",
    [
        TEXT,
        event({"choices": [], "usage": None}),
        event({"choices": [], "prompt_filter_results": []}),
        event({"choices": [], "moderation": {"usage": {"x": 1}}}),
        event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"x": 1}}),
        choice({"content": '"choices":[],"usage":{'}),
        b'data: broken "usage":{\n\n',
    ],
)
def test_no_other_event_is_dropped(other: bytes) -> None:
    block = TEXT + other + DONE
    assert drop_usage_event(block) is block


@pytest.mark.parametrize(
    ("code", "safe"),
    [
        ("overloaded_error", "overloaded_error"),
        ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
        (529, "529"),
        ("two words", None),
        ("x" * 65, None),
        ("", None),
        (None, None),
        ({"a": 1}, None),
    ],
)
def test_only_plain_tokens_are_safe(code: object, safe: str | None) -> None:
    assert safe_code(code) == safe


@settings(max_examples=200)
@given(st.binary(max_size=80), st.integers(0, 120))
def test_any_bytes_get_a_verdict(noise: bytes, cut: int) -> None:
    stream = (TEXT + ERROR + noise + USAGE + typed("response.completed") + DONE)[cut:]
    for block in (noise, b"data: " + noise + b"\n\n", stream):
        for endpoint in (CHAT, RESPONSES):
            assert isinstance(judge_first(block, endpoint), FirstBlock)
            assert isinstance(judge_ending(block, endpoint), StreamEnding)
        assert isinstance(done_marker(block), bool)
        code = find_error(block)
        assert code is None or safe_code(code) == code
        left = drop_usage_event(block)
        assert all(event in split_events(block) for event in split_events(left))
    assert judge_ending(b"[" * 100_000, CHAT) is StreamEnding.TRUNCATED
    assert judge_first(b"data: " + b"[" * 5000 + b"\n\n", CHAT) is FirstBlock.ERROR
