"""Judgements on an answer's events: has it begun, is it whole, is this an error.

None of these is called for every event: the first one until an answer has begun, the ending once,
the rest only where a cheap search of the bytes has found a reason.

Source: docs/streams.md, "First output", "Ends" and "Errors inside a stream".
"""

import enum
import re
from typing import Final

from relay.decoding import Decoder, Undecodable
from relay.records import Endpoint
from relay.wire.answer_shapes import Choice, Event
from relay.wire.dialects.known import TABLES
from relay.wire.refusals.fault_body import safe_code
from relay.wire.sse import event_end, event_name, event_payload, event_start, split_events
from relay.wire.usage.reader import find_usage

UNKNOWN_ERROR: Final = "upstream_error"
MESSAGE_STOP: Final = "message_stop"
_DONE: Final = b"[DONE]"
_FINISH: Final = re.compile(rb'"(?:finish_reason|finishReason)"\s*:\s*"(?!error")')
_COUNTED_LAST: Final = frozenset(Endpoint) - {Endpoint.CHAT, Endpoint.COMPLETIONS}
"""Streams whose terminal event alone holds usage; chat dialects may have it in every event."""

_UNMARKED: Final = frozenset({Endpoint.RESPONSES, Endpoint.RESPONSE, Endpoint.MESSAGES})
"""Streams that have a last word of their own; a `[DONE]` behind it proves nothing."""

# The events say what they are, so that a mixed-up protocol is still judged right.
_NO_OUTPUT_YET: Final = frozenset().union(*(table.no_output_yet for table in TABLES.values()))
_LAST_WORDS: Final = frozenset().union(*(table.last_words for table in TABLES.values()))


class FirstBlock(enum.Enum):
    """What the first events of a stream are."""

    WAIT = "wait"
    """Nothing of an answer yet: comments, pings, a role, an announcement."""
    OUTPUT = "output"
    ERROR = "error"


class StreamEnding(enum.Enum):
    """How a stream ended."""

    COMPLETE = "complete"
    TRUNCATED = "truncated"
    FAILED = "failed"


_decode = Decoder(Event).decode


def judge_first(block: bytes, endpoint: Endpoint) -> FirstBlock:
    """Tell whether the first whole events of a stream are an answer, an error, or neither yet.

    Bytes that are no UTF-8 are an error: the official clients raise on them. What stands behind
    the event that tells is as little looked at as what later reads bring.
    """
    del endpoint  # the events say what they are
    at = 0
    while at < len(block):  # one by one: of a burst the second event tells, nearly always
        end = event_end(block, at)
        event = block[at:end]
        at = end
        if not _is_utf8(event):
            return FirstBlock.ERROR
        payload = event_payload(event)
        if not payload or payload.startswith(_DONE):
            continue
        verdict = _judge_first_event(payload, event_name(event).decode("latin-1"))
        if verdict is not FirstBlock.WAIT:
            return verdict
    return FirstBlock.WAIT


def judge_ending(tail: bytes, endpoint: Endpoint) -> StreamEnding:
    """Tell whether a stream whose last events are `tail` (maybe cut at its start) was whole.

    Complete is what has said its protocol's last word: a finish reason, `response.completed`,
    `message_stop`, `[DONE]`. An error beats all of these: there are servers that send one between a
    finish reason and `[DONE]`. Output behind a finish reason is another choice's, which was cut.
    """
    # Most streams end here, after two searches: the first is for what all three have in them.
    suspect = tail.rfind(b"error") >= 0 and _may_hold_error(tail)
    if not suspect and endpoint not in _UNMARKED and done_marker(tail):
        return StreamEnding.COMPLETE
    events = split_events(tail)
    if suspect and any(_error_code(event) is not None for event in events):
        return StreamEnding.FAILED
    for event in reversed(events):
        ending = _judge_last_event(event, endpoint)
        if ending is not None:
            return ending
    return StreamEnding.TRUNCATED


def _may_hold_error(tail: bytes) -> bool:
    words = (b'"error"', b"event: error", b"event:error")
    return any(tail.rfind(word) >= 0 for word in words)


def done_marker(tail: bytes) -> bool:
    """Tell whether the `[DONE]` that OpenAI's clients wait for was sent: a line, not model text."""
    at = tail.rfind(_DONE)
    while at >= 0:
        field = tail[tail.rfind(b"\n", 0, at) + 1 : at]
        end = at + len(_DONE)
        if field in (b"data: ", b"data:") and tail[end : end + 1] in (b"\n", b"\r", b""):
            return True
        at = tail.rfind(_DONE, 0, at)
    return False


def find_error(block: bytes) -> str | None:
    """Return the code of an error among these events, None if there is none.

    Called where the bytes `"error"` were found. The code is a plain token or UNKNOWN_ERROR, never
    text of the upstream.
    """
    for event in split_events(block):
        code = _error_code(event) if b'"error"' in event else None
        if code is not None:
            return code
    return None


