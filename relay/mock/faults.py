"""The faults by name: what can be told to go wrong, and how it changes what is said.

    MODE[:ARG][@PROBABILITY]      cut-after:3    status:503@0.2    hang

Some change the answer (here), some the wire (`wire_faults`), and `refuse`, as a fault of the whole
mock, closes its port (`server`).
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from operator import itemgetter
from typing import Final

import msgspec

from relay.mock.answers.answer import Event, MockAnswer
from relay.mock.question import MockQuestion
from relay.mock.rejections import RETRY_AFTER, block, page, reject

REFUSE: Final = "refuse"
MODEL_PREFIX: Final = "fail-"
"""A model of this name asks for the fault after it: `fail-cut-after:3`."""

MODES: Final[dict[str, int | None]] = {
    "refuse": None,
    "hang": None,
    "rst-before-head": None,
    "rst-after-head": None,
    "rst-after": 1,
    "cut-after": 1,
    "stall-after": 1,
    "end-after": 1,
    "error-after": 1,
    "mid-frame": 1,
    "mid-event": 1,
    "bad-chunk": 1,
    "garbage": None,
    "http-09": None,
    "huge-head": 64 * 1024 * 1024,
    "endless-1xx": None,
    "continue-100": None,
    "wrong-length": None,
    "two-lengths": None,
    "extra-bytes": None,
    "gzip": None,
    "status": 500,
    "retry-after": 1,
    "waf": None,
    "error-first": None,
    "empty-stream": None,
    "json-for-sse": None,
    "html-for-sse": None,
    "finish-then-rst": None,
    "no-done": None,
    "long-event": 10_000_000,
    "invalid-utf8": None,
    "split-bytes": None,
}
"""Mode -> its usual argument: events, seconds, bytes or a status. None: takes none."""


class MockFault(msgspec.Struct, frozen=True):
    """One thing that goes wrong. `arg`: 0 for modes without one. `text`: as it was written."""

    mode: str
    arg: int
    probability: float
    text: str


def parse(text: str) -> MockFault:
    """Return the fault that `MODE[:ARG][@PROBABILITY]` names.

    Raises:
        ValueError: Unknown mode, an argument that is no number or not taken, or a probability
            outside 0 to 1.
    """
    named, _, odds = text.partition("@")
    mode, _, given = named.partition(":")
    if mode not in MODES:
        raise ValueError(f"no fault is called {mode!r}; there are: {', '.join(MODES)}")
    usual = MODES[mode]
    if given and usual is None:
        raise ValueError(f"{mode} takes no argument")
    if given and not given.isdecimal():
        raise ValueError(f"the argument of {mode} is a whole number, not {given!r}")
    arg = int(given) if given else usual or 0
    if mode == "status" and not 400 <= arg <= 599:
        raise ValueError(f"status is one from 400 to 599, not {arg}")
    return MockFault(mode, arg, _parse_odds(odds) if odds else 1.0, text)


def choose(faults: Iterable[MockFault], roll: Callable[[], float]) -> MockFault | None:
    """Return the first fault whose dice say so; `roll` gives a number in [0, 1)."""
    for fault in faults:
        if fault.probability >= 1.0 or roll() < fault.probability:
            return fault
    return None


def rephrase(question: MockQuestion, fault: MockFault) -> MockQuestion:
    """Return the question as the faulty upstream takes it."""
    if fault.mode == "json-for-sse":
        return msgspec.structs.replace(question, stream=False)
    return question


def distort(answer: MockAnswer, fault: MockFault) -> MockAnswer:
    """Return `answer` as the faulty upstream gives it; unchanged for faults of the wire."""
    change = _CHANGES.get(fault.mode)
    return answer if change is None else change(answer, fault.arg)


def _parse_odds(text: str) -> float:
    try:
        odds = float(text)
    except ValueError:
        raise ValueError(f"the probability is a number, not {text!r}") from None
    if not 0 <= odds <= 1:
        raise ValueError(f"the probability is from 0 to 1, not {text}")
    return odds


# --- what is said instead ---------------------------------------------------------------------


def _refuse_with(_answer: MockAnswer, status: int) -> MockAnswer:
    return reject(status)


def _ask_to_wait(_answer: MockAnswer, seconds: int) -> MockAnswer:
    return reject(429, headers=RETRY_AFTER % seconds)


def _block(_answer: MockAnswer, _arg: int) -> MockAnswer:
    return block()


def _page_of_html(_answer: MockAnswer, _arg: int) -> MockAnswer:
    return page(200, "Welcome")


def _fail_after(answer: MockAnswer, kept: int) -> MockAnswer:
    """Report an error in the middle of a 200; one body is an error object altogether."""
    before = islice(answer.events, kept) if answer.streamed else ()
    return msgspec.structs.replace(
        answer,
        events=(*before, (answer.error_event, 0)),
        usage_event=b"",
        done_event=b"",
    )


def _fail_first(answer: MockAnswer, _arg: int) -> MockAnswer:
    return _fail_after(answer, 0)


def _say_nothing(answer: MockAnswer, _arg: int) -> MockAnswer:
    return msgspec.structs.replace(answer, events=(), usage_event=b"", done_event=b"")


def _drop_done(answer: MockAnswer, _arg: int) -> MockAnswer:
    return msgspec.structs.replace(answer, done_event=b"")


# --- what is said, damaged --------------------------------------------------------------------


def _lengthen(answer: MockAnswer, size: int) -> MockAnswer:
    """Pad the first event that carries tokens with spaces, which JSON allows: one long line."""
    padding = b" " * size

    def pad(payload: bytes) -> bytes:
        if answer.streamed:
            return payload.replace(b"data: ", b"data: " + padding, 1)
        return padding + payload

    return _touch_first(answer, pad)


def _break_utf8(answer: MockAnswer, _arg: int) -> MockAnswer:
    """Put two bytes that no UTF-8 has into the first string of the first event with tokens."""
    return _touch_first(answer, lambda payload: payload.replace(b':"', b':"\xff\xfe', 1))


def _touch_first(answer: MockAnswer, touch: Callable[[bytes], bytes]) -> MockAnswer:
    def generate() -> Iterator[Event]:
        parts = iter(answer.events)
        for payload, tokens in parts:
            if tokens or not answer.streamed:
                yield touch(payload), tokens
                break
            yield payload, tokens
        yield from parts

    events = generate() if answer.streamed else tuple(generate())
    return msgspec.structs.replace(answer, events=events)


def _compress(answer: MockAnswer, _arg: int) -> MockAnswer:
    """Encode as gzip though nobody asked; a stream is flushed at each event, as nginx does."""
    parts = [*answer.events, (answer.usage_event, 0), (answer.done_event, 0)]

    def generate() -> Iterator[Event]:
        deflate = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
        for payload, tokens in filter(itemgetter(0), parts):
            yield deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH), tokens
        yield deflate.flush(), 0

    return msgspec.structs.replace(
        answer,
        events=tuple(generate()),
        usage_event=b"",
        done_event=b"",
        headers=answer.headers + b"Content-Encoding: gzip\r\n",
    )


_CHANGES: Final[dict[str, Callable[[MockAnswer, int], MockAnswer]]] = {
    "status": _refuse_with,
    "retry-after": _ask_to_wait,
    "waf": _block,
    "html-for-sse": _page_of_html,
    "error-first": _fail_first,
    "error-after": _fail_after,
    "empty-stream": _say_nothing,
    "no-done": _drop_done,
    "long-event": _lengthen,
    "invalid-utf8": _break_utf8,
    "gzip": _compress,
}
