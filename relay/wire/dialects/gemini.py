"""Gemini's dialect: its table, errors as bodies and as events, model lists, where its methods are.

Source: Gemini API reference: "Models", "Generate content", "Troubleshooting" (error codes); the
google-genai clients for Python and Node, which read `error.code`, `error.status` and
`error.message`, and fail on a comment in a stream; google.rpc.RetryInfo.
"""

import math
from typing import Final
from urllib.parse import quote

import msgspec

from relay.errors import RelayError
from relay.model import Dialect
from relay.records import GEMINI_ENDPOINTS, Endpoint
from relay.wire.dialects.table import TRACE, DialectTable, HeaderItems, forwarded
from relay.wire.refusals.blame import Blame, Row, of

RETRY_INFO: Final = "type.googleapis.com/google.rpc.RetryInfo"
ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"
DOMAIN: Final = "relay"
FORWARDED: Final = TRACE | {"x-goog-api-client", "x-goog-request-params", "x-server-timeout"}
"""Source: the google-genai clients."""
EVENTS_QUERY: Final = "alt=sse"
"""Without it a stream is a JSON array, in pieces."""
VERBS: Final = {
    point.value.rpartition(":")[2]: point for point in GEMINI_ENDPOINTS if ":" in point.value
}
_STATUSES: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    402: "FAILED_PRECONDITION",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Source: google.rpc.Code and the HTTP status that each is mapped to."""

_encode = msgspec.json.Encoder().encode


def error_status(error: RelayError) -> int:
    """Return the HTTP status that tells `error` in this dialect."""
    return error.status


def error_body(error: RelayError, request_id: str) -> bytes:
    """Return the JSON body that tells `error`.

    When to come back stands in the body: Gemini's clients read no header for it.
    """
    status = error_status(error)
    said = _STATUSES.get(status, "UNAVAILABLE" if status >= 500 else "INVALID_ARGUMENT")
    reason: dict[str, object] = {
        "@type": ERROR_INFO,
        "reason": (error.code or error.kind).upper(),
        "domain": DOMAIN,
        "metadata": {"request_id": request_id},
    }
    details = [reason]
    if error.retry_after_s is not None:
        delay = f"{max(1, math.ceil(error.retry_after_s))}s"
        details.append({"@type": RETRY_INFO, "retryDelay": delay})
    body: dict[str, object] = {
        "code": status,
        "message": f"{error.message} (request id: {request_id})",
        "status": said,
        "details": details,
    }
    return _encode({"error": body})


def error_event(
    error: RelayError,
    request_id: str,
    endpoint: Endpoint,
    opening: bytes = b"",
    events_out: int = 0,
) -> bytes:
    """Return the event that ends a stream which has failed; its clients raise on it."""
    return b"data: %b\n\n" % error_body(error, request_id)


def models_body(names: list[str], created: int) -> bytes:
    """Return the list of models, all on one page."""
    return _encode({"models": [_model(name) for name in names]})


def model_body(name: str, created: int) -> bytes:
    """Return one model."""
    return _encode(_model(name))


def path(endpoint: Endpoint, model: str) -> str:
    """Return where an endpoint is below an API's root: the model is named in its path."""
    return f"/models/{quote(model, safe='/@-._~')}:{endpoint.value.rpartition(':')[2]}"


def _model(name: str) -> dict[str, object]:
    return {
        "name": f"models/{name}",
        "displayName": name,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }


def _forward(items: HeaderItems) -> bytes:
    return forwarded(items, FORWARDED)


TABLE: Final[DialectTable] = DialectTable(
    dialect=Dialect.GEMINI,
    entrance="/v1beta/models/{model}:generateContent",
    versions=("/v1beta/", "/v1alpha/"),
    verbs=VERBS,
    mark="x-goog-api-key",
    error_status=error_status,
    error_body=error_body,
    error_event=error_event,
    keep_alive=None,
    models_body=models_body,
    model_body=model_body,
    client_credentials=("x-goog-api-key",),
    query_credential="key",
    upstream_credential=("x-goog-api-key", ""),
    path=path,
    queries={Endpoint.STREAM_GENERATE: (EVENTS_QUERY,)},
    models_query="?pageSize=1000",
    probe_headers=(),
    forward=_forward,
    returned=(),
    rate_names=(b"x-ratelimit-limit-%b", b"x-ratelimit-remaining-%b", b"x-ratelimit-reset-%b"),
    rate_reset_is_moment=False,
    # An agent has its system instruction in common for all of its sessions.
    session_fields=("cachedContent", "contents", "systemInstruction"),
    usage_on_demand=frozenset(),
    last_words=frozenset(),
    no_output_yet=frozenset(),
    blames=(
        Row(
            statuses=of(400, 401, 403),
            codes=frozenset(
                {
                    *("api_key_invalid", "api_key_expired", "api_key_service_blocked"),
                    *("api_key_ip_address_blocked", "api_key_http_referrer_blocked"),
                    *("consumer_suspended", "consumer_invalid", "billing_disabled"),
                    *("service_disabled", "access_token_expired", "account_state_invalid"),
                }
            ),
            begins=("user location is not supported", "api key expired"),
            blame=Blame.CREDENTIAL,
            source="google.api.ErrorReason; Gemini API, Troubleshooting (free tier's regions)",
        ),
        Row(
            statuses=of(400, 403, 404),
            begins=("cachedcontent not found", "you do not have permission to access the file"),
            holds=("thought signature", "thought_signature"),
            blame=Blame.OWNER,
            source="Gemini API, Context caching, Files, Thought signatures: kept by one project",
        ),
        Row(
            statuses=of(503),
            begins=("the model is overloaded",),
            blame=Blame.OVERLOADED,
            source="Gemini API, Troubleshooting: 503",
        ),
    ),
    splices=True,
)
