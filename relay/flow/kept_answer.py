"""What went out of a call's answer, read from what was kept of it."""

from typing import Final

from relay.flow.call import Call
from relay.records import Endpoint
from relay.splice.delivered import read_delivered, read_events
from relay.splice.gates import Delivered, SpliceRefusal
from relay.splice.gemini import GeminiReading
from relay.splice.response_items import ResponsesReading
from relay.wire.sse import event_payload, split_events

LEARNED_BYTES_MAX: Final = 256 * 1024
"""Of an answer that is read for nothing but to learn from it: well above a thousand events."""


def read_kept(call: Call) -> Delivered | None:
    """Return what the client has, None where nothing was kept or it was too much."""
    kept = call.delivered_text
    if kept is None or kept.blocks is None:
        return None
    payloads = (event_payload(event) for block in kept.blocks for event in split_events(block))
    if call.head.endpoint is Endpoint.STREAM_GENERATE:
        return read_events(GeminiReading(), payloads)
    if call.head.endpoint is Endpoint.RESPONSES:
        return read_events(ResponsesReading(), payloads)
    return read_delivered(payloads, call.head.endpoint)


def read_whole(call: Call) -> Delivered | None:
    """Return a whole answer of nothing but text, None where it is more or was not kept."""
    kept = call.delivered_text
    blocks = None if kept is None else kept.blocks
    if blocks is None or sum(map(len, blocks)) > LEARNED_BYTES_MAX:
        return None
    found = read_kept(call)
    plain = found is not None and found.refusal is SpliceRefusal.FINISHED and not found.thought
    return found if plain else None
