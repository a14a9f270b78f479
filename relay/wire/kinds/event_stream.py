"""AWS event streams: frames in, messages out, every checksum looked at.

    u32 total | u32 headers' length | CRC32 of those 8 | headers | payload | CRC32 of all before

Big endian; the CRC is zlib's. Source: AWS, "Amazon Transcribe: event stream encoding"; smithy's
event stream specification.
"""

import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

MESSAGE_BYTES_MAX: Final = 24 * 1024 * 1024
"""AWS allows 16 MiB of payload; headers come on top."""
_PRELUDE: Final = 12
_TAIL: Final = 4
_VALUE_SIZES: Final = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""By type of a header's value; 6 and 7 (bytes, text) say their own length."""


class Message(NamedTuple):
    """One message; of its headers those that are text."""

    headers: dict[str, str]
    payload: bytes


class StreamGarbled(ValueError):
    """What came is no event stream, or was changed on its way."""


class EventStream:
    """Puts messages together out of what comes."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def held_bytes(self) -> int:
        """How much of a message is here whose rest is not."""
        return len(self._held)

    def feed(self, raw: bytes) -> list[Message]:
        """Return the messages that are whole now.

        Raises:
            StreamGarbled: A checksum or a length is wrong; nothing behind it can be trusted.
        """
        self._held += raw
        return list(self._messages())

    def _messages(self) -> Iterator[Message]:
        while len(self._held) >= _PRELUDE:
            total = int.from_bytes(self._held[:4], "big")
            headers = int.from_bytes(self._held[4:8], "big")
            if zlib.crc32(self._held[:8]) != int.from_bytes(self._held[8:12], "big"):
                raise StreamGarbled("the checksum of a prelude is wrong")
            if not _PRELUDE + headers + _TAIL <= total <= MESSAGE_BYTES_MAX:
                raise StreamGarbled("the length of a message is wrong")
            if len(self._held) < total:
                return
            message = bytes(self._held[:total])
            del self._held[:total]
            if zlib.crc32(message[:-_TAIL]) != int.from_bytes(message[-_TAIL:], "big"):
                raise StreamGarbled("the checksum of a message is wrong")
            end = _PRELUDE + headers
            yield Message(_headers(message[_PRELUDE:end]), message[end:-_TAIL])


def _headers(raw: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(raw):
            size = raw[at]
            name = raw[at + 1 : at + 1 + size].decode()
            kind = raw[at + 1 + size]
            at += 2 + size
            if kind in (6, 7):
                size = int.from_bytes(raw[at : at + 2], "big")
                at += 2
                if kind == 7:
                    found[name] = raw[at : at + size].decode()
            else:
                size = _VALUE_SIZES[kind]
            at += size
    except (IndexError, KeyError, UnicodeDecodeError):
        raise StreamGarbled("a header is broken") from None
    if at != len(raw):
        raise StreamGarbled("a header is broken")
    return found
