"""How many tokens an answer holds, where nobody says: from a stream's last events, or a body.

A stream's events are alike: what is not text in those that are left is so in all that went by. So
the estimate is of the text, as it is for a plain body, however many characters an event brings.

    bytes that went out - events x envelope = bytes of text  x  tokens for a byte of the last text
"""

from typing import Any, Final, NamedTuple

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.wire.request.text_size import (
    BYTES_PER_TOKEN,
    SMALL_BYTES,
    estimate_like,
    estimate_tokens,
)
from relay.wire.sse import event_payload, event_start, split_events

DEPTH_MAX: Final = 16
TEXTS_MAX: Final = 4_096
TAIL_EVENTS_MAX: Final = 64
TAIL_BYTES: Final = 16 * 1024
"""Of a longer tail its end is looked at first: 64 events are seldom more."""
OPENING_BYTES: Final = 2_048
"""Of the events before any text: a response is announced with all that it was asked for."""
TEXT_KEYS: Final = frozenset(
    {
        *("content", "text", "delta", "refusal", "reasoning_content", "reasoning", "thinking"),
        *("arguments", "partial_json", "output_text", "summary", "input"),
    }
)
"""Members whose strings are written by the model, in any dialect."""
_ESCAPED: Final = b"\\u"
_RESPONSE: Final = "response."
_DELTA: Final = ".delta"

_decode = Decoder(Any).decode
_encode = msgspec.json.Encoder().encode


class Measured(NamedTuple):
    """An answer by two measures: about how many tokens its text is, and the events that brought it.

    `texts`: 0 = there were none, or nobody knows.
    """

    size: int
    texts: int = 0


def measure_text(text: str, texts: int) -> Measured:
    """Measure a text that came in so many events, all of it: no sample stands for the rest."""
    raw = text.encode("utf-8", "replace")
    pieces = range(0, len(raw), SMALL_BYTES)
    return Measured(sum(estimate_tokens(raw[at : at + SMALL_BYTES]) for at in pieces), texts)


def tokens_of_body(body: bytes) -> int:
    """Return about how many tokens the model wrote in a plain JSON answer, 0 if it is none."""
    try:
        texts = _texts_of(_decode(body))
    except (Undecodable, RecursionError):
        return 0
    return estimate_tokens("".join(texts).encode("utf-8", "replace"))


def measure_stream(
    tail: bytes, bytes_out: int, events_out: int, opening_bytes: int = 0
) -> Measured:
    """Measure what the model wrote in a stream that may have been cut, by its last events.

    Args:
        tail: The last whole events that went by.
        bytes_out: Of all events.
        events_out: How many there were. Providers send about one for each token: that is what
            counts where the last events show no text.
        opening_bytes: Of the block that the stream began with.
    """
    text, text_bytes, envelope_bytes, events = "", 0, 0, 0
    last = last_events(tail)
    for event in last:
        texts = _read_event(event)
        if not texts:
            continue
        said = "".join(texts)
        on_wire = _wire_bytes(said, escaped=_ESCAPED in event)
        text += said
        text_bytes += on_wire
        envelope_bytes += max(0, len(event) - on_wire)
        events += 1
    if not events:
        return Measured(min(events_out, bytes_out))
    raw = text.encode("utf-8", "replace")
    # What is quiet stands at the end of a stream, but for the few that open it.
    bringing = max(events_out - len(last) + events, events)
    if sum(map(len, last)) >= bytes_out:
        return Measured(estimate_tokens(raw), events)  # that was all of it
    # A stream's first events are longer and say nothing; events of one stream say about as much.
    rest_bytes = bytes_out - events_out * envelope_bytes // events
    rest_bytes -= max(opening_bytes, OPENING_BYTES)
    all_bytes = max(rest_bytes, text_bytes * events_out // events, text_bytes)
    return Measured(estimate_like(raw, len(raw) * all_bytes // max(text_bytes, 1)), bringing)


def last_events(tail: bytes) -> list[bytes]:
    """Return the last events, TAIL_EVENTS_MAX at most, and split little more of a long tail."""
    size = TAIL_BYTES
    while size < len(tail):
        events = split_events(tail[event_start(tail, len(tail) - size) :])
        if len(events) >= TAIL_EVENTS_MAX:
            return events[-TAIL_EVENTS_MAX:]
        size *= 4
    return split_events(tail)[-TAIL_EVENTS_MAX:]


def tokens_of_bytes(body_bytes: int) -> int:
    """Return about how many tokens of text a body is of which only the size is known."""
    return round(body_bytes / BYTES_PER_TOKEN)


def _read_event(event: bytes) -> list[str]:
    payload = event_payload(event)
    if not payload.startswith(b"{"):
        return []
    try:
        found = _decode(payload)
        return [] if _repeats(found) else _texts_of(found)
    except (Undecodable, RecursionError):
        return []


def _repeats(payload: Any) -> bool:
    """Tell whether an event of a response says again what its request or its deltas said."""
    kind = payload.get("type") if isinstance(payload, dict) else None
    return isinstance(kind, str) and kind.startswith(_RESPONSE) and not kind.endswith(_DELTA)


def _texts_of(payload: Any) -> list[str]:
    found: list[str] = []
    _collect(payload, found, 0)
    return found


def _collect(value: Any, found: list[str], depth: int) -> None:
    if depth > DEPTH_MAX or len(found) >= TEXTS_MAX:
        return
    if isinstance(value, list):
        for part in value:
            _collect(part, found, depth + 1)
    if not isinstance(value, dict):
        return
    for name, part in value.items():
        if isinstance(part, str):
            if name in TEXT_KEYS and part:
                found.append(part)
        elif name == "input" and isinstance(part, dict):
            found.append(_encode(part).decode())  # a tool's arguments, as an object
        else:
            _collect(part, found, depth + 1)


def _wire_bytes(text: str, *, escaped: bool) -> int:
    r"""Return what a text takes inside a JSON string, with \uXXXX for what is not ASCII or not."""
    plain = len(_encode(text)) - 2
    if not escaped:
        return plain
    beyond = [character for character in text if not character.isascii()]
    return plain + 6 * len(beyond) - len("".join(beyond).encode("utf-8", "surrogatepass"))
