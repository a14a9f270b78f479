"""What comes of a request or a stream, as plain JSON, and pieces to make streams of.

Method: the floor is called as its callers do; nothing of it reads what it wrote.
"""

import json
from typing import Any

from relay.translate import StreamTranslator, TranslateDialect, Upstream, translate_request
from tests.pure.translate.reading import TERMS, UPSTREAM, payloads
from tests.pure.translate.samples import sse

Json = dict[str, Any]


def asked(
    source: TranslateDialect,
    target: TranslateDialect,
    body: Json,
    upstream: Upstream = UPSTREAM,
) -> Json:
    found = json.loads(translate_request(source, target, body, upstream).body)
    assert isinstance(found, dict)
    return found


def events(source: TranslateDialect, target: TranslateDialect, stream: bytes) -> list[Json]:
    translator = StreamTranslator(source, target, TERMS)
    out = translator.feed(stream) + translator.end()
    return [json.loads(found) for found in payloads(out) if found != b"[DONE]"]


def chunk(delta: Json, reason: str | None = None, **fields: Any) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"choices": [choice], **fields}


def call_delta(index: int | None, call_id: str | None, name: str | None, text: str) -> Json:
    call: Json = {"function": {"arguments": text}}
    if index is not None:
        call["index"] = index
    if call_id is not None:
        call["id"] = call_id
    if name is not None:
        call["function"]["name"] = name
    return chunk({"tool_calls": [call]})


def anthropic_events(usage_at_start: Json, usage_at_end: Json, reason: str) -> bytes:
    return sse(
        {"type": "message_start", "message": {"usage": usage_at_start}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "Hi"},
        },
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage_at_end},
        {"type": "message_stop"},
        event=True,
    )
