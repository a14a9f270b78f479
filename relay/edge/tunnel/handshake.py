"""The opening of a session: whether it is one, and what it is answered.

Source: RFC 6455, sections 4.2.1 and 4.2.2; OpenAI's clients for browsers, which present their key
as a protocol, since a page can set no header.
"""

from typing import Final

from relay.edge.client.head import Headers, ParsedHead
from relay.errors import BadRequest, UpgradeRequired
from relay.wire.websocket import accept_of

VERSION: Final = "13"
KEY_PROTOCOL: Final = "openai-insecure-api-key."
_BETA: Final = b"responses_websockets="


def protocol_key(headers: Headers) -> str | None:
    """Return the key that a browser presents, None without one."""
    for name in _protocols(headers):
        if name.startswith(KEY_PROTOCOL):
            return name.removeprefix(KEY_PROTOCOL)
    return None


def accept(message: ParsedHead, request_id: str) -> bytes:
    """Return the head that opens a session.

    Raises:
        BadRequest: CLIENT; the handshake has no key.
        UpgradeRequired: CLIENT; it is of another version.
    """
    headers = message.headers
    if headers.get("Sec-WebSocket-Version", "").strip() != VERSION:
        raise UpgradeRequired("This relay speaks version 13 of WebSocket.")
    accepted = accept_of(headers.get("Sec-WebSocket-Key", "").strip())
    if accepted is None:
        raise BadRequest("Sec-WebSocket-Key must be 16 bytes in base64.")
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accepted}",
        f"x-request-id: {request_id}",
    ]
    chosen = next((n for n in _protocols(headers) if not n.startswith(KEY_PROTOCOL)), "")
    if chosen:
        lines.append(f"Sec-WebSocket-Protocol: {chosen}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1", "replace")


def without_socket_beta(lines: bytes) -> bytes:
    """Return header lines without what asks an upstream for a socket: it is asked over HTTP."""
    kept = [line for line in lines.split(b"\r\n") if line and _BETA not in line]
    return b"".join(b"%b\r\n" % line for line in kept)


def _protocols(headers: Headers) -> list[str]:
    given = headers.get("Sec-WebSocket-Protocol", "").split(",")
    return [name.strip() for name in given if name.strip().isprintable() and name.strip()]
