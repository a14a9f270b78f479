"""What a turn was asked and answered, so that the next one can be asked of any channel.

A client of a socket names the turn before, and sends only what is new. A provider keeps such a turn
for that one connection, and where it is asked over HTTP, or where its channel is gone, nobody has
it. So the last turns are kept here, within bounds, as the bytes of their items: the next request is
made whole from them, whoever serves it.
"""

from typing import Final

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.wire.turns.frames import Create, Delta
from relay.wire.turns.shapes import Done, ItemHead

BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one session: beyond it the oldest turns are forgotten, and their clients begin anew."""
ALL_BYTES_MAX: Final = 512 * 1024 * 1024
"""Of all sessions of a worker."""
TURNS_MAX: Final = 3
ITEM_DONE: Final = b"response.output_item.done"
_NOTHING: Final = msgspec.Raw(b"[]")
_done = Decoder(Done)
_head = Decoder(ItemHead)
_raws = Decoder(list[msgspec.Raw])
_text = Decoder(str)
_encode = msgspec.json.Encoder().encode


class ContextRoom:
    """What all sessions of a worker keep of their turns."""

    __slots__ = ("bytes_max", "held_bytes")

    def __init__(self, bytes_max: int = ALL_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0


class TurnContext:
    """The last turns of one session, by the ids of their responses."""

    __slots__ = ("_bytes", "_room", "_turns")

    def __init__(self, room: ContextRoom) -> None:
        self._turns: dict[str, bytes] = {}
        self._bytes = 0
        self._room = room

    @property
    def held_bytes(self) -> int:
        """What is kept."""
        return self._bytes

    def complete(self, create: Create) -> bool:
        """Put the turns before in front of what is new, where they are kept here.

        Returns:
            False: they are not, and the request stays as it is.
        """
        name = create.text("previous_response_id")
        before = self._turns.get(name)
        new = items_of(create)
        if before is None or new is None:
            return False
        joined = b",".join(part for part in (before, new) if part)
        whole = msgspec.Raw(b"[" + joined + b"]")
        create.delta = Delta(name, create.fields.get("input", _NOTHING), whole)
        create.fields["input"] = whole
        create.fields.pop("previous_response_id", None)
        return True

    def keep(self, name: str, asked: bytes, made: list[bytes]) -> None:
        """Keep a turn.

        Args:
            name: Of its response.
            asked: All items that it was asked with, commas between them.
            made: The events that held its items.
        """
        joined = b",".join(part for part in (asked, *map(_item_of, made)) if part)
        self._drop(name)
        self._turns[name] = joined
        self._bytes += len(joined)
        self._room.held_bytes += len(joined)
        while self._turns and self._is_full():
            self._drop(next(iter(self._turns)))

    def clear(self) -> None:
        """Keep nothing: the session is over."""
        for name in list(self._turns):
            self._drop(name)

    def _is_full(self) -> bool:
        room = self._room
        return (
            self._bytes > BYTES_MAX
            or len(self._turns) > TURNS_MAX
            or room.held_bytes > room.bytes_max
        )

    def _drop(self, name: str) -> None:
        size = len(self._turns.pop(name, b""))
        self._bytes -= size
        self._room.held_bytes -= size


def items_of(create: Create) -> bytes | None:
    """Return the items of a request's input with commas between them, None where it has no such."""
    raw = create.fields.get("input")
    if raw is None:
        return b""
    given = bytes(raw).strip()
    try:
        if given[:1] == b'"':
            said = {"type": "message", "role": "user", "content": _text.decode(given)}
            return _encode(said)
        _raws.decode(given)
    except Undecodable:
        return None
    return given[1:-1].strip()


def _item_of(event: bytes) -> bytes:
    """Return the item that an event holds, b"" where it cannot be sent back.

    Reasoning that is not encrypted is known by its id to its provider alone, if at all.
    """
    try:
        item = bytes(_done.decode(event).item)
        head = _head.decode(item)
    except Undecodable:
        return b""
    if head.type == "reasoning" and not head.encrypted_content:
        return b""
    return item
