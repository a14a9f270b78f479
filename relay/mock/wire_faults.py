"""Faults of the wire: what an upstream can do wrong once it knows what to say.

Each is a function from an answer to a plan that breaks HTTP, or the connection, in one known way.
An answer of one body is cut in its middle by every fault that cuts a stream after K events.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from typing import Final, TypeAlias

import msgspec

from relay.mock.answers.answer import MockAnswer
from relay.mock.plan import (
    LAST_CHUNK,
    AnswerPlan,
    End,
    Frame,
    Style,
    chunk,
    chunk_all,
    events,
    join_body,
    lay_out,
    sized_head,
    start_head,
    streamed_head,
)

Bend: TypeAlias = Callable[[MockAnswer, Style, int], AnswerPlan]
"""Answer, style and the fault's argument -> the plan."""

_EARLY_HINTS: Final = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
_GARBAGE: Final = b"\x16\x03\x01\x00" + b"".join(
    [hashlib.blake2b(b"garbage", salt=b"%d" % block).digest() for block in range(4)]
)
"""Begins like a TLS alert: what a plain-text client reads from a TLS port, and worse."""
_SMUGGLED: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
)
"""A whole answer that nobody asked for: on a reused connection the next call would get it."""
_LENGTH_ERROR_BYTES: Final = 1000
_HEAD_LINES: Final = b"x-padding: %b\r\n" % (b"a" * 1000) * 16


# --- before or instead of an answer -----------------------------------------------------------


def _stay_silent(_answer: MockAnswer, _style: Style, _arg: int) -> AnswerPlan:
    return AnswerPlan(head=b"", frames=(), end=End.STALL)


def _reset_before_head(_answer: MockAnswer, _style: Style, _arg: int) -> AnswerPlan:
    return AnswerPlan(head=b"", frames=(), end=End.RESET)


def _reset_after_head(answer: MockAnswer, style: Style, _arg: int) -> AnswerPlan:
    return AnswerPlan(head=_head(answer, style), frames=(), end=End.RESET)


def _send_garbage(_answer: MockAnswer, _style: Style, _arg: int) -> AnswerPlan:
    return AnswerPlan(head=_GARBAGE, frames=(), end=End.CLOSE)


def _send_no_head(answer: MockAnswer, _style: Style, _arg: int) -> AnswerPlan:
    return AnswerPlan(head=b"", frames=events(answer), end=End.CLOSE)


