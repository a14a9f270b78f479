"""What the head of a request says: whom it is from, what it asks, how long it is."""

import re
from functools import lru_cache
from typing import Final, Protocol
from urllib.parse import unquote

from multidict import CIMultiDictProxy

from relay.edge.client.body import too_large
from relay.errors import BadRequest, NotImplementedHere, UpgradeRequired
from relay.model import DEFAULT_DIALECT, Dialect
from relay.records import Endpoint
from relay.wire.api_keys import PREFIX
from relay.wire.dialects.known import KEY_HEADERS, MARKS, TABLES
from relay.wire.request.encodings import check_encoding

TARGET_BYTES_MAX: Final = 8190
FIELD_BYTES_MAX: Final = 32 * 1024
"""Of one header field: browsers behind a single sign-on send cookies of 10 KB and more."""
FIELDS_MAX: Final = 128
HEAD_BYTES_MAX: Final = 64 * 1024
"""Of a whole head."""


class ParsedHead(Protocol):
    """A head as aiohttp's parser gives it.

    Its own type, RawRequestMessage, calls it a tuple. The C parser makes something else, and
    compiled code believes what it is told of types.
    """

    @property
    def method(self) -> str:
        """In upper case."""
        ...

    @property
    def path(self) -> str:
        """With its query."""
        ...

    @property
    def version(self) -> tuple[int, int]:
        """The version of HTTP."""
        ...

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Names in any case."""
        ...

    @property
    def should_close(self) -> bool:
        """No request follows on this connection."""
        ...

    @property
    def upgrade(self) -> bool:
        """Another protocol is asked for."""
        ...

    @property
    def compression(self) -> str | None:
        """The body's encoding, where it is gzip, deflate, br or zstd."""
        ...

    @property
    def chunked(self) -> bool:
        """The body comes in chunks."""
        ...


def survey(message: ParsedHead, data: bytes) -> tuple[int, bytes]:
    """Return what is still owed of the request that `data` begins, and its head.

    Args:
        message: What the parser made of it.
        data: The read that began it.

    Returns:
        Bytes that have not come yet, below 0 where nobody knows; the head, b"" where it is not
        whole in `data`.
    """
    end = data.find(b"\r\n\r\n") + len(b"\r\n\r\n")
    if end < len(b"\r\n\r\n") or message.chunked:
        return -1, b""
    body_bytes = int(message.headers.get("Content-Length", 0))
    return end + body_bytes - len(data), data[:end]


_HOST: Final = re.compile(r"[A-Za-z0-9._\-\[\]:]*")


def check_length(message: ParsedHead, bytes_max: int) -> None:
    """Refuse a body that announces itself as too long.

    Raises:
        TooLarge: CLIENT; it says so itself.
    """
    if int(message.headers.get("Content-Length", 0)) > bytes_max:
        raise too_large(bytes_max)


def comes_again(message: ParsedHead) -> bool:
    """Tell whether the next request of the connection may have the same head."""
    headers = message.headers
    if message.should_close or message.upgrade or message.version != (1, 1):
        return False
    if message.compression is not None:
        return False
    return "Expect" not in headers and "Origin" not in headers


def check_head(message: ParsedHead) -> None:
    """Refuse what the parser lets through and we do not speak.

    Raises:
        BadRequest: CLIENT; the version or the Host header is none.
        UpgradeRequired: CLIENT; a WebSocket is asked for where there is none. All other offers of
            another protocol (h2c, as curl and Java's client make them) are ignored, as they may be.
        NotImplementedHere: CLIENT; a transfer coding other than chunked.
        UnsupportedMedia: CLIENT; a body in an encoding that is not taken.

    Source: docs/reliability.md, "Bare aiohttp".
    """
    headers = message.headers
    if message.version not in ((1, 1), (1, 0)):
        raise BadRequest("This relay speaks HTTP/1.1.")
    if message.upgrade and asks_for_websocket(message) and not leads_to_session(message.path):
        # Coding agents fall back to HTTP at once on this status, and on no other.
        raise UpgradeRequired("There is no WebSocket here: send this request over HTTP/1.1.")
    if not _is_host(headers.get("Host", "")):
        raise BadRequest("The Host header is not a host name.")
    coding = headers.get("Transfer-Encoding")
    if coding is not None and coding.lower() != "chunked":
        raise NotImplementedHere("The only transfer coding taken is chunked.")
    encoding = headers.get("Content-Encoding")
    if encoding is not None:
        check_encoding(encoding)


Headers = CIMultiDictProxy[str]

