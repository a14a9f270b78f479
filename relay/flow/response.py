"""The client's side of one answer: its head, its framing, what was already said.

One answer is either a stream of events or a plain body; the head goes out once, with the first
bytes, in the same write. For an HTTP/1.0 client there are no chunks: the end of the body is the end
of the connection.
"""

from binascii import hexlify
from typing import Final

from relay.flow.ports import Client
from relay.wire.http import (
    CHUNKED,
    CLOSE,
    EVENT_STREAM,
    LAST_CHUNK,
    UNBUFFERED,
    answer_head,
    frame,
    identity_head,
)

UNTYPED: Final = b"application/octet-stream"


class Response:
    """Writes one answer to one client, whatever number of channels it comes from.

    `write` is the transport's own and `frame` what makes a block of events ready for it: the pump
    calls both directly for each read of a running stream.

    Source: docs/streams.md, "Comments and keep-alive".
    """

    # What every answer begins with stands here and not in __init__.
    _sized = False
    spoke_s = 0.0
    """When the watch last saw the client being sent something; 0.0 = not yet."""
    opened = False
    """The 200 is out, be it only with a comment: failures must be told in band from now on."""
    returned = b""
    """Header lines of the upstream whose answer it is."""
    comments_safe = True
    """False once the stream sent an `id:` line: openai's Python client then takes every blank line
    for an empty event and fails on it."""

    def __init__(self, client: Client, request_id: bytes, notes: bytes = b"") -> None:
        self._client = client
        self._request_id = request_id
        self._notes = notes
        self.write = client.write
        self.chunks = client.takes_chunks
        self.frame = frame if self.chunks else _unframed

    def close(self) -> None:
        """Write nothing more: the transport is gone, and would raise."""
        self.write = swallow

    def note(self, lines: bytes) -> None:
        """Add header lines to a head that is not out."""
        self._notes += lines

    def send_events(self, block: bytes, *, last: bool = False) -> None:
        """Send whole events, b"" for none; `last` ends the stream."""
        data = b"" if self.opened else self._open_stream()
        end = LAST_CHUNK if last and self.chunks else b""
        if block and self.chunks:
            # One copy of the block, however much of it there is.
            data = b"".join((data, b"%x\r\n" % len(block), block, b"\r\n", end))
        else:
            data += block + end
        if data:
            self.write(data)

    def send_comment(self, comment: bytes) -> None:
        """Keep the way to the client alive while the upstream is silent."""
        if self.comments_safe:
            self.send_events(comment)

    def send_whole(self, content_type: bytes, body: bytes) -> None:
        """Send a plain body in one piece: most answers, so head and body are joined once."""
        self.opened = True
        name = hexlify(self._request_id)
        self.write(
            b"%bx-request-id: req_%b\r\nrequest-id: req_%b\r\n"
            b"%b%bContent-Length: %d\r\n%b\r\n%b"
            % (
                answer_head(content_type or UNTYPED),
                name,
                name,
                self._notes,
                self.returned,
                len(body),
                b"" if self._client.keeps_alive else CLOSE,
                body,
            )
        )

    def begin_body(self, content_type: bytes, length: int | None, payload: bytes) -> None:
        """Begin a plain body of `length` bytes (None: unknown) with its first bytes."""
        self._sized = length is not None
        self.write(self._open_body(content_type, length) + self._framed(payload))

    def send_body(self, payload: bytes, *, last: bool) -> None:
        """Go on with a plain body; `last` ends it."""
        data = self._framed(payload) if payload else b""
        if last and self.chunks and not self._sized:
            data += LAST_CHUNK
        if data:
            self.write(data)

    def _framed(self, payload: bytes) -> bytes:
        return payload if self._sized else self.frame(payload)

    def _open_stream(self) -> bytes:
        return self._open(EVENT_STREAM, CHUNKED if self.chunks else b"", streamed=True)

    def _open_body(self, content_type: bytes, length: int | None) -> bytes:
        if length is not None:
            return self._open(content_type, b"Content-Length: %d\r\n" % length)
        return self._open(content_type, CHUNKED if self.chunks else b"")

    def _open(self, content_type: bytes, framing: bytes, *, streamed: bool = False) -> bytes:
        self.opened = True
        if not framing:
            self._client.keeps_alive = False
        closing = b"" if self._client.keeps_alive else CLOSE
        head = answer_head(content_type or UNTYPED)
        if streamed:
            head += UNBUFFERED
        identity = identity_head(b"req_" + hexlify(self._request_id))
        head += identity + self._notes + self.returned
        return head + framing + closing + b"\r\n"


def swallow(data: bytes) -> None:
    """Take bytes for a client that is gone."""


def _unframed(payload: bytes) -> bytes:
    """Return the payload as it is."""
    return payload
