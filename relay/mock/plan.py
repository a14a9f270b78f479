"""How an answer goes onto the wire: a head, frames in order, and what happens after the last one.

Pure: a plan is bytes and an End; the player paces and writes them.
"""

import enum
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, TypeAlias

import msgspec

from relay.mock.answers.answer import Event, MockAnswer
from relay.mock.rejections import reason

LAST_CHUNK: Final = b"0\r\n\r\n"

Frame: TypeAlias = tuple[bytes, int]
"""Bytes for one write, and the completion tokens in them."""


class End(enum.Enum):
    """What follows the last frame."""

    KEEP = "keep"
    """The answer is whole; the connection takes the next request."""
    CLOSE = "close"
    """FIN."""
    RESET = "reset"
    """RST, once what was written has left."""
    STALL = "stall"
    """Nothing, until the client goes."""


class AnswerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to write.

    `head`: leaves together with the first frame. `alone`: each frame is a write of its own and
    follows the last one at once (for frames that are no events).
    """

    head: bytes
    frames: Iterable[Frame]
    end: End = End.KEEP
    alone: bool = False


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer is framed.

    `server`: the mock's name. `chunked`: False for a client of HTTP/1.0, to whom the end of a
    stream is the end of the connection.
    """

    server: str
    chunked: bool = True


def lay_out(answer: MockAnswer, style: Style) -> AnswerPlan:
    """Return the plan of an honest upstream for `answer`.

    The turn's events are a write each; usage, `[DONE]` and the last chunk share one, as they do
    with real servers: a reader must cope with several events in a read.
    """
    if not answer.streamed:
        body = join_body(answer)
        return AnswerPlan(head=sized_head(answer, style, len(body[0])), frames=(body,))
    head = streamed_head(answer, style)
    if not style.chunked:
        return AnswerPlan(head=head, frames=events(answer), end=End.CLOSE)
    tail = b"".join([chunk(payload) for payload, _ in _after(answer)]) + LAST_CHUNK
    return AnswerPlan(head=head, frames=chain(chunk_all(answer.events), ((tail, 0),)))


def streamed_head(answer: MockAnswer, style: Style) -> bytes:
    """Return the head of an answer whose length nobody knows yet."""
    framing = b"Transfer-Encoding: chunked" if style.chunked else b"Connection: close"
    return b"%b%b\r\n\r\n" % (start_head(answer, style), framing)


def sized_head(answer: MockAnswer, style: Style, size: int) -> bytes:
    """Return the head of an answer of `size` bytes."""
    return b"%bContent-Length: %d\r\n\r\n" % (start_head(answer, style), size)


def start_head(answer: MockAnswer, style: Style) -> bytes:
    """Return status line and headers, all but the framing and the empty line.

    It carries what a relay must keep to itself: a cookie, an organisation, an id of its own, the
    rate headers of the upstream's key.
    """
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nServer: %b\r\nopenai-organization: org-mock\r\n"
        b"Set-Cookie: __cf_bm=mock; HttpOnly\r\nx-request-id: req-mock\r\n"
        b"x-ratelimit-remaining-requests: 9999\r\n%b"
    ) % (
        answer.status,
        reason(answer.status).encode(),
        answer.content_type,
        style.server.encode(),
        answer.headers,
    )


def events(answer: MockAnswer) -> Iterator[Event]:
    """Yield all events of an answer, unframed: the turn's, then usage and `[DONE]`."""
    yield from answer.events
    yield from _after(answer)


def join_body(answer: MockAnswer) -> Frame:
    """Return all events of an answer as one body."""
    parts = list(events(answer))
    return b"".join([payload for payload, _ in parts]), sum([tokens for _, tokens in parts])


def chunk(payload: bytes) -> bytes:
    """Return `payload` as one HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def chunk_all(parts: Iterable[Event]) -> Iterator[Frame]:
    """Yield each event as a chunk."""
    for payload, tokens in parts:
        yield chunk(payload), tokens


def _after(answer: MockAnswer) -> Iterator[Event]:
    for payload in (answer.usage_event, answer.done_event):
        if payload:
            yield payload, 0
