"""Goal: frames are read as RFC 6455 says, however they are cut, and nothing else is taken for one.

Method: the RFC's own examples, the cases of the Autobahn suite by hand, every cut of a talk.
"""

import random

import pytest

from relay.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NOT_UTF8,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_LARGE,
    FrameReader,
    WebSocketError,
    accept_of,
    close_frame,
    frame_of,
    unmask,
)

MASK = b"\x37\xfa\x21\x3d"
MAX = 1 << 20


def read(raw: bytes, bytes_max: int = MAX, *, masked: bool = True) -> list[tuple[int, bytes]]:
    reader = FrameReader(bytes_max, masked=masked)
    return [(message.kind, message.payload) for message in reader.feed(raw)]


def part(opcode: int, payload: bytes, *, final: bool) -> bytes:
    """Return a masked frame that may be part of a message."""
    whole = frame_of(opcode, payload, MASK)
    return whole if final else bytes((whole[0] & 0x7F,)) + whole[1:]


def test_the_examples_of_the_rfc() -> None:
    assert accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    hello = bytes.fromhex("818537fa213d7f9f4d5158")
    assert read(hello) == [(TEXT, b"Hello")] and frame_of(TEXT, b"Hello", MASK) == hello
    plain = bytes.fromhex("810548656c6c6f")
    assert read(plain, masked=False) == [(TEXT, b"Hello")] and frame_of(TEXT, b"Hello") == plain
    parts = bytes.fromhex("010348656c") + bytes.fromhex("80026c6f")
    assert read(parts, masked=False) == [(TEXT, b"Hello")]
    assert read(bytes.fromhex("8905") + b"Hello", masked=False) == [(PING, b"Hello")]
    assert frame_of(BINARY, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert frame_of(BINARY, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


@pytest.mark.parametrize(
    "key", ["", "short", "dGhlIHNhbXBsZSBub25jZQ", "dGhlIHNhbXBsZSBub25jZQ==x"]
)
def test_a_key_that_is_none_is_answered_with_nothing(key: str) -> None:
    assert accept_of(key) is None


@pytest.mark.parametrize("size", [0, 1, 3, 125, 126, 127, 65535, 65536, 200_001])
def test_messages_of_every_length_come_back(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    assert read(frame_of(BINARY, payload, MASK)) == [(BINARY, payload)]
    assert unmask(unmask(payload, MASK, 5), MASK, 5) == payload


def test_a_conversation_is_read_alike_however_it_is_cut() -> None:
    raw = (
        frame_of(TEXT, "grüße".encode(), MASK)
        + part(TEXT, b"one ", final=False)
        + frame_of(PING, b"are you there", MASK)
        + part(CONTINUATION, b"two ", final=False)
        + frame_of(PONG, b"", MASK)
        + part(CONTINUATION, b"three", final=True)
        + frame_of(BINARY, bytes(300), MASK)
        + close_frame(1000, "bye", MASK)
    )
    whole = read(raw)
    assert [kind for kind, _ in whole] == [TEXT, PING, PONG, TEXT, BINARY, CLOSE]
    assert whole[3] == (TEXT, b"one two three") and whole[-1] == (CLOSE, b"\x03\xe8bye")
    for cut in range(len(raw) + 1):
        reader = FrameReader(MAX, masked=True)
        found = reader.feed(raw[:cut]) + reader.feed(raw[cut:])
        assert [(m.kind, m.payload) for m in found] == whole
    reader = FrameReader(MAX, masked=True)
    found = [m for n in range(len(raw)) for m in reader.feed(raw[n : n + 1])]
    assert [(m.kind, m.payload) for m in found] == whole and reader.held_bytes == 0


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_message_that_is_too_large_is_told_once_and_passed_over(cut: int) -> None:
    raw = (
        frame_of(TEXT, b"x" * 5000, MASK)
        + part(TEXT, b"y" * 60, final=False)
        + part(CONTINUATION, b"y" * 60, final=False)
        + frame_of(PING, b"p", MASK)
        + part(CONTINUATION, b"y" * 60, final=True)
        + frame_of(TEXT, b"small", MASK)
    )
    reader = FrameReader(100, masked=True)
    found = []
    for at in range(0, len(raw), cut):
        found += reader.feed(raw[at : at + cut])
        assert reader.held_bytes <= 100
    assert [(m.kind, m.payload) for m in found] == [
        (TOO_LARGE, b""),
        (TOO_LARGE, b""),
        (PING, b"p"),
        (TEXT, b"small"),
    ]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\xc1\x80" + MASK, PROTOCOL_ERROR),  # a reserved bit
        (b"\x83\x80" + MASK, PROTOCOL_ERROR),  # an opcode for data that is none
        (b"\x8b\x80" + MASK, PROTOCOL_ERROR),  # one for control
        (b"\x81\x05Hello", PROTOCOL_ERROR),  # not masked
        (b"\x09\x80" + MASK, PROTOCOL_ERROR),  # a ping in parts
        (b"\x89\xfe\x00\x7e" + MASK, PROTOCOL_ERROR),  # a long ping
        (b"\x80\x80" + MASK, PROTOCOL_ERROR),  # nothing to continue
        (part(TEXT, b"a", final=False) + frame_of(TEXT, b"b", MASK), PROTOCOL_ERROR),
        (b"\x81\xff" + b"\x80" + bytes(7) + MASK, PROTOCOL_ERROR),  # a length below zero
        (frame_of(TEXT, b"\xff\xfe", MASK), NOT_UTF8),
        (frame_of(CLOSE, b"\x03", MASK), PROTOCOL_ERROR),
        (close_frame(1005, "", MASK), PROTOCOL_ERROR),
        (close_frame(999, "", MASK), PROTOCOL_ERROR),
        (frame_of(CLOSE, b"\x03\xe8\xff", MASK), NOT_UTF8),
    ],
)
def test_what_breaks_the_rules_is_refused(raw: bytes, code: int) -> None:
    with pytest.raises(WebSocketError) as refused:
        read(raw)
    assert refused.value.code == code


def test_binary_needs_no_text_and_a_closing_no_reason() -> None:
    assert read(frame_of(BINARY, b"\xff", MASK)) == [(BINARY, b"\xff")]
    (message,) = FrameReader(MAX, masked=True).feed(frame_of(CLOSE, b"", MASK))
    assert message.close_code == 1005
