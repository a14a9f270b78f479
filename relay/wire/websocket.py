"""WebSocket frames: bytes to messages and back, and the opening handshake.

A message is gathered within a bound; one beyond it is told of once, and what still comes of it is
passed over, so that the connection can go on. No extension is agreed to, so no frame is compressed.

Source: RFC 6455, sections 4.2 (handshake), 5 (framing), 7.4 (closing), 8.1 (UTF-8).
"""

import base64
import binascii
import hashlib
from typing import Final

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10
TOO_LARGE: Final = 16
"""Not an opcode: a message is over the bound, and is passed over."""

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED: Final = 1003
NOT_UTF8: Final = 1007
POLICY: Final = 1008
MESSAGE_TOO_BIG: Final = 1009
SERVICE_RESTART: Final = 1012

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FIN: Final = 0x80
_MASKED: Final = 0x80
_RESERVED: Final = 0x70
_CONTROL: Final = 0x08
_CONTROL_BYTES_MAX: Final = 125
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
_KEY_BYTES: Final = 16
_UNMASK_BYTES: Final = 64 * 1024
_SENT_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1015)})


class WebSocketError(Exception):
    """What came is no WebSocket, or breaks its rules. `code`: to close with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Message:
    """What one peer says. `kind`: TEXT, BINARY, CLOSE, PING, PONG, or TOO_LARGE."""

    __slots__ = ("kind", "payload")

    def __init__(self, kind: int, payload: bytes) -> None:
        self.kind = kind
        self.payload = payload

    @property
    def close_code(self) -> int:
        """What a CLOSE says, 1005 where it says nothing."""
        return int.from_bytes(self.payload[:2], "big") if len(self.payload) > 1 else 1005


class FrameReader:
    """Gathers the messages that a peer sends.

    Args:
        bytes_max: Of one message.
        masked: The peer is a client, which masks what it sends; a server does not.
    """

    __slots__ = (
        "_begun",
        "_control",
        "_final",
        "_head",
        "_kind",
        "_left",
        "_mask",
        "_masked",
        "_max",
        "_message",
        "_opcode",
        "_passing",
        "_read",
        "_whole",
        "held_bytes",
    )

    def __init__(self, bytes_max: int, *, masked: bool) -> None:
        self._max = bytes_max
        self._masked = masked
        self._head = b""
        """What has come of a frame's head that is not whole."""
        self._begun = False
        """A head was read, and its payload is not whole."""
        self._final = False
        self._opcode = 0
        self._mask = b""
        self._left = 0
        self._read = 0
        self._kind = 0
        """Of the message that is being gathered; 0 = none is."""
        self._message = bytearray()
        """What has come of it: in one piece, for frames of two bytes are twenty times as many."""
        self._whole: bytes | None = None
        """All of it, where one read brought it."""
        self._control = b""
        """What has come of a control frame, which may stand in the middle of a message."""
        self._passing = False
        self.held_bytes = 0
        """What is kept of a message that is not whole."""

    @property
    def owed_bytes(self) -> int:
        """What is still to come of the frame that has begun."""
        return self._left if self._begun else 0

    def feed(self, chunk: bytes) -> list[Message]:
        """Return the messages that a read makes whole.

        Raises:
            WebSocketError: It breaks the rules; nothing that follows can be read.
        """
        messages: list[Message] = []
        if self._head:
            chunk, self._head = self._head + chunk, b""
        at, size = 0, len(chunk)
        while True:
            if not self._begun:
                begin = self._read_head(chunk, at, messages)
                if begin < 0:
                    self._head = chunk[at:]
                    return messages
                at = begin
            end = min(size, at + self._left)
            self._take(chunk[at:end])
            at = end
            if self._left:
                return messages
            self._begun = False
            self._end_frame(messages)

    def _read_head(self, chunk: bytes, at: int, messages: list[Message]) -> int:
        """Read a frame's head; return where its payload begins, below 0 where it is not whole."""
        if len(chunk) - at < 2:
            return -1
        first, second = chunk[at], chunk[at + 1]
        length, begin = second & 0x7F, at + 2
        if length == _LENGTH_16:
            begin = at + 4
        elif length == _LENGTH_64:
            begin = at + 10
        if len(chunk) < begin + (4 if self._masked else 0):
            return -1
        if length == _LENGTH_16:
            length = int.from_bytes(chunk[at + 2 : begin], "big")
        elif length == _LENGTH_64:
            length = int.from_bytes(chunk[at + 2 : begin], "big")
            if length >> 63:
                raise WebSocketError(PROTOCOL_ERROR, "a length has its highest bit set")
        self._check_head(first, second, length)
        if self._masked:
            self._mask = chunk[begin : begin + 4]
            begin += 4
        self._begun, self._final, self._opcode = True, bool(first & _FIN), first & 0x0F
        self._left, self._read = length, 0
        if not self._opcode & _CONTROL:
            self._begin_message(length, messages)
        return begin

    def _check_head(self, first: int, second: int, length: int) -> None:
        opcode = first & 0x0F
        if first & _RESERVED:
            raise WebSocketError(PROTOCOL_ERROR, "a reserved bit is set: nothing was agreed on")
        if bool(second & _MASKED) != self._masked:
            raise WebSocketError(PROTOCOL_ERROR, "a client masks its frames, a server does not")
        if opcode & _CONTROL:
            if opcode > PONG:
                raise WebSocketError(PROTOCOL_ERROR, "no such opcode")
            if length > _CONTROL_BYTES_MAX or not first & _FIN:
                raise WebSocketError(PROTOCOL_ERROR, "a control frame is short and whole")
        elif opcode > BINARY:
            raise WebSocketError(PROTOCOL_ERROR, "no such opcode")
        elif (opcode == CONTINUATION) != (self._kind != 0):
            raise WebSocketError(PROTOCOL_ERROR, "a message is continued until it is whole")

    def _begin_message(self, length: int, messages: list[Message]) -> None:
        if self._opcode != CONTINUATION:
            self._kind = self._opcode
        if not self._passing and self.held_bytes + length > self._max:
            self._passing = True
            self._message, self._whole = bytearray(), None
            self.held_bytes = 0
            messages.append(Message(TOO_LARGE, b""))

    def _take(self, piece: bytes) -> None:
        size = len(piece)
        if not size:
            return
        if self._opcode & _CONTROL:
            self._control += self._unmasked(piece)
        elif not self._passing:
            if self._final and size == self._left and not self._read and not self._message:
                self._whole = self._unmasked(piece)
            else:
                self._message += self._unmasked(piece)
            self.held_bytes += size
        self._read += size
        self._left -= size

    def _unmasked(self, piece: bytes) -> bytes:
        return unmask(piece, self._mask, self._read) if self._masked else piece

    def _end_frame(self, messages: list[Message]) -> None:
        if self._opcode & _CONTROL:
            payload, self._control = self._control, b""
            if self._opcode == CLOSE:
                check_close(payload)
            messages.append(Message(self._opcode, payload))
            return
        if not self._final:
            return
        kind, self._kind = self._kind, 0
        if self._passing:
            self._passing = False
            return
        payload = self._whole if self._whole is not None else bytes(self._message)
        self._message, self._whole = bytearray(), None
        self.held_bytes = 0
        if kind == TEXT and not payload.isascii():
            check_text(payload)
        messages.append(Message(kind, payload))


