"""HTTP/1.1 heads, written by us in both directions and never passed through.

What crosses is an allow-list, so nothing hop-by-hop, no cookie, no organisation id and no rate
header of an upstream key can: a client gets its content type and our own request id, an upstream
its credential and the body's frame, and each of them what the dialect's table lists.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from relay.model import Channel
from relay.records import Endpoint
from relay.wire.kinds.address import credential, kept_target, own_headers, target

EVENT_STREAM: Final = b"text/event-stream"
JSON: Final = b"application/json"

REASONS: Final[dict[int, bytes]] = {
    200: b"OK",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    402: b"Payment Required",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    409: b"Conflict",
    413: b"Content Too Large",
    414: b"URI Too Long",
    415: b"Unsupported Media Type",
    417: b"Expectation Failed",
    422: b"Unprocessable Content",
    426: b"Upgrade Required",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    529: b"Overloaded",
}

NAMES_MAX: Final = 512
NAME_BYTES_MAX: Final = 64
"""Names of headers that are kept in lower case: the same ones come with every answer."""
RETURNED_BYTES_MAX: Final = 4096
"""Of one header's value."""
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
CLOSE: Final = b"Connection: close\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
UNBUFFERED: Final = b"Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
"""Keeps a stream from being gathered on its way.

Source: nginx documents `X-Accel-Buffering: no` as the switch a proxied server has over response
buffering; SSE behind such a proxy arrives in lumps without it.
"""
FRAME_SIZE_DIGITS_MAX: Final = 6
"""Hex digits of a chunk's size: reads are smaller than 16 MiB."""


def request_head(channel: Channel, endpoint: Endpoint, query: str = "", model: str = "") -> bytes:
    """Return the head of a request to `channel`, up to and including "Content-Length: ".

    What is left to add is the length, CRLF, a content type, what else the call's dialect wants, and
    the empty line. The path is made from the channel's own base URL and the endpoint's name, never
    from what a client sent; `query` is from an allow-list of ours, `model` the catalog's.
    """
    at = target(channel, endpoint, query, model)
    return _head(channel, "POST", at) + b"Content-Length: "


def kept_head(channel: Channel, method: str, path: str) -> bytes:
    """Return the same of a request about what a channel keeps, without any length.

    `path`: below the channel's root, with its query; of wire.state.paths.
    """
    return _head(channel, method, kept_target(channel, path))


def _head(channel: Channel, method: str, at: str) -> bytes:
    url = urlsplit(channel.api_root)
    lines = [
        f"{method} {at} HTTP/1.1",
        f"Host: {url.netloc.rpartition('@')[2]}",
        "User-Agent: relay",
        "Accept: */*",
        # An encoded answer could be neither forwarded as it comes nor metered.
        "Accept-Encoding: identity",
    ]
    lines += [f"{name}: {value}" for name, value in own_headers(channel).items()]
    api_key = channel.api_key.reveal()
    if api_key:
        name, before = credential(channel)
        lines += [f"{name}: {before}{api_key}"] if name else []
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def returned_lines(
    headers: Mapping[bytes, bytes], returned: tuple[tuple[bytes, bytes], ...]
) -> bytes:
    """Return the header lines of an upstream's answer that a client gets.

    Args:
        headers: Of the answer, names in lower case.
        returned: Their names, and what they are called to the client.
    """
    lines = b""
    for name, told in returned:
        value = headers.get(name)
        if value and len(value) <= RETURNED_BYTES_MAX:
            lines += b"%b: %b\r\n" % (told, value)
    return lines


class AnswerDate:
    """The line that says when an answer was made; b"" until the first `renew_date`."""

    __slots__ = ("line",)

    def __init__(self) -> None:
        self.line = b""


_DATE: Final = AnswerDate()


def renew_date(text: str) -> None:
    """Have answers say this time from now on; called once a second, so that no answer formats it.

    Args:
        text: As `Sun, 06 Nov 1994 08:49:37 GMT`.

    Source: RFC 9110, section 6.6.1: an origin server with a clock sends a Date in every answer.
    """
    _DATE.line = b"Date: %b\r\n" % text.encode("ascii")
    answer_head.cache_clear()


def status_line(status: int) -> bytes:
    """Return how an answer to a client begins: its status line and its date."""
    return b"HTTP/1.1 %d %b\r\n%b" % (status, REASONS.get(status, b"Error"), _DATE.line)


@lru_cache(maxsize=64)
def answer_head(content_type: bytes) -> bytes:
    """Return how the head of a 200 begins: status, date and type."""
    return b"%bContent-Type: %b\r\n" % (status_line(200), content_type)


def identity_head(request_id: bytes) -> bytes:
    """Return the request id under both names: OpenAI's clients read one, Anthropic's the other."""
    return b"x-request-id: %b\r\nrequest-id: %b\r\n" % (request_id, request_id)


def frame(payload: bytes) -> bytes:
    """Return `payload` as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


FRAME_OF_EVENTS_END: Final = b"\n\n\r\n"
"""The last bytes of a read whose last chunk ends with an event."""


def _size_line(frame_bytes: int) -> bytes:
    """Return the size line of a chunk of `frame_bytes` in all; b"" where no line makes that."""
    for digits in range(1, FRAME_SIZE_DIGITS_MAX + 1):
        size = frame_bytes - digits - 4
        if size >= 0 and len(b"%x" % size) == digits:
            return b"%x\r\n" % size
    return b""


_SIZE_LINES: Final = [_size_line(frame_bytes) for frame_bytes in range(2048)]
"""What most reads of a stream begin with: comparing costs a third of formatting one."""


def plain_frame(raw: bytes) -> bytes | None:
    """Return the payload of `raw` where that is exactly one chunk, plainly framed; None otherwise.

    Args:
        raw: Bytes off the socket, known to begin between two chunks.
    """
    size = len(raw)
    line = _SIZE_LINES[size] if size < len(_SIZE_LINES) else _size_line(size)
    begin = len(line)
    if not begin or raw[:begin] != line or raw[-2:] != b"\r\n":
        return None
    return raw[begin:-2]


def is_canonical(raw: bytes, parts: list[bytes]) -> bool:
    r"""Tell whether `raw` is exactly the whole, plain chunk frames of `parts`.

    Then `raw` may be passed on as it came. The length alone decides between canonical frames and
    ones with extensions or padding; that `raw` ends in a frame's CRLF while the payload ends in
    LF LF proves that the last frame is whole. Streams with CRLF events are left to be re-framed:
    there payload and frame end alike and prove nothing.

    Args:
        raw: Bytes off the socket, known to begin on a frame boundary.
        parts: The chunk payloads that the parser found in `raw`, in order.
    """
    if not parts or parts[-1][-2:] != b"\n\n" or raw[-2:] != b"\r\n":
        return False
    length = 0
    for part in parts:
        size = len(part)
        length += size + ((size.bit_length() + 3) >> 2) + 4
    return length == len(raw)


_lowered: Final[dict[bytes, bytes]] = {}


def lower_name(name: bytes) -> bytes:
    """Return a header's name in lower case."""
    known = _lowered.get(name)
    if known is None:
        known = name.lower()
        if len(name) <= NAME_BYTES_MAX and len(_lowered) < NAMES_MAX:
            _lowered[name] = known
    return known
