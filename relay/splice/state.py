"""What a splice is to whoever feeds it, and how far it has come."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from relay.decoding import Decoder, Undecodable

Fields = dict[str, msgspec.Raw]
"""The top level of an event, values as they came."""
_fields: Final = Decoder(Fields)


class SpliceState(enum.Enum):
    """How far a splice has come."""

    RUNNING = "running"
    FINISHED = "finished"
    """The answer has its last word: it is whole."""
    BROKEN = "broken"
    """The new channel failed as well, or does not fit: the stream has to be truncated."""


class Rewriting(Protocol):
    """Makes the events of the channel that carries a stream on those of the old stream."""

    @property
    def state(self) -> SpliceState:
        """How far it has come."""
        ...

    @property
    def marked(self) -> bool:
        """Whether nothing counts any more of what the new channel sends."""
        ...

    def feed(self, payloads: Iterable[bytes]) -> bytes:
        """Return what the client gets of the data of some whole events."""
        ...

    def end(self) -> bytes:
        """Return the last bytes; the new channel has ended, whether it was whole or broke off."""
        ...


class EventSplice(ABC):
    """Rewrites a stream whose every event is an object, one after the other.

    `state`: how far it has come. `marked`: nothing that comes later counts.
    """

    def __init__(self) -> None:
        self.state = SpliceState.RUNNING
        self.marked = False

    def feed(self, payloads: Iterable[bytes]) -> bytes:
        """Return what the client gets of some whole events; see splice.rewrite.Splice."""
        events: list[bytes] = []
        for payload in payloads:
            if self.marked or self.state is SpliceState.BROKEN:
                break
            if not payload:
                continue
            try:
                events.append(self._take(_fields.decode(payload)))
            except (Undecodable, KeyError):
                self.state = SpliceState.BROKEN
        return b"".join(events)

    def end(self) -> bytes:
        """Return the last bytes; the new channel has ended."""
        if self.state is not SpliceState.FINISHED:
            self.state = SpliceState.BROKEN
        return b""

    @abstractmethod
    def _take(self, event: Fields) -> bytes:
        """Return what the client gets of one event; raises where it is none of its dialect's."""
