"""Goal: a journal that is cut or damaged anywhere loses its tail, and never yields a wrong record.

Method: hypothesis makes records; their segment is read whole, byte by byte and with trailing bytes,
cut at every byte, and with every byte flipped. The records that were written are the oracle.
"""

import struct
import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.records import CallCheckpoint, CallEnd, CallStart
from relay.store.log.frames import (
    FRAME_BYTES_MAX,
    MAGIC,
    PAYLOAD_BYTES_MAX,
    Record,
    Stop,
    join_frames,
    read_magic,
    read_records,
)

ids = st.binary(min_size=16, max_size=16)
words = st.text(max_size=12)
counts = st.integers(0, 2**53)
flags = st.booleans()

starts = st.builds(
    CallStart, ids, counts, counts, counts, words, words, words, counts, flags, counts
)
checkpoints = st.builds(CallCheckpoint, ids, counts, counts)
ends = st.builds(
    CallEnd,
    *(ids, counts, counts, counts, words, words, words, counts, flags, counts, words, counts),
    *(words, counts, counts, counts, counts, counts, flags, counts, counts, counts, counts),
    *(counts, counts, counts, words),
)
journals = st.lists(st.one_of(starts, checkpoints, ends), max_size=6)


def frames(records: list[Record]) -> bytes:
    return join_frames(map(msgspec.msgpack.encode, records))


def read_in_pieces(content: bytes, size: int) -> tuple[list[Record], int]:
    """Read as the shipper does: what is not a whole frame yet is looked at again with more."""
    found: list[Record] = []
    offset = 0
    for end in range(size, len(content) + size, size):
        reading = read_records(content[offset:end])
        found += reading.records
        offset += reading.offset
    return found, offset


@given(journals)
def test_reads_back_what_was_written(records: list[Record]) -> None:
    content = frames(records)
    reading = read_records(content)
    assert reading.records == records
    assert reading.offset == len(content)
    assert reading.stop is Stop.END


@given(journals)
@settings(max_examples=50)
def test_reads_the_same_byte_by_byte(records: list[Record]) -> None:
    content = frames(records)
    assert read_in_pieces(content, 1) == (records, len(content))
    assert read_in_pieces(content, 7) == (records, len(content))


@given(journals, st.binary(min_size=1, max_size=40))
def test_trailing_bytes_change_nothing(records: list[Record], trail: bytes) -> None:
    content = frames(records)
    reading = read_records(content + trail)
    assert reading.records == records
    assert reading.offset == len(content)
    assert reading.stop is Stop.TORN


@given(journals)
@settings(max_examples=30)
def test_a_cut_loses_only_the_frame_it_hits(records: list[Record]) -> None:
    content = frames(records)
    ends_at = [len(frames(records[:count])) for count in range(len(records) + 1)]
    for cut in range(len(content)):
        whole = sum(end <= cut for end in ends_at) - 1
        reading = read_records(content[:cut])
        assert reading.records == records[:whole]
        assert reading.offset == ends_at[whole]
        assert reading.stop is (Stop.END if cut == ends_at[whole] else Stop.TORN)


@given(journals, st.integers(1, 255))
@settings(max_examples=30)
def test_a_flip_ends_the_reading_before_it(records: list[Record], flip: int) -> None:
    content = frames(records)
    ends_at = [len(frames(records[:count])) for count in range(len(records) + 1)]
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= flip
        whole = sum(end <= place for end in ends_at) - 1
        reading = read_records(bytes(damaged))
        assert reading.records == records[:whole]
        assert reading.offset == ends_at[whole]
        assert reading.stop is Stop.TORN


@given(st.binary(max_size=200), st.integers(0, 200))
def test_noise_is_never_a_record(noise: bytes, offset: int) -> None:
    reading = read_records(noise, offset)
    assert reading.records == []
    assert reading.offset == offset


@pytest.mark.parametrize("hole", [8, 9, 4096])
def test_a_hole_of_zeros_is_torn(hole: int) -> None:
    # The crc of no bytes is zero, so eight zeros would be a good frame of nothing.
    assert read_records(bytes(hole)).stop is Stop.TORN


def test_an_impossible_length_is_torn() -> None:
    payload = bytes(PAYLOAD_BYTES_MAX + 1)
    frame = struct.pack("<II", len(payload), zlib.crc32(payload)) + payload
    assert len(frame) > FRAME_BYTES_MAX
    assert read_records(frame).stop is Stop.TORN


@pytest.mark.parametrize("payload", [[9, "from a newer relay"], [2, "an end of another shape"], 5])
def test_an_intact_frame_that_is_not_understood_is_foreign(payload: object) -> None:
    known = CallCheckpoint(bytes(16), 7, 5)
    content = frames([known])
    reading = read_records(content + join_frames([msgspec.msgpack.encode(payload)]))
    assert reading.records == [known]
    assert reading.offset == len(content)
    assert reading.stop is Stop.FOREIGN


def test_a_newer_relay_may_append_fields() -> None:
    # array_like structs ignore what follows the fields they know: a rolled-back shipper reads on.
    known = CallCheckpoint(bytes(16), 7, 5)
    newer = [3, *msgspec.structs.astuple(known), "a field of tomorrow"]
    reading = read_records(join_frames([msgspec.msgpack.encode(newer)]))
    assert reading.records == [known]


def test_an_older_relay_wrote_fewer_fields() -> None:
    reading = read_records(join_frames([msgspec.msgpack.encode([3, bytes(16), 7, 5])]))
    assert reading.records == [CallCheckpoint(bytes(16), 7, 5)]


def test_the_magic_tells_versions_apart() -> None:
    assert read_magic(MAGIC + b"...") is Stop.END
    assert read_magic(MAGIC[:-1] + b"\x02") is Stop.FOREIGN
    assert read_magic(MAGIC[:-1]) is Stop.TORN
    assert read_magic(b"") is Stop.TORN
    assert read_magic(bytes(64)) is Stop.TORN
