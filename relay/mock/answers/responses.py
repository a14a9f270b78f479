"""The Responses API: one JSON object, or the full sequence of typed events.

Source: OpenAI API reference, "Responses", streaming events; sequence and fields as in recorded
streams of 2025 and 2026.
"""

from collections.abc import Iterator
from typing import TypeAlias

from relay.mock.answers.answer import (
    CREATED_S,
    EVENT_STREAM,
    Event,
    MockAnswer,
    Turn,
    encode,
    event,
    single,
)
from relay.mock.script import Passage

_Json: TypeAlias = dict[str, object]


def answer_response(turn: Turn) -> MockAnswer:
    """Return the answer to POST responses."""
    passage = turn.passage()
    if not turn.question.stream:
        whole = _response(turn, passage, _status(passage))
        return single(whole, len(passage.tokens))
    error = {
        "type": "error",
        "code": "server_error",
        "message": "The server had an error while processing your request.",
        "param": None,
        "sequence_number": 0,
    }
    return MockAnswer(
        events=_events(turn, passage),
        streamed=True,
        content_type=EVENT_STREAM,
        error_event=event(error, b"error"),
    )


def _events(turn: Turn, passage: Passage) -> Iterator[Event]:
    number = 0
    for kind, fields in _before(turn, passage):
        yield _event(kind, number, fields), 0
        number += 1
    yield from _deltas(turn, passage, number)
    number += len(passage.tokens)
    for kind, fields in _after(turn, passage):
        yield _event(kind, number, fields), 0
        number += 1


def _deltas(turn: Turn, passage: Passage, first: int) -> Iterator[Event]:
    """Yield one event a token; as in chat, all but number and token is rendered once."""
    kind = b"response.output_text.delta"
    opening = b'event: %b\ndata: {"type":"%b","sequence_number":' % (kind, kind)
    place = encode({"item_id": _item_id(turn), "output_index": 0, "content_index": 0})[1:-1]
    middle = b',%b,"delta":' % place
    for number, token in enumerate(passage.tokens, first):
        yield b'%b%d%b%b,"logprobs":[]}\n\n' % (opening, number, middle, encode(token)), 1


def _before(turn: Turn, passage: Passage) -> Iterator[tuple[str, _Json]]:
    begun = _response(turn, passage, "in_progress")
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    item = {**_item(turn, passage, "in_progress"), "content": []}
    yield "response.output_item.added", {"output_index": 0, "item": item}
    yield "response.content_part.added", {**_place(turn), "part": _part("")}


def _after(turn: Turn, passage: Passage) -> Iterator[tuple[str, _Json]]:
    text = {"text": passage.text, "logprobs": []}
    yield "response.output_text.done", {**_place(turn), **text}
    yield "response.content_part.done", {**_place(turn), "part": _part(passage.text)}
    item = _item(turn, passage, _status(passage))
    yield "response.output_item.done", {"output_index": 0, "item": item}
    status = _status(passage)
    yield f"response.{status}", {"response": _response(turn, passage, status)}


def _event(kind: str, number: int, fields: _Json) -> bytes:
    return event({"type": kind, "sequence_number": number, **fields}, kind.encode())


def _response(turn: Turn, passage: Passage, status: str) -> _Json:
    begun = status == "in_progress"
    incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": turn.identity("resp"),
        "object": "response",
        "created_at": CREATED_S,
        "status": status,
        "error": None,
        "incomplete_details": incomplete,
        "instructions": None,
        "max_output_tokens": turn.question.tokens_max,
        "model": turn.question.model,
        "output": [] if begun else [_item(turn, passage, status)],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None if begun or not turn.options.usage else _usage(turn, passage),
        "metadata": {},
    }


def _usage(turn: Turn, passage: Passage) -> _Json:
    prompt, completion = turn.question.prompt_tokens, len(passage.tokens)
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": turn.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


def _item(turn: Turn, passage: Passage, status: str) -> _Json:
    return {
        "id": _item_id(turn),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [_part(passage.text)],
    }


def _part(text: str) -> _Json:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _place(turn: Turn) -> _Json:
    return {"item_id": _item_id(turn), "output_index": 0, "content_index": 0}


def _item_id(turn: Turn) -> str:
    return turn.identity("msg")


def _status(passage: Passage) -> str:
    return "incomplete" if passage.cut else "completed"
