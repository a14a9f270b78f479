"""Anthropic's dialect: Messages, whole and streamed, and the counting of tokens.

The events of a stream differ in one word only, so all else of them is rendered once a call.

Source: Anthropic API reference, "Messages", "Streaming messages", "Count tokens", "Errors"; order
and fields as in recorded streams of 2025 and 2026.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

from relay.mock.answers.answer import EVENT_STREAM, JSON, Event, MockAnswer, Turn, encode, event
from relay.mock.question import Shape
from relay.mock.script import Passage

_Json: TypeAlias = dict[str, object]

_WRITTEN_SHARE: Final = 4
"""One in this many prompt tokens that no cache gave is written to a cache, half of them for an
hour: so both kinds of writes are there to be metered."""
_KINDS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def answer_message(turn: Turn) -> MockAnswer:
    """Return the answer to POST messages."""
    passage = turn.passage()
    if not turn.question.stream:
        body = {**_message(turn), "content": [_block(turn, passage)]}
        body |= {"stop_reason": _stop_reason(turn, passage)}
        if turn.options.usage:
            body["usage"] = _usage(turn, len(passage.tokens))
        return MockAnswer(
            events=((encode(body), len(passage.tokens)),), error_event=encode(failure(500))
        )
    return MockAnswer(
        events=_events(turn, passage),
        streamed=True,
        content_type=EVENT_STREAM,
        done_event=_event("message_stop") if turn.options.done else b"",
        error_event=event(failure(529), b"error"),
    )


def count_tokens(turn: Turn) -> MockAnswer:
    """Return the answer to POST messages/count_tokens."""
    body = {"input_tokens": turn.question.prompt_tokens}
    return MockAnswer(events=((encode(body), 0),), error_event=encode(failure(500)))


def failure(status: int, message: str = "The server had an error.") -> _Json:
    """Return an error object as this dialect has it."""
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": "req_mock",
    }


def refuse(answer: MockAnswer) -> MockAnswer:
    """Return a refusal, made for the other dialect, in this one; pages of HTML stay as they are."""
    if answer.status < 400 or answer.content_type != JSON:
        return answer
    body = encode(failure(answer.status, "Refused: sk-ant-mock-SECRET of org-mock."))
    return MockAnswer(events=((body, 0),), status=answer.status, headers=answer.headers)


def _events(turn: Turn, passage: Passage) -> Iterator[Event]:
    opening = {**_message(turn), "content": [], "stop_reason": None}
    if turn.options.usage:
        opening["usage"] = _usage(turn, 1)
    yield _event("message_start", message=opening), 0
    begun = _block(turn, Passage((), cut=False))
    yield _event("content_block_start", index=0, content_block=begun), 0
    yield _event("ping"), 0
    tool = turn.question.shape is Shape.TOOL
    kind, field = ("input_json_delta", "partial_json") if tool else ("text_delta", "text")
    before = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"%b","%b":' % (kind.encode(), field.encode())
    )
    for number, token in enumerate(passage.tokens):
        # Anthropic pads its events with a changing number of spaces.
        yield b"%b%b}%b}\n\n" % (before, encode(token), b" " * (number % 5)), 1
    yield _event("content_block_stop", index=0), 0
    delta = {"stop_reason": _stop_reason(turn, passage), "stop_sequence": None}
    usage = {"output_tokens": len(passage.tokens)} if turn.options.usage else {}
    yield _event("message_delta", delta=delta, usage=usage), 0


def _event(kind: str, **fields: object) -> bytes:
    return event({"type": kind, **fields}, kind.encode())


def _message(turn: Turn) -> _Json:
    return {
        "id": turn.identity("msg"),
        "type": "message",
        "role": "assistant",
        "model": turn.question.model,
        "stop_sequence": None,
    }


def _block(turn: Turn, passage: Passage) -> _Json:
    if turn.question.shape is not Shape.TOOL:
        return {"type": "text", "text": passage.text}
    block: _Json = {"type": "tool_use", "id": turn.identity("toolu"), "name": turn.question.tool}
    block["input"] = msgspec.json.decode(passage.text) if passage.tokens else {}
    return block


def _usage(turn: Turn, output_tokens: int) -> _Json:
    """Return usage as this dialect counts: the input leaves out what a cache gave or took."""
    read = turn.cached_tokens
    written = (turn.question.prompt_tokens - read) // _WRITTEN_SHARE if read else 0
    hour = written // 2
    return {
        "input_tokens": turn.question.prompt_tokens - read - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - hour,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _stop_reason(turn: Turn, passage: Passage) -> str:
    if turn.question.shape is Shape.TOOL:
        return "tool_use"
    return "max_tokens" if passage.cut else "end_turn"
