"""What the first bytes of a plain call say at first sight: whose it is, and what for.

To parse a head, begin a call, settle it and format its error costs a good part of what a short call
does. In overload the bytes are only searched. What is not plainly a call takes the usual way, where
the same gate is asked.
"""

from typing import Final, NamedTuple

from relay.edge.routes import find_route
from relay.errors import RelayError, forget_frames
from relay.records import Endpoint
from relay.wire.api_keys import PREFIX
from relay.wire.dialects.known import KEY_HEADERS

HEAD_BYTES_MAX: Final = 4_096
"""A longer head takes the usual way."""
_METHOD: Final = b"POST "
_HEAD_END: Final = b"\r\n\r\n"
_VERSION: Final = b" http/1.1\r\n"
_BEARER: Final = b"\r\nauthorization: bearer "
_KEYS: Final = (_BEARER, *(f"\r\n{name.lower()}:".encode() for name in KEY_HEADERS))
_LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
"""As clients write it."""
_LENGTH: Final = b"\r\ncontent-length"
_LENGTH_DIGITS_MAX: Final = 9
_LINE: Final = b"\r\nx-relay-line:"
_CLOSE: Final = b"\r\nconnection: close"
_LEFT: Final = (*(b"\r\nupgrade:", b"\r\norigin:", b"\r\ntransfer-encoding", b"\r\n ", b"\r\n\t"),)
"""What asks for more than a call, needs an answer with lines of its own, or is framed otherwise."""


class Glance(NamedTuple):
    """What was seen. `line`: that it names, "" = none. `closes`: its client asks nothing more."""

    key: str
    line: str
    endpoint: Endpoint
    closes: bool


def split_head(read: bytes) -> tuple[bytes, int] | None:
    """Return the head that a read begins with, and how many bytes are behind its request.

    Without its length: a client's heads are alike but for that. Below 0: more of the request is
    still to come. None: there is no whole head, or no plain length in it.
    """
    end = read.find(_HEAD_END, 0, HEAD_BYTES_MAX)
    for name in _LENGTHS:
        at = read.find(name, 0, end) if end > 0 else -1
        if at > 0:
            at += len(name)
            stop = read.find(b"\r\n", at, at + _LENGTH_DIGITS_MAX + 2)
            digits = read[at:stop]
            if stop < 0 or not digits.isdigit():
                return None
            end += len(_HEAD_END)
            return read[:at] + read[stop:end], len(read) - end - int(digits)
    return None


def glance_at(whole: bytes) -> Glance | None:
    """Return what a head says that is plainly one of a call, see `split_head`; else None."""
    head = whole.lower()
    target_end = whole.find(b" ", len(_METHOD))
    if not whole.startswith(_METHOD) or not head.startswith(_VERSION, target_end):
        return None
    if head.count(b"\n") != head.count(b"\r\n") or head.count(_LENGTH) != 1:
        return None
    if any(mark in head for mark in _LEFT):
        return None
    key = _key_in(whole, head)
    endpoint = _endpoint_of(whole[len(_METHOD) : target_end].partition(b"?")[0])
    if not key or endpoint is None:
        return None
    return Glance(key, _value(whole, head, _LINE), endpoint, _CLOSE in head)


def _key_in(whole: bytes, head: bytes) -> str:
    """Return the key that is meant where several are shown; see edge.client.head."""
    first = ""
    for name in _KEYS:
        key = _value(whole, head, name)
        if key.startswith(PREFIX):
            return key
        first = first or key
    return first


def _value(whole: bytes, head: bytes, name: bytes) -> str:
    at = head.find(name)
    if at < 0:
        return ""
    at += len(name)
    return whole[at : head.find(b"\r", at)].decode("latin-1").strip()


def _endpoint_of(path: bytes) -> Endpoint | None:
    """Return the call that a path stands for; None where it is none, or one of many dialects."""
    try:
        found, _ = find_route("POST", path.decode("latin-1"))
    except RelayError as error:
        forget_frames(error)
        return None
    return found if isinstance(found, Endpoint) and found is not Endpoint.FILE else None