SESSION_HEADERS: Final = (
    *("x-session-affinity", "x-claude-code-session-id", "session_id", "session-id"),
    *("x-opencode-session", "x-grok-conv-id", "conversation_id", "conversation-id"),
)
"""Where agents say which session a call is of: its prompt cache is where its last call was.

Source: Claude Code, "LLM gateways"; openai/codex; opencode; xAI, Prompt caching.
"""
SESSION_CHARS_MAX: Final = 255


def session_of(headers: Headers) -> bytes:
    """Return what a client says its calls belong together by, b"" where it says nothing."""
    for name in SESSION_HEADERS:
        value = headers.get(name)
        if value and len(value) <= SESSION_CHARS_MAX:
            return value.encode("utf-8", "replace")
    return b""


SESSION_PATHS: Final = {
    f"{before}/{endpoint.value}": endpoint
    for endpoint in (Endpoint.RESPONSES, Endpoint.REALTIME)
    for before in ("/v1", "", "/v1/v1")
}
"""Where sessions are held (edge.tunnel), and of what."""


def leads_to_session(target: str) -> bool:
    """Tell whether a path is one where sessions are held."""
    return target.partition("?")[0] in SESSION_PATHS


def told_origin(headers: Headers, *, secure: bool) -> str:
    """Return how a client reaches us, "" where it does not say: it is told to nobody else.

    `secure`: its own connection is TLS; else what a proxy in front says counts.
    """
    host = headers.get("Host", "")
    proto = headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    scheme = "https" if secure or proto == "https" else "http"
    return f"{scheme}://{host}" if _is_host(host) else ""


def opened_session(target: str) -> tuple[Endpoint, str]:
    """Return what the sessions at a path are of, and the model that its query names.

    Raises:
        BadRequest: CLIENT; it would join a call that was not made here.
    """
    path, _, query = target.partition("?")
    endpoint = SESSION_PATHS[path]
    if endpoint is not Endpoint.REALTIME:
        return endpoint, ""
    parts = dict(part.partition("=")[::2] for part in query.split("&"))
    if "call_id" in parts:
        raise BadRequest("Calls over WebRTC or SIP are not held here.", param="call_id")
    return endpoint, unquote(parts.get("model") or parts.get("deployment") or "")


def asks_for_websocket(message: ParsedHead) -> bool:
    """Tell whether a head is the opening handshake of a WebSocket.

    Source: RFC 6455, section 4.1: a GET whose Upgrade field holds the word "websocket".
    """
    offers = message.headers.get("Upgrade", "").lower().split(",")
    return message.method == "GET" and any(offer.strip() == "websocket" for offer in offers)


@lru_cache(maxsize=256)
def _is_host(text: str) -> bool:
    return _HOST.fullmatch(text) is not None


QUERY_KEYS: Final = frozenset(table.query_credential for table in TABLES.values()) - {""}


def presented_key(headers: Headers) -> str | None:
    """Return the key that a client presents; None without one.

    Clients of all dialects send any form, and those that were set up twice send several: then the
    one that looks like a key of ours is meant.
    """
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    found = [bearer] if bearer else []
    for name in KEY_HEADERS:
        key = headers.get(name)
        if key:
            found.append(key)
    ours = (key for key in found if key.startswith(PREFIX))
    return next(ours, found[0] if found else None)


def query_key(target: str) -> str | None:
    """Return the key that a client presents in its query, None without one. It is never logged."""
    for part in target.partition("?")[2].split("&"):
        name, _, value = part.partition("=")
        if name in QUERY_KEYS and value:
            return unquote(value)
    return None


def spoken_in(headers: Headers, target: str) -> Dialect:
    """Return the dialect of a client whose endpoint does not tell it."""
    for table in TABLES.values():
        if table.versions and target.startswith(table.versions):
            return table.dialect
    for mark, dialect in MARKS.items():
        if mark in headers:
            return dialect
    return DEFAULT_DIALECT


def forwarded_headers(dialect: Dialect, headers: Headers) -> bytes:
    """Return the header lines of the client's that go on to an upstream.

    Raises:
        BadRequest: CLIENT; one of them is malformed.
    """
    return TABLES[dialect].forward(headers.items())


def forwarded_query(endpoint: Endpoint, target: str) -> str:
    """Return what of a request target's query goes on to an upstream, with its question mark."""
    given = target.partition("?")[2].split("&")
    kept = [part for part in TABLES[endpoint.dialect].queries.get(endpoint, ()) if part in given]
    return f"?{'&'.join(kept)}" if kept else ""
