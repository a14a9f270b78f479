"""What a splice is to whoever feeds it, and how far it has come."""

import enum
from collections.abc import Iterable
from typing import Protocol


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
