"""Goal: AWS's frames are put together however they are cut, and no changed byte gets through.

Method: frames made by hand from the specification, the published empty one among them; cut at every
byte and by hypothesis; every single byte of a frame changed.
"""

import base64
import itertools
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.kinds.claude import event_of
from relay.wire.kinds.event_stream import EventStream, Message, StreamGarbled

EMPTY = bytes.fromhex("000000100000000005c248eb7d98c8ff")
"""Source: awslabs/aws-c-event-stream, its test of the empty message."""


def frame(payload: bytes, **headers: str) -> bytes:
    """Return a frame with text headers; `_` in a name stands for what names of AWS's begin with."""
    raw = b""
    for name, value in headers.items():
        named = f":{name.replace('_', '-')}".encode()
        raw += (
            bytes([len(named)]) + named + b"\x07" + len(value).to_bytes(2, "big") + value.encode()
        )
    prelude = (16 + len(raw) + len(payload)).to_bytes(4, "big") + len(raw).to_bytes(4, "big")
    whole = prelude + zlib.crc32(prelude).to_bytes(4, "big") + raw + payload
    return whole + zlib.crc32(whole).to_bytes(4, "big")


def chunk(event: dict[str, object]) -> bytes:
    """Return an event of Anthropic's as Bedrock frames it."""
    said = {"bytes": base64.b64encode(json.dumps(event).encode()).decode(), "p": "abcd"}
    return frame(json.dumps(said).encode(), event_type="chunk", message_type="event")


def test_the_published_empty_message_is_one() -> None:
    assert frame(b"") == EMPTY
    assert EventStream().feed(EMPTY) == [Message({}, b"")]


def test_headers_of_every_type_are_passed_over() -> None:
    kinds = [
        b"\x01a\x00",
        b"\x01b\x02\x07",
        b"\x01c\x04\x00\x00\x00\x07",
        b"\x01d\x06\x00\x02xy",
        b"\x01e\x08" + bytes(8),
        b"\x01f\x09" + bytes(16),
        b"\x01g\x07\x00\x02hi",
    ]
    raw = b"".join(kinds)
    prelude = (16 + len(raw)).to_bytes(4, "big") + len(raw).to_bytes(4, "big")
    whole = prelude + zlib.crc32(prelude).to_bytes(4, "big") + raw
    whole += zlib.crc32(whole).to_bytes(4, "big")
    assert EventStream().feed(whole) == [Message({"g": "hi"}, b"")]


@given(
    st.lists(st.binary(max_size=40), max_size=4),
    st.lists(st.integers(0, 300), max_size=6),
)
def test_frames_are_the_same_however_they_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(frame(payload, event_type="chunk") for payload in payloads)
    stream = EventStream()
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    found = [
        message for at, end in itertools.pairwise(edges) for message in stream.feed(raw[at:end])
    ]
    assert [message.payload for message in found] == payloads
    assert stream.held_bytes == 0


def test_no_changed_byte_gets_through() -> None:
    raw = chunk({"type": "ping"})
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 0x10
        with pytest.raises(StreamGarbled):
            EventStream().feed(bytes(changed) + EMPTY * 4)


def test_a_length_that_cannot_be_is_refused() -> None:
    for total, headers in ((15, 0), (16, 1), (2**31, 0)):
        prelude = total.to_bytes(4, "big") + headers.to_bytes(4, "big")
        with pytest.raises(StreamGarbled):
            EventStream().feed(prelude + zlib.crc32(prelude).to_bytes(4, "big"))


def test_a_chunk_is_the_event_that_anthropic_would_have_sent() -> None:
    event = {"type": "content_block_delta", "index": 0}
    (message,) = EventStream().feed(chunk(event))
    assert event_of(message) == (
        b"event: content_block_delta\ndata: " + json.dumps(event).encode() + b"\n\n"
    )
    (other,) = EventStream().feed(frame(b"{}", event_type="later", message_type="event"))
    assert event_of(other) == b""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", "rate_limit_error"),
        ("serviceUnavailableException", "overloaded_error"),
        ("modelStreamErrorException", "api_error"),
    ],
)
def test_an_exception_is_an_error_event(name: str, kind: str) -> None:
    raw = frame(b'{"message":"Too busy."}', exception_type=name, message_type="exception")
    (message,) = EventStream().feed(raw)
    event, data = event_of(message).decode().rstrip().split("\n")
    assert event == "event: error"
    error = json.loads(data.removeprefix("data: "))["error"]
    assert error == {"type": kind, "message": "Too busy."}


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b'{"bytes":"!"}', b'{"bytes":"e30="}', b'{"bytes":"eyJ0eXBlIjoiYVxuYiJ9"}'],
)
def test_a_chunk_without_an_event_is_no_chunk(payload: bytes) -> None:
    (message,) = EventStream().feed(frame(payload, event_type="chunk", message_type="event"))
    with pytest.raises(StreamGarbled):
        event_of(message)
