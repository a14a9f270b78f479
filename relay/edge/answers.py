"""Whole answers of our own: errors, model lists, greetings."""

from typing import Final

from relay.errors import RelayError, UpgradeRequired
from relay.model import DEFAULT_DIALECT, Dialect
from relay.wire.dialects.known import TABLES
from relay.wire.http import CLOSE, JSON, identity_head, status_line
from relay.wire.retry_headers import error_headers

UPGRADE: Final = b"Upgrade: HTTP/1.1\r\nConnection: Upgrade\r\n"
"""Source: RFC 9110, section 15.5.22: a 426 names the protocol that is served."""


def error_answer(
    error: RelayError,
    request_id: str,
    dice: float,
    *,
    notes: bytes = b"",
    closing: bool,
    dialect: Dialect = DEFAULT_DIALECT,
) -> bytes:
    """Return the whole answer that tells `error`; `notes`: header lines."""
    lines = [f"{name}: {value}\r\n" for name, value in error_headers(error, dice)]
    extra = "".join(lines).encode("latin-1") + notes
    if isinstance(error, UpgradeRequired):
        extra += UPGRADE
    table = TABLES[dialect]
    body = error.own_body or table.error_body(error, request_id)
    return _answer(table.error_status(error), request_id, body, extra, closing=closing)


def json_answer(
    body: bytes, request_id: str, *, closing: bool, notes: bytes = b"", status: int = 200
) -> bytes:
    """Return an answer with a JSON body, b"" for none; `notes`: header lines."""
    return _answer(status, request_id, body, notes, closing=closing)


def without_body(answer: bytes) -> bytes:
    """Return the head of a whole answer: what a HEAD gets in place of a GET's."""
    return answer[: answer.index(b"\r\n\r\n") + 4]


def _answer(status: int, request_id: str, body: bytes, extra: bytes, *, closing: bool) -> bytes:
    head = b"%bContent-Type: %b\r\nContent-Length: %d\r\n%b%b%b\r\n" % (
        status_line(status),
        JSON,
        len(body),
        identity_head(request_id.encode()),
        extra,
        CLOSE if closing else b"",
    )
    return head + body
