"""Our own answers, in the dialect they are asked in: errors as bodies and as events, model lists.

The shapes here are OpenAI's; wire.dialects.anthropic has the others. Every
error has the same body whatever its cause, with the request id in it, and tells the official
clients by header whether and when to come back.
"""

import math
from typing import Final

import msgspec

from relay.errors import RelayError
from relay.model import Dialect
from relay.records import Endpoint
from relay.wire.dialects import anthropic
from relay.wire.sse import event_payload, split_events

KEEPALIVES: Final = {
    Dialect.OPENAI: b": keepalive\n\n",
    Dialect.ANTHROPIC: anthropic.PING_EVENT,
}
"""What keeps the way to a client alive while an upstream is silent."""
RETRY_AFTER_S_MAX: Final = 60.0
"""anthropic's Python client sleeps whatever it is told, openai's gives up above two minutes."""
RETRY_AFTER_MS_MIN: Final = 20
JITTER_SHARE: Final = 0.25
JITTER_MS: Final = 250
OWNER: Final = "relay"

_encode = msgspec.json.Encoder().encode


def error_status(error: RelayError, dialect: Dialect) -> int:
    """Return the HTTP status that tells `error` to a client of `dialect`."""
    return anthropic.error_status(error) if dialect is Dialect.ANTHROPIC else error.status


def error_body(error: RelayError, request_id: str, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """Return the JSON body that tells `error`."""
    if dialect is Dialect.ANTHROPIC:
        return anthropic.error_body(error, request_id)
    return _encode({"error": _error_object(error, request_id)})


def error_event(
    error: RelayError,
    request_id: str,
    endpoint: Endpoint,
    *,
    opening: bytes = b"",
    events_out: int = 0,
) -> bytes:
    """Return the event that tells a client its stream has failed: the last one it gets.

    The official clients raise on it. A stream that just ended would look whole to them.

    Args:
        error: What happened.
        request_id: Of the call.
        endpoint: Decides the dialect.
        opening: The first events the client got: a failed response must keep their id.
        events_out: How many it got: the number of this one.
    """
    if endpoint is Endpoint.MESSAGES:
        return anthropic.error_event(error, request_id)
    if endpoint is Endpoint.RESPONSES:
        failed = _failed_response(error, request_id, _read_opening(opening), events_out)
        return b"event: response.failed\ndata: %b\n\n" % _encode(failed)
    return b"data: %b\n\n" % error_body(error, request_id)


def error_headers(error: RelayError, dice: float) -> list[tuple[str, str]]:
    """Return the headers that say whether and when to try again.

    Args:
        error: What is answered.
        dice: Uniform in [0, 1): spreads clients that were told the same moment; their own code adds
            no jitter to a server's delay.
    """
    headers: list[tuple[str, str]] = []
    if error.should_retry is not None:
        headers.append(("x-should-retry", "true" if error.should_retry else "false"))
    if error.retry_after_s is not None and error.should_retry is False:
        # For people: the clients are told not to come back, so they do not sleep for it.
        headers.append(("retry-after", str(max(1, math.ceil(error.retry_after_s)))))
    elif error.retry_after_s is not None:
        wait_ms = error.retry_after_s * 1000 * (1 + JITTER_SHARE * dice) + JITTER_MS * dice
        wait_ms = min(max(wait_ms, RETRY_AFTER_MS_MIN), RETRY_AFTER_S_MAX * 1000)
        headers.append(("retry-after-ms", str(math.ceil(wait_ms))))
        headers.append(("retry-after", str(max(1, math.ceil(wait_ms / 1000)))))
    return headers


def models_body(names: list[str], created: int, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """Return the list of models; `created`: seconds since 1970."""
    if dialect is Dialect.ANTHROPIC:
        return anthropic.models_body(names, created)
    return _encode({"object": "list", "data": [_model(name, created) for name in names]})


def model_body(name: str, created: int, dialect: Dialect = Dialect.OPENAI) -> bytes:
    """Return one model."""
    if dialect is Dialect.ANTHROPIC:
        return anthropic.model_body(name, created)
    return _encode(_model(name, created))


class _Response(msgspec.Struct):
    """What must not change over the events of one response."""

    id: str = ""
    created_at: float = 0
    model: str = ""


class _Opening(msgspec.Struct):
    response: _Response


_opening_decoder = msgspec.json.Decoder(_Opening)


def _read_opening(opening: bytes) -> _Response:
    for event in split_events(opening):
        try:
            return _opening_decoder.decode(event_payload(event)).response
        except (msgspec.DecodeError, RecursionError):
            continue
    return _Response()


def _model(name: str, created: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}


def _error_object(error: RelayError, request_id: str) -> dict[str, object]:
    return {
        "message": f"{error.message} (request id: {request_id})",
        "type": error.kind,
        "param": error.param,
        "code": error.code,
        "request_id": request_id,
    }


def _failed_response(
    error: RelayError, request_id: str, opened: _Response, number: int
) -> dict[str, object]:
    """Return the object of a `response.failed` event, complete enough for typed clients.

    Source: OpenAI API reference, Responses streaming events, response.failed.
    """
    response: dict[str, object] = {
        "id": opened.id or f"resp_{request_id.removeprefix('req_')}",
        "object": "response",
        "created_at": opened.created_at,
        "status": "failed",
        "model": opened.model,
        "output": [],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "error": {
            "code": "server_error",
            "message": f"{error.message} (request id: {request_id})",
        },
        "incomplete_details": None,
        "usage": None,
    }
    return {"type": "response.failed", "sequence_number": number, "response": response}