def drop_usage_event(block: bytes) -> bytes:
    """Return `block` without the event that only our include_usage caused.

    That is the one with usage and without choices (none, null, or no such member); every other byte
    stays. The same object comes back where there is none, which two searches usually tell.
    """
    # Only the events that hold a usage are cut out and read, however many stand before them.
    for usage in (b'"usage":{', b'"usage": {'):
        at = block.rfind(usage)
        while at >= 0:
            start = event_start(block, at)
            end = event_end(block, at)
            if _is_usage_event(block[start:end]):
                block = block[:start] + block[end:]
            at = block.rfind(usage, 0, start)
    return block


def _is_usage_event(event: bytes) -> bool:
    judged = _read(event_payload(event))
    return judged is not None and not judged.choices and isinstance(judged.usage, dict)


def _judge_first_event(payload: bytes, name: str) -> FirstBlock:
    judged = _read(payload)
    if judged is None:
        return FirstBlock.ERROR  # not JSON: no client could read it, another channel may do better
    if _is_error(judged, name.encode("latin-1")):
        return FirstBlock.ERROR
    if (judged.type or name) in _NO_OUTPUT_YET:
        return FirstBlock.WAIT
    if judged.choices is None:
        return FirstBlock.OUTPUT
    return FirstBlock.OUTPUT if any(map(_says_something, judged.choices)) else FirstBlock.WAIT


def _says_something(choice: Choice) -> bool:
    if choice.finish_reason or choice.text:
        return True
    delta = choice.delta or {}
    return any(value for name, value in delta.items() if name != "role")


def _judge_last_event(event: bytes, endpoint: Endpoint) -> StreamEnding | None:
    """Return what one event, read from the end, says of the ending; None: look further left."""
    payload = event_payload(event)
    if not payload:
        return StreamEnding.COMPLETE if _is_last_fragment(event, endpoint) else None
    if payload.startswith(_DONE):
        return None if endpoint in _UNMARKED else StreamEnding.COMPLETE
    judged = _read(payload)
    if judged is None:
        return None
    if _is_error(judged, event_name(event)):
        return StreamEnding.FAILED
    if _is_last_word(judged, endpoint):
        return StreamEnding.COMPLETE
    return StreamEnding.TRUNCATED if any(map(_says_something, judged.choices or ())) else None


def _is_last_fragment(event: bytes, endpoint: Endpoint) -> bool:
    """Tell whether an event without a payload is the end of a terminal one, cut at its start.

    Terminal events of the Responses and Images protocols repeat the whole answer: longer than any
    tail. What ends them cannot be text, whose quotes are escaped.
    """
    if endpoint is Endpoint.MESSAGES:
        return False  # its last word is short
    if event.startswith((b"event:", b"data:", b"id:")):
        return False  # nothing of it is cut off, so it has no data: clients pass over it as well
    if event_name(event).decode("latin-1") in _LAST_WORDS:
        return True
    if endpoint in _COUNTED_LAST:
        return find_usage(b"", event) is not None
    return _FINISH.search(event) is not None


def _is_last_word(judged: Event, endpoint: Endpoint) -> bool:
    if endpoint is Endpoint.MESSAGES:
        return judged.type == MESSAGE_STOP
    if judged.choices and any(choice.finish_reason for choice in judged.choices):
        return True
    if judged.candidates and any(one.get("finishReason") for one in judged.candidates):
        return True
    if judged.promptFeedback and judged.promptFeedback.get("blockReason"):
        return True  # Gemini did not like the prompt: that is all there will be
    return judged.type in _LAST_WORDS


def _error_code(event: bytes) -> str | None:
    """Return the code of an event that is an error, None if it is none."""
    name = event_name(event)
    judged = _read(event_payload(event))
    if judged is None:
        return UNKNOWN_ERROR if name == b"error" else None
    return _code_of(judged) if _is_error(judged, name) else None


def _is_error(judged: Event, name: bytes) -> bool:
    if judged.error or judged.type in ("error", "response.failed") or name == b"error":
        return True
    if any(choice.finish_reason == "error" for choice in judged.choices or ()):
        return True
    return judged.response is not None and judged.response.status == "failed"


def _code_of(judged: Event) -> str:
    error = judged.error
    if judged.response is not None and judged.response.error:
        error = judged.response.error
    if isinstance(error, dict):
        for field in ("code", "type"):
            code = safe_code(error.get(field))
            if code is not None:
                return code
    return safe_code(judged.code) or UNKNOWN_ERROR


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read(payload: bytes) -> Event | None:
    try:
        return _decode(payload)
    except Undecodable:
        return None
