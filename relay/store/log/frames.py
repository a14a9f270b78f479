"""The bytes of a journal segment, and their reader: a pure function from bytes to records.

    segment = MAGIC, frame, frame, ...
    frame   = payload length u32 | crc32 of the payload u32 | payload      (little-endian)
    payload = one record of relay.records in msgpack, 1 to PAYLOAD_BYTES_MAX bytes

A crash can leave a torn tail, a bad disk a flipped bit: the reader stops at the first frame that is
not whole. It never looks for a later one, because a guess there could be taken for money.
"""

import dataclasses
import enum
import struct
from collections.abc import Iterable
from typing import Final
from zlib import crc32

import msgspec

from relay.records import CallCheckpoint, CallEnd, CallStart

Record = CallStart | CallEnd | CallCheckpoint

MAGIC: Final = b"relayj\x00\x01"
"""Opens every segment; the last byte is the version of the layout."""
PAYLOAD_BYTES_MAX: Final = 64 * 1024
"""A record is ids, integers and names: some 200 bytes. A longer length is a broken one."""
_PREFIX: Final = struct.Struct("<II")
FRAME_BYTES_MAX: Final = _PREFIX.size + PAYLOAD_BYTES_MAX

_decode = msgspec.msgpack.Decoder(Record).decode


class Stop(enum.Enum):
    """Why a reading ended where it did."""

    END = "end"
    """Every byte was read."""
    TORN = "torn"
    """What follows is no whole frame: more may come, or it was lost."""
    FOREIGN = "foreign"
    """What follows is intact and not understood: a newer relay wrote it. Never to be dropped."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a piece of a segment held; `offset` is the end of its last good frame."""

    records: list[Record]
    offset: int
    stop: Stop


def join_frames(payloads: Iterable[bytes]) -> bytes:
    """Return the frames of encoded records, ready to be appended to a segment."""
    parts: list[bytes] = []
    for payload in payloads:
        parts.append(_PREFIX.pack(len(payload), crc32(payload)))
        parts.append(payload)
    return b"".join(parts)


def read_magic(chunk: bytes) -> Stop:
    """Return END where `chunk` opens as a segment of this layout does, else what it looks like."""
    if chunk.startswith(MAGIC):
        return Stop.END
    same_family = len(chunk) >= len(MAGIC) and chunk.startswith(MAGIC[:-1])
    return Stop.FOREIGN if same_family else Stop.TORN


def read_records(chunk: bytes, offset: int = 0) -> Reading:
    """Return the records of the whole frames in `chunk` from `offset` on.

    Args:
        chunk: Bytes of a segment; any length, cut anywhere.
        offset: Where in `chunk` a frame begins.

    Returns:
        The records in order, and the offset in `chunk` from which to read on.
    """
    view = memoryview(chunk)
    records: list[Record] = []
    while offset < len(chunk):
        payload = _find_payload(view, offset)
        if payload is None:
            return Reading(records, offset, Stop.TORN)
        try:
            records.append(_decode(payload))
        except msgspec.DecodeError:
            return Reading(records, offset, Stop.FOREIGN)
        offset += _PREFIX.size + len(payload)
    return Reading(records, offset, Stop.END)


def _find_payload(view: memoryview, offset: int) -> memoryview | None:
    first = offset + _PREFIX.size
    if first > len(view):
        return None
    length, checksum = _PREFIX.unpack_from(view, offset)
    payload = view[first : first + length]
    # The crc of nothing is 0: without the lower bound a hole of zeros would read as frames.
    if not 0 < length <= PAYLOAD_BYTES_MAX or len(payload) < length or crc32(payload) != checksum:
        return None
    return payload
