"""A body on its way, behind a head that was read before: its pieces as the reads brought them.

Most clients write a head and a body apart, and long prompts come in many reads. Where the head is
one that the parser has accepted before, its length is known, so neither the parser nor a task has
anything to do until the last piece is there.
"""

from relay.clock import clock_s
from relay.config import Timeouts
from relay.flow.call import Call


class ComingBody:
    """The body of one request, until it is whole.

    Args:
        call: The call that it is of.
        head: Its head.
        size: The length that the head gives it.
        timeouts: How long a client may take for it.
    """

    __slots__ = ("_begun_s", "_head", "_pieces", "_timeouts", "call", "owed_bytes", "size")

    def __init__(self, call: Call, head: bytes, size: int, timeouts: Timeouts) -> None:
        self.call = call
        self._head = head
        self.size = size
        self._timeouts = timeouts
        self._begun_s = clock_s()
        self._pieces: list[bytes] = []
        self.owed_bytes = size
        """What is still to come."""

    def add(self, piece: bytes) -> None:
        """Take what one read brought of it."""
        self._pieces.append(piece)
        self.owed_bytes -= len(piece)

    def body(self) -> bytes:
        """Return what has come, in one piece."""
        return b"".join(self._pieces)

    def request(self) -> bytes:
        """Return all that has come, head included."""
        return self._head + self.body()

    @property
    def deadline_s(self) -> float:
        """Until when more of it has to come, in seconds of time.monotonic."""
        come = self.size - self.owed_bytes
        times = self._timeouts
        return self._begun_s + times.body_s + come / times.body_bytes_per_s_min
