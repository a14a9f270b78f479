"""Requests that a pressed worker sends away unparsed: the cheapest no that still says why.

To parse a head, begin a call, settle it and format its error costs a good part of what a short call
does. While pressed, the first request of a connection is looked at as bytes: whose key it shows
decides its class, and if its turn is to be sent away it gets a prepared 503 of its dialect, behind
which the connection ends. What is not plainly such a request takes the usual way, where the same
rule is asked. So does who shows no key that is known: 401 comes first. Nothing of it is logged, and
the answers of one beat have one id: there is no row that it would name.
"""

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from relay.clock import dice, wall_ns
from relay.edge.answers import error_answer
from relay.edge.ids import RequestIds
from relay.edge.routes import find_route
from relay.errors import RelayError, forget_frames
from relay.model import Dialect
from relay.records import Endpoint
from relay.wire.dialects.known import KEY_HEADERS

_METHOD: Final = b"POST "
_HEAD_END: Final = b"\r\n\r\n"
_BEARER: Final = b"\r\nauthorization: bearer "
_LENGTH: Final = b"\r\ncontent-length:"
_KEYS: Final = (_BEARER, *(f"\r\n{name.lower()}: ".encode() for name in KEY_HEADERS))
_LEFT: Final = (b"\r\nupgrade:", b"\r\nx-relay-line:", b"\r\norigin:")
"""What asks for more than a call, names a line, or needs an answer with lines of its own."""


class RawRequest(NamedTuple):
    """What bytes say at first sight. `whole`: its body has come with its head."""

    key: str
    dialect: Dialect
    whole: bool


def look_at(read: bytes) -> RawRequest | None:
    """Return what a read says that brings a whole head of a plain call; None where it is not."""
    end = read.find(_HEAD_END)
    if end < 0 or not read.startswith(_METHOD):
        return None
    head = read[: end + 2].lower()
    if any(mark in head for mark in _LEFT):
        return None
    key = next((found for name in _KEYS if (found := _value(read, head, name))), "")
    if not key:
        return None
    dialect = _dialect_of(read)
    if dialect is None:
        return None
    length = _value(read, head, _LENGTH)
    whole = length.isdecimal() and len(read) - end - len(_HEAD_END) >= int(length)
    return RawRequest(key, dialect, whole)


def _value(read: bytes, head: bytes, name: bytes) -> str:
    at = head.find(name)
    if at < 0:
        return ""
    return read[at + len(name) : head.find(b"\r", at + len(name))].decode("latin-1").strip()


def _dialect_of(read: bytes) -> Dialect | None:
    """Return the dialect of the call that a head asks for; None where it is no such call."""
    target = read[len(_METHOD) : read.find(b" ", len(_METHOD))].decode("latin-1")
    try:
        found, _ = find_route("POST", target)
    except RelayError as error:
        forget_frames(error)
        return None
    return found.dialect if isinstance(found, Endpoint) and found is not Endpoint.FILE else None


class Refusals:
    """Prepared answers, one a dialect, made anew for each beat.

    `error`: makes what they tell.
    """

    def __init__(self, error: Callable[[], RelayError]) -> None:
        self._error = error
        self._ids = RequestIds(random.getrandbits(74))
        self._made: dict[Dialect, bytes] = {}

    def renew(self) -> None:
        """Make them anew when they are next wanted."""
        self._made.clear()

    def answer(self, dialect: Dialect) -> bytes:
        """Return the whole answer, which ends its connection."""
        made = self._made.get(dialect)
        if made is None:
            name = f"req_{self._ids.next(wall_ns() // 1000).hex()}"
            made = error_answer(self._error(), name, dice(), closing=True, dialect=dialect)
            self._made[dialect] = made
        return made