def unmask(piece: bytes, mask: bytes, begin: int) -> bytes:
    """Return a piece of a payload as it was before it was masked, or masked where it was not.

    Args:
        piece: Of the payload.
        mask: Of its frame.
        begin: Where in the payload the piece begins.
    """
    size, turn = len(piece), begin & 3
    turned = mask[turn:] + mask[:turn]
    if size <= _UNMASK_BYTES:
        whole = int.from_bytes(piece, "little") ^ int.from_bytes(
            (turned * (size // 4 + 1))[:size], "little"
        )
        return whole.to_bytes(size, "little")
    starts = range(0, size, _UNMASK_BYTES)
    return b"".join([unmask(piece[at : at + _UNMASK_BYTES], turned, 0) for at in starts])


def frame_of(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """Return a whole message as one frame; a client gives the mask, of four random bytes."""
    size = len(payload)
    masked = _MASKED if mask else 0
    if size <= _CONTROL_BYTES_MAX:
        head = bytes((_FIN | opcode, masked | size))
    elif size < 1 << 16:
        head = bytes((_FIN | opcode, masked | _LENGTH_16)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, masked | _LENGTH_64)) + size.to_bytes(8, "big")
    return head + mask + unmask(payload, mask, 0) if mask else head + payload


def close_frame(code: int, reason: str = "", mask: bytes = b"") -> bytes:
    """Return the frame that closes, with why."""
    told = code.to_bytes(2, "big") + reason.encode()[: _CONTROL_BYTES_MAX - 2]
    return frame_of(CLOSE, told, mask)


def check_close(payload: bytes) -> None:
    """Refuse what no closing frame can say.

    Raises:
        WebSocketError: It says it.
    """
    if not payload:
        return
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or not (code in _SENT_CODES or 3000 <= code < 5000):
        raise WebSocketError(PROTOCOL_ERROR, "no such code to close with")
    check_text(payload[2:])


def check_text(payload: bytes) -> None:
    """Refuse text that is none.

    Raises:
        WebSocketError: It is not UTF-8.
    """
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise WebSocketError(NOT_UTF8, "a text is not UTF-8") from None


def accept_of(key: str) -> str | None:
    """Return what a server answers to a client's key, None where it is none."""
    try:
        if len(base64.b64decode(key, validate=True)) != _KEY_BYTES:
            return None
    except (binascii.Error, ValueError):
        return None
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()
