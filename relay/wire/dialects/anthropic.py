"""Anthropic's dialect: its table, errors, pings, model lists, and what a head passes on.

Source: Anthropic API reference: "Errors", "Streaming messages", "List models", "Versioning".
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

from relay.errors import (
    BadRequest,
    ChannelOverloaded,
    ChannelReportedError,
    RelayError,
    ShuttingDown,
    Unavailable,
)
from relay.model import Dialect
from relay.records import Endpoint
from relay.wire.dialects.openai import path
from relay.wire.dialects.table import TRACE, DialectTable, HeaderItems, forwarded
from relay.wire.refusals.blame import Blame, Row, of

PING_EVENT: Final = b'event: ping\ndata: {"type": "ping"}\n\n'
"""Its clients drop it unseen, wherever it comes; a comment would do them no harm either, but some
proxies in front of them count events."""
VERSION: Final = "2023-06-01"
"""What a client that names no version means."""
BETA_CHARS_MAX: Final = 2048
"""Claude Code names about a dozen betas, in 300 characters."""
OVERLOADED: Final = 529
FORWARDED: Final = TRACE | {
    *("x-claude-code-session-id", "x-claude-code-agent-id", "x-claude-code-parent-agent-id"),
    *("x-session-affinity", "x-session-id"),
}
"""Source: Claude Code, "LLM gateways": by these a gateway finds a session's prompt cache."""

_VERSION: Final = re.compile(r"[0-9A-Za-z.\-]{1,32}")
_BETA: Final = re.compile(r"[0-9A-Za-z.,_:\- ]+")
_KINDS: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
_STATUSES: Final = {
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": OVERLOADED,
}
"""Types of errors in a stream that are no fault of the relay's; the rest are 502."""

_encode = msgspec.json.Encoder().encode


def error_status(error: RelayError) -> int:
    """Return the HTTP status that tells `error` in this dialect.

    A spent balance is 402 here, and 529 says that a server, not the client's own rate, is the
    reason to come back later. An error inside an answer has the status of its type.
    """
    if error.kind == "insufficient_quota":
        return 402
    if isinstance(error, ChannelReportedError):
        return _STATUSES.get(error.upstream_code, error.status)
    overloaded = isinstance(error, Unavailable) and not isinstance(error, ShuttingDown)
    return OVERLOADED if overloaded or isinstance(error, ChannelOverloaded) else error.status


def error_body(error: RelayError, request_id: str) -> bytes:
    """Return the JSON body that tells `error`."""
    status = error_status(error)
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return _encode(
        {
            "type": "error",
            "error": {"type": kind, "message": error.message},
            "request_id": request_id,
        }
    )


def error_event(
    error: RelayError,
    request_id: str,
    endpoint: Endpoint,
    opening: bytes = b"",
    events_out: int = 0,
) -> bytes:
    """Return the event that ends a stream which has failed; its clients raise on it."""
    return b"event: error\ndata: %b\n\n" % error_body(error, request_id)


def models_body(names: list[str], created: int) -> bytes:
    """Return the list of models, all on one page; `created`: seconds since 1970."""
    return _encode(
        {
            "data": [_model(name, created) for name in names],
            "has_more": False,
            "first_id": names[0] if names else None,
            "last_id": names[-1] if names else None,
        }
    )


def model_body(name: str, created: int) -> bytes:
    """Return one model."""
    return _encode(_model(name, created))


def passed_on(version: str | None, betas: Iterable[str]) -> bytes:
    """Return the header lines that go to an upstream as the client sent them.

    Args:
        version: Its anthropic-version; None = it sent none.
        betas: Its anthropic-beta headers.

    Raises:
        BadRequest: CLIENT; one of them is not what such a header can be.
    """
    version = VERSION if version is None else version
    if _VERSION.fullmatch(version) is None:
        raise BadRequest("anthropic-version must be a date, such as 2023-06-01.")
    lines = f"anthropic-version: {version}\r\n"
    beta = ",".join(betas)
    if beta:
        if len(beta) > BETA_CHARS_MAX or _BETA.fullmatch(beta) is None:
            raise BadRequest("anthropic-beta must be a list of names with commas between them.")
        lines += f"anthropic-beta: {beta}\r\n"
    return lines.encode("ascii")


def _model(name: str, created: int) -> dict[str, object]:
    at = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": at,
        "lifecycle": "active",
    }


def _forward(items: HeaderItems) -> bytes:
    given_items = list(items)
    version, betas = None, []
    for given, value in given_items:
        name = given.lower()
        if name == "anthropic-version":
            version = value if version is None else version
        elif name == "anthropic-beta":
            betas.append(value)
    return passed_on(version, betas) + forwarded(given_items, FORWARDED)


TABLE: Final[DialectTable] = DialectTable(
    dialect=Dialect.ANTHROPIC,
    entrance="/v1/messages",
    versions=(),
    verbs={},
    mark="anthropic-version",
    error_status=error_status,
    error_body=error_body,
    error_event=error_event,
    keep_alive=PING_EVENT,
    models_body=models_body,
    model_body=model_body,
    client_credentials=("x-api-key",),
    query_credential="",
    upstream_credential=("x-api-key", ""),
    path=path,
    queries={Endpoint.MESSAGES: ("beta=true",), Endpoint.COUNT_TOKENS: ("beta=true",)},
    models_query="?limit=1000",
    probe_headers=(("anthropic-version", VERSION),),
    forward=_forward,
    returned=((b"request-id", b"x-upstream-request-id"),),
    rate_names=(
        b"anthropic-ratelimit-%b-limit",
        b"anthropic-ratelimit-%b-remaining",
        b"anthropic-ratelimit-%b-reset",
    ),
    rate_reset_is_moment=True,
    # Its metadata holds the user's id and nothing else; Claude Code puts the session into that.
    session_fields=("metadata", "messages"),
    usage_on_demand=frozenset(),
    last_words=frozenset({"message_stop"}),
    no_output_yet=frozenset({"ping", "message_start", "content_block_start"}),
    blames=(
        Row(
            statuses=of(400, 404),
            begins=("file not found", "container"),
            holds=("invalid `signature` in `thinking` block",),
            blame=Blame.OWNER,
            source="Anthropic, Files and Extended thinking: kept by one workspace, signed for one "
            "provider",
        ),
        Row(
            statuses=of(429),
            codes=frozenset({"billing_error"}),
            blame=Blame.CREDENTIAL,
            source="Anthropic, Errors: the spend limit of the account",
        ),
    ),
    splices=True,
)
