"""The event buffer gives whole events only and loses no byte, however its input is cut."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import ChannelGarbled
from relay.wire.sse import (
    EventBuffer,
    close_event,
    count_events,
    count_line_events,
    event_name,
    event_payload,
    event_start,
    split_events,
)

lines = st.text(alphabet='ab:{}" é', max_size=8).map(lambda text: text.encode() or b"x")
ends = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def events(draw: st.DrawFn) -> bytes:
    end = draw(ends)
    body = draw(st.lists(lines, min_size=1, max_size=3))
    return end.join(body) + end + end


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    body = b"".join(draw(st.lists(events(), max_size=6))) + draw(
        st.sampled_from([b"", b"tail", b"\r"])
    )
    cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=8)))
    return body, [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


@given(cut_streams())
def test_cut_anywhere_it_gives_the_same(stream: tuple[bytes, list[bytes]]) -> None:
    body, chunks = stream
    buffer = EventBuffer(1000)
    given_back, received = b"", 0
    for chunk in chunks:
        block = buffer.feed(chunk)
        assert not block or block.endswith((b"\n\n", b"\n\r\n"))
        given_back += block
        received += len(chunk)
        assert len(given_back) + buffer.held_bytes == received
    whole = EventBuffer(1000).feed(body)
    assert given_back == whole
    assert given_back + buffer.take() == body
    assert buffer.held_bytes == 0


@given(cut_streams())
def test_byte_by_byte(stream: tuple[bytes, list[bytes]]) -> None:
    body, _ = stream
    buffer = EventBuffer(1000)
    assert b"".join(buffer.feed(bytes([byte])) for byte in body) == EventBuffer(1000).feed(body)


def test_a_chunk_of_whole_events_comes_back_as_the_same_object() -> None:
    for chunk in (b"data: 1\n\ndata: 2\n\n", b"data: 1\r\n\r\n"):
        assert EventBuffer(100).feed(chunk) is chunk


def test_an_endless_event_is_refused() -> None:
    buffer = EventBuffer(100)
    buffer.feed(b"x" * 100)
    with pytest.raises(ChannelGarbled):
        buffer.feed(b"x")


def test_a_long_event_costs_no_more_than_its_length() -> None:
    buffer = EventBuffer(1 << 24)
    piece = b"x" * 65_536
    for _ in range(200):
        assert buffer.feed(piece) == b""
    assert len(buffer.feed(b"\n\n")) == 200 * 65_536 + 2


@given(st.lists(events(), max_size=5), st.sampled_from([b"", b"data: cut"]))
def test_split_events_loses_nothing(parts: list[bytes], rest: bytes) -> None:
    block = b"".join(parts) + rest
    found = split_events(block)
    assert b"".join(found) == block
    assert len(found) == len(parts) + bool(rest)


@given(cut_streams())
def test_a_count_by_chunks_is_right_or_left_to_another(stream: tuple[bytes, list[bytes]]) -> None:
    body, chunks = stream
    counted = count_line_events(chunks)
    if counted:
        whole = EventBuffer(1000).feed(body)
        assert counted == len(split_events(whole)) == count_events(whole)


@pytest.mark.parametrize(
    ("chunks", "events"),
    [
        ([b"data: 1\n\n", b"data: 2\n\n"], 2),
        ([b"ta: 1\n\n", b"data: 2\n\n", b"dat"], 2),
        ([b"data", b": 1", b"\n\n", b": ping\n\n"], 2),
        ([b"data: 1", b"23"], 0),
        ([b"event: a\ndata: 1\n\n", b"data: 2\n\n"], 0),
        ([b"data: 1\n\ndata: 2\n\n", b"data: 3\n\n"], 0),
        ([b"data: 1\n", b"\n", b"data: 2\n\n"], 0),
        ([b"data: 1\r\n\r\n", b"data: 2\r\n\r\n"], 0),
        ([b"\n", b"data: 2\n\n"], 0),
        ([b"a\nb", b"data: 2\n\n"], 0),
    ],
)
def test_chunks_of_one_line_each_are_counted_by_their_ends(
    chunks: list[bytes], events: int
) -> None:
    assert count_line_events(chunks) == events


@given(st.lists(events(), max_size=6), st.integers(0, 200))
def test_an_event_starts_behind_the_one_before(parts: list[bytes], place: int) -> None:
    block = b"".join(parts)
    at = min(place, len(block))
    start, end = 0, 0
    for part in parts:
        start, end = end, end + len(part)
        if end >= at:
            break
    # On a boundary, or within the line ends of one, either of two events may be meant.
    if at < len(block) and block[at : at + 1] not in b"\r\n" and block[at - 1 : at] not in b"\r\n":
        assert event_start(block, at) == start


@pytest.mark.parametrize(
    ("event", "payload", "name"),
    [
        (b"data: {}\n\n", b"{}", b""),
        (b"data:{}\r\n\r\n", b"{}", b""),
        (b"event: ping\ndata: a\ndata: b\n\n", b"a\nb", b"ping"),
        (b": comment\n\n", b"", b""),
        (b"event:x\n\n", b"", b"x"),
        (b"data:  two\n\n", b" two", b""),
        (b"", b"", b""),
    ],
)
def test_fields(event: bytes, payload: bytes, name: bytes) -> None:
    assert event_payload(event) == payload
    assert event_name(event) == name


line = st.sampled_from(
    [*(b"event: a", b"data: {}", b"data:x", b"data: x\r", b"event:", b": c", b"id: 1", b""), b"\r"]
)


@given(st.lists(line, max_size=5), st.sampled_from([b"", b"\n", b"\n\n", b"\r\n\r\n", b"\n\n\n"]))
def test_shortcuts_give_what_the_long_way_gives(said: list[bytes], end: bytes) -> None:
    block = b"\n".join(said) + end
    events, at = [], 0
    for found in re.finditer(rb"\n\r?\n", block):
        events.append(block[at : found.end()])
        at = found.end()
    assert split_events(block) == events + ([block[at:]] if at < len(block) else [])
    if block.startswith(b"event: "):
        lines = [one.removesuffix(b"\r") for one in block.split(b"\n")]
        told = [one[5:].removeprefix(b" ") for one in lines if one.startswith(b"data:")]
        assert event_payload(block) == b"\n".join(told)


def repr_start(part: bytes) -> str:
    return repr(part[:40])


@pytest.mark.parametrize(
    ("rest", "closed"),
    [
        (b"", b""),
        (b"\r\n", b""),
        (b'data: {"a": 1}', b'data: {"a": 1}\n\n'),
        (b'data: {"a": 1}\n', b'data: {"a": 1}\n\n'),
        (b'data: {"a": 1}\r\n', b'data: {"a": 1}\r\n\n'),
        (b'data: {"a": 1}\r', b'data: {"a": 1}\r\n\n'),
        (b'event: x\ndata: {"a":\ndata: 1}', b'event: x\ndata: {"a":\ndata: 1}\n\n'),
        (b'data: {"a": 1}\nid: 7\n', b'data: {"a": 1}\nid: 7\n\n'),
        # Half of something, or maybe so:
        (b'data: {"a": 1', b""),
        (b'data: {"a": 1}\ndata: {"b"', b""),
        (b'data: {"a": 1}\nid: 7', b""),
        (b"event: response.completed\n", b""),
        (b"data: 12", b""),
        (b"data: [DONE]\n", b""),
        (b"data: [DO", b""),
        (b": ping", b""),
        (b'data: {"a": "\xff', b""),
        (b'data: {"a": "\xff"}', b""),
        (b"data: " + b'{"a":' * 100_000, b""),
    ],
    ids=repr_start,
)
def test_a_last_event_is_closed_only_where_it_is_whole(rest: bytes, closed: bytes) -> None:
    assert close_event(rest) == closed