def _send_huge_head(answer: MockAnswer, style: Style, size: int) -> AnswerPlan:
    lines = -(-size // len(_HEAD_LINES))
    return AnswerPlan(
        head=start_head(answer, style),
        frames=repeat((_HEAD_LINES, 0), lines),
        end=End.CLOSE,
        alone=True,
    )


def _send_endless_interims(_answer: MockAnswer, _style: Style, _arg: int) -> AnswerPlan:
    return AnswerPlan(head=b"", frames=repeat((_EARLY_HINTS * 16, 0)), alone=True)


def _send_interim(answer: MockAnswer, style: Style, _arg: int) -> AnswerPlan:
    plan = lay_out(answer, style)
    return msgspec.structs.replace(plan, head=_EARLY_HINTS + plan.head)


# --- cut short --------------------------------------------------------------------------------


def _cut(end: End, answer: MockAnswer, style: Style, kept: int) -> AnswerPlan:
    if not answer.streamed:
        return _halve_body(answer, style, end)
    frames = islice(chunk_all(events(answer)), kept)
    return AnswerPlan(head=_head(answer, style), frames=frames, end=end)


def _end_early(answer: MockAnswer, style: Style, kept: int) -> AnswerPlan:
    """Say by HTTP that all is well, though the events stop in the middle."""
    if not answer.streamed:
        return _halve_body(answer, style, End.CLOSE)

    def generate() -> Iterator[Frame]:
        yield from islice(chunk_all(events(answer)), kept)
        yield LAST_CHUNK, 0

    return AnswerPlan(head=_head(answer, style), frames=generate())


def _cut_inside(
    halve: Callable[[bytes], bytes], answer: MockAnswer, style: Style, kept: int
) -> AnswerPlan:
    if not answer.streamed:
        return _halve_body(answer, style, End.CLOSE)

    def generate() -> Iterator[Frame]:
        parts = events(answer)
        yield from chunk_all(islice(parts, kept))
        for payload, _tokens in islice(parts, 1):
            yield halve(payload), 0

    return AnswerPlan(head=_head(answer, style), frames=generate(), end=End.CLOSE)


def _half_frame(payload: bytes) -> bytes:
    return chunk(payload)[: len(payload) // 2]


def _half_event(payload: bytes) -> bytes:
    return chunk(payload[: len(payload) // 2])


def _halve_body(answer: MockAnswer, style: Style, end: End) -> AnswerPlan:
    body, _tokens = join_body(answer)
    head = sized_head(answer, style, len(body))
    return AnswerPlan(head=head, frames=((body[: len(body) // 2], 0),), end=end)


def _reset_after_finish(answer: MockAnswer, style: Style, _arg: int) -> AnswerPlan:
    """Send the whole turn, its finish reason included, and nothing after it."""
    if not answer.streamed:
        return msgspec.structs.replace(lay_out(answer, style), end=End.RESET)
    return AnswerPlan(head=_head(answer, style), frames=chunk_all(answer.events), end=End.RESET)


# --- framed wrongly ---------------------------------------------------------------------------


def _announce_too_much(answer: MockAnswer, style: Style, _arg: int) -> AnswerPlan:
    body, tokens = join_body(answer)
    head = sized_head(answer, style, len(body) + _LENGTH_ERROR_BYTES)
    return AnswerPlan(head=head, frames=((body, tokens),), end=End.CLOSE)


def _announce_twice(answer: MockAnswer, style: Style, _arg: int) -> AnswerPlan:
    body, tokens = join_body(answer)
    first = b"Content-Length: %d\r\n" % (len(body) - 1)
    head = start_head(answer, style) + first + b"Content-Length: %d\r\n\r\n" % len(body)
    return AnswerPlan(head=head, frames=((body, tokens),))


def _send_extra(answer: MockAnswer, style: Style, _arg: int) -> AnswerPlan:
    plan = lay_out(answer, style)
    return msgspec.structs.replace(plan, frames=chain(plan.frames, ((_SMUGGLED, 0),)))


def _break_chunk(answer: MockAnswer, style: Style, kept: int) -> AnswerPlan:
    def generate() -> Iterator[Frame]:
        yield from islice(chunk_all(events(answer)), kept)
        yield b"zz\r\nno chunk size\r\n", 0

    return AnswerPlan(head=streamed_head(answer, style), frames=generate(), end=End.CLOSE)


def _split_bytes(answer: MockAnswer, style: Style, _arg: int) -> AnswerPlan:
    """Send every byte of head and body as a write, and in a stream as a chunk, of its own."""
    wrap = chunk if answer.streamed else bytes

    def generate() -> Iterator[Frame]:
        for byte in _head(answer, style):
            yield bytes((byte,)), 0
        for payload, tokens in events(answer):
            for byte in payload[:-1]:
                yield wrap(bytes((byte,))), 0
            yield wrap(payload[-1:]), tokens
        if answer.streamed:
            yield LAST_CHUNK, 0

    return AnswerPlan(head=b"", frames=generate(), alone=True)


def _head(answer: MockAnswer, style: Style) -> bytes:
    if answer.streamed:
        return streamed_head(answer, style)
    return sized_head(answer, style, sum([len(payload) for payload, _ in events(answer)]))


_BENDS: Final[dict[str, Bend]] = {
    "hang": _stay_silent,
    "refuse": _reset_before_head,  # of one request: a port cannot be closed for it alone
    "rst-before-head": _reset_before_head,
    "rst-after-head": _reset_after_head,
    "rst-after": partial(_cut, End.RESET),
    "cut-after": partial(_cut, End.CLOSE),
    "stall-after": partial(_cut, End.STALL),
    "end-after": _end_early,
    "mid-frame": partial(_cut_inside, _half_frame),
    "mid-event": partial(_cut_inside, _half_event),
    "finish-then-rst": _reset_after_finish,
    "garbage": _send_garbage,
    "http-09": _send_no_head,
    "huge-head": _send_huge_head,
    "endless-1xx": _send_endless_interims,
    "continue-100": _send_interim,
    "wrong-length": _announce_too_much,
    "two-lengths": _announce_twice,
    "extra-bytes": _send_extra,
    "bad-chunk": _break_chunk,
    "split-bytes": _split_bytes,
}


def bend(mode: str, arg: int, answer: MockAnswer, style: Style) -> AnswerPlan:
    """Return the plan for `answer` under the fault `mode`; an honest one for other modes."""
    plan = _BENDS.get(mode)
    return lay_out(answer, style) if plan is None else plan(answer, style, arg)
