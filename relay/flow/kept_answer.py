"""What went out of a call's answer, read from what was kept of it."""

from typing import Final

from relay.flow.call import Call
from relay.records import Endpoint
from relay.splice.delivered import read_delivered, read_events
from relay.splice.gates import Delivered, SpliceRefusal
from relay.splice.gemini import GeminiReading
from relay.splice.response_items import ResponsesReading
from relay.wire.sse import event_payload, split_events
from relay.wire.usage.delivered_tokens import Measured, measure_text

MEASURED_BYTES_MAX: Final = 256 * 1024
"""Of an answer that is read for nothing but to be measured: well above a thousand events."""


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


def measure_kept(call: Call) -> Measured | None:
    """Measure all that went out, None where it is more than text, was not kept, or is very long."""
    kept = call.delivered_text
    blocks = None if kept is None else kept.blocks
    if blocks is None or sum(map(len, blocks)) > MEASURED_BYTES_MAX:
        return None
    found = read_kept(call)
    if found is None or found.refusal not in (None, SpliceRefusal.FINISHED):
        return None
    return measure_read(found)


def measure_read(found: Delivered) -> Measured | None:
    """Measure what was read of an answer, None where it is more than text."""
    if found.thought or not found.texts:
        return None
    return measure_text(found.text, found.texts)
