"""OpenAI's dialect: its table, errors as bodies and as events, model lists.

Every error has the same body whatever its cause, with the request id in it.

Source: OpenAI API reference: "Error codes", "Streaming events", "List models".
"""

from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.errors import RelayError, UpstreamRejected
from relay.model import Dialect
from relay.records import Endpoint
from relay.wire.dialects.table import TRACE, DialectTable, HeaderItems, forwarded
from relay.wire.refusals.blame import Blame, Row, of
from relay.wire.sse import event_payload, split_events

KEEP_ALIVE: Final = b": keepalive\n\n"
OWNER: Final = "relay"
FORWARDED: Final = TRACE | {
    *("openai-beta", "originator", "version", "session_id", "session-id", "thread-id"),
    *("conversation_id", "conversation-id", "x-openai-subagent"),
    *("x-session-affinity", "x-session-id", "x-opencode-session", "x-grok-conv-id"),
}
"""Source: OpenAI's clients and Codex (betas, who asks, which turn of which session); xAI, Fireworks
and opencode (a session, by which a provider finds its prompt cache)."""
FORWARDED_PREFIXES: Final = ("x-codex-",)
"""Codex tells of its turn in half a dozen of them, and wants one of them back."""

_encode = msgspec.json.Encoder().encode


def error_status(error: RelayError) -> int:
    """Return the HTTP status that tells `error` in this dialect."""
    return error.status


def error_body(error: RelayError, request_id: str) -> bytes:
    """Return the JSON body that tells `error`."""
    return _encode({"error": _error_object(error, request_id)})


def error_event(
    error: RelayError,
    request_id: str,
    endpoint: Endpoint,
    opening: bytes = b"",
    events_out: int = 0,
) -> bytes:
    """Return the event that tells a client its stream has failed: the last one it gets."""
    if endpoint is Endpoint.RESPONSES:
        failed = _failed_response(error, request_id, _read_opening(opening), events_out)
        return b"event: response.failed\ndata: %b\n\n" % _encode(failed)
    if endpoint is Endpoint.RESPONSE:
        # What is kept goes on: only this reading of it has failed, and can be taken up again.
        said = {"type": "error", "sequence_number": events_out, **_error_object(error, request_id)}
        return b"event: error\ndata: %b\n\n" % _encode({**said, "type": "error"})
    return b"data: %b\n\n" % error_body(error, request_id)


def models_body(names: list[str], created: int) -> bytes:
    """Return the list of models; `created`: seconds since 1970."""
    return _encode({"object": "list", "data": [_model(name, created) for name in names]})


def model_body(name: str, created: int) -> bytes:
    """Return one model."""
    return _encode(_model(name, created))


def path(endpoint: Endpoint, model: str) -> str:
    """Return where an endpoint is below an API's root: the model is named in the body."""
    return f"/{endpoint.value}"


class _Response(msgspec.Struct):
    """What must not change over the events of one response."""

    id: str = ""
    created_at: float = 0
    model: str = ""


class _Opening(msgspec.Struct):
    response: _Response


_opening_decoder = Decoder(_Opening)


def _read_opening(opening: bytes) -> _Response:
    for event in split_events(opening):
        try:
            return _opening_decoder.decode(event_payload(event)).response
        except Undecodable:
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
    refused = isinstance(error, UpstreamRejected) and error.code
    code = error.code if refused else "server_error"  # Codex compacts, or gives up, on such codes
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
            "code": code,
            "message": f"{error.message} (request id: {request_id})",
        },
        "incomplete_details": None,
        "usage": None,
    }
    return {"type": "response.failed", "sequence_number": number, "response": response}


def _forward(items: HeaderItems) -> bytes:
    return forwarded(items, FORWARDED, FORWARDED_PREFIXES)


TABLE: Final[DialectTable] = DialectTable(
    dialect=Dialect.OPENAI,
    entrance="/v1/chat/completions",
    versions=(),
    verbs={},
    mark="",
    error_status=error_status,
    error_body=error_body,
    error_event=error_event,
    keep_alive=KEEP_ALIVE,
    models_body=models_body,
    model_body=model_body,
    client_credentials=("api-key",),
    query_credential="",
    upstream_credential=("Authorization", "Bearer "),
    path=path,
    queries={Endpoint.REALTIME: ("intent=transcription",)},
    models_query="",
    probe_headers=(),
    forward=_forward,
    returned=(
        (b"x-request-id", b"x-upstream-request-id"),
        (b"x-codex-turn-state", b"x-codex-turn-state"),
    ),
    rate_names=(b"x-ratelimit-limit-%b", b"x-ratelimit-remaining-%b", b"x-ratelimit-reset-%b"),
    rate_reset_is_moment=False,
    session_fields=("prompt_cache_key", "messages", "input", "prompt"),
    usage_on_demand=frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS}),
    last_words=frozenset(
        {
            *("response.completed", "response.incomplete"),
            *("message-end", "speech.audio.done", "transcript.text.done"),
            *("image_generation.completed", "image_edit.completed"),
        }
    ),
    no_output_yet=frozenset({"response.created", "response.in_progress", "response.queued"}),
    blames=(
        Row(
            statuses=of(400, 404),
            codes=frozenset({"previous_response_not_found", "invalid_encrypted_content"}),
            begins=("previous response with id", "item with id", "invalid previous_response_id"),
            blame=Blame.OWNER,
            source="OpenAI, Responses: what one organisation or project keeps, as gateways and "
            "agents recorded it",
        ),
        Row(
            statuses=of(404),
            begins=("no such file object", "conversation with id", "vector store"),
            blame=Blame.OWNER,
            source="OpenAI, Files, Conversations, Vector stores: kept by one project",
        ),
        Row(
            statuses=of(503),
            codes=frozenset({"server_is_overloaded", "slow_down", "engine_overloaded_error"}),
            blame=Blame.OVERLOADED,
            source="OpenAI, Error codes; Codex; Moonshot, Error codes",
        ),
    ),
    splices=True,
)
