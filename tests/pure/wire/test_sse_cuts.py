"""Events survive any cutting: whole, at chosen cuts, byte by byte, with a rest behind them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import ChannelGarbled
from relay.wire.sse import EventBuffer, event_name, event_payload, split_events

PIECES = st.lists(
    st.sampled_from([b"data: x", b": c", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r", b"id: 1"]),
    max_size=24,
).map(b"".join)
CUTS = st.lists(st.integers(0, 100), max_size=12)


def feed(buffer: EventBuffer, stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [buffer.feed(stream[start:end]) for start, end in itertools.pairwise(edges)]


@settings(max_examples=200)
@given(PIECES, CUTS)
def test_any_cutting_gives_the_same_bytes(stream: bytes, cuts: list[int]) -> None:
    for places in (cuts, [], list(range(len(stream)))):
        buffer = EventBuffer(1000)
        blocks = feed(buffer, stream, places)
        assert all(block.endswith((b"\n\n", b"\n\r\n")) for block in blocks if block)
        assert buffer.held_bytes == len(stream) - sum(map(len, blocks))
        rest = buffer.take()
        assert b"".join(blocks) + rest == stream
        assert b"\n\n" not in rest and b"\n\r\n" not in rest
        assert buffer.held_bytes == 0 and buffer.take() == b""


@settings(max_examples=200)
@given(PIECES)
def test_split_events_loses_nothing_and_ends_each_once(block: bytes) -> None:
    events = split_events(block)
    assert b"".join(events) == block
    for event in events[:-1]:
        assert event.endswith((b"\n\n", b"\n\r\n"))
        assert b"\n\n" not in event[:-1] and b"\n\r\n" not in event[:-1]


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_a_read_of_whole_events_is_passed_on_as_the_same_object(end: bytes) -> None:
    chunk = b"data: 1" + end + b"data: 2" + end
    assert EventBuffer(100).feed(chunk) is chunk


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n", b"\r\n\n"])
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4])
def test_a_boundary_may_be_split_over_reads(end: bytes, cut: int) -> None:
    buffer = EventBuffer(100)
    first, second = b"data: 1" + end[:cut], end[cut:] + b"data: 2"
    assert buffer.feed(first) + buffer.feed(second) == b"data: 1" + end
    assert buffer.take() == b"data: 2"


def test_too_long_an_event_is_refused() -> None:
    buffer = EventBuffer(8)
    assert buffer.feed(b"data: 12") == b""
    with pytest.raises(ChannelGarbled):
        buffer.feed(b"3")


@pytest.mark.parametrize(
    ("event", "payload", "name"),
    [
        (b"data: {}\n\n", b"{}", b""),
        (b"data:{}\r\n\r\n", b"{}", b""),
        (b"data: a\ndata: b\n\n", b"a\nb", b""),
        (b"data:  a\n\n", b" a", b""),
        (b": ping\n\n", b"", b""),
        (b"event: error\ndata: x\n\n", b"x", b"error"),
        (b"data: x\nevent:done\n\n", b"x", b"done"),
        (b"id: 1\nretry: 5\n\n", b"", b""),
        (b"", b"", b""),
    ],
)
def test_fields_of_an_event(event: bytes, payload: bytes, name: bytes) -> None:
    assert event_payload(event) == payload
    assert event_name(event) == name
