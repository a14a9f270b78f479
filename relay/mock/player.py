"""Plays a plan onto a transport: paced or as fast as the client takes it, and ends it as told.

Two ways of stepping, chosen once a call: one frame a write, an interval apart or at once; or many
frames joined into a write. Both stop while the transport's buffer is above its high-water mark, so
a client that does not read costs the mock no memory.
"""

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Final

from relay.mock.plan import AnswerPlan, End, Frame

_BATCH_BYTES: Final = 16 * 1024
"""Joined into one write of a burst: large enough to be cheap, small enough to be fair."""
_FLUSH_POLL_S: Final = 0.001
"""Between two looks whether the bytes before a reset have left: asyncio has no event for it."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Player:
    """One answer on its way out.

    Args:
        transport: Where to; owned by the protocol.
        plan: What.
        interval_s: Seconds between two frames; 0 = at once.
        on_end: Called once when the plan is played out, except for End.STALL; not after `stop`.
    """

    __slots__ = (
        "_ahead",
        "_frames",
        "_interval_s",
        "_lead",
        "_loop",
        "_next_s",
        "_on_end",
        "_paused",
        "_plan",
        "_step",
        "_timer",
        "_transport",
        "frames",
        "tokens",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        plan: AnswerPlan,
        *,
        interval_s: float,
        on_end: Callable[["Player"], None],
    ) -> None:
        self.frames = 0
        self.tokens = 0
        self._transport = transport
        self._plan = plan
        self._frames: Iterator[Frame] = iter(plan.frames)
        self._lead = plan.head
        self._interval_s = 0.0 if plan.alone else interval_s
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._next_s = 0.0
        self._timer: asyncio.Handle | None = None
        self._paused = False
        self._ahead: Frame | None = None
        self._step = self._play_burst
        if plan.alone or interval_s > 0:
            self._ahead = next(self._frames, None)
            self._step = self._play_singly

    def start(self, wait_s: float) -> None:
        """Begin after `wait_s` seconds; at once, within this call, where that is 0."""
        self._next_s = self._loop.time() + wait_s
        if wait_s > 0:
            self._timer = self._loop.call_at(self._next_s, self._step)
        else:
            self._step()

    def pause(self) -> None:
        """The client's buffer is full: write no more for now."""
        self._paused = True

    def resume(self) -> None:
        """The client's buffer has drained."""
        if not self._paused:
            return
        self._paused = False
        if self._timer is None:
            self._next_s = self._loop.time()
            self._timer = self._loop.call_soon(self._step)

    def stop(self) -> None:
        """Write nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _play_singly(self) -> None:
        self._timer = None
        if self._ahead is not None:
            self._write(self._ahead)
            # Looking one frame ahead tells which is the last: the end follows it at once, and the
            # next request on this connection does not wait for an interval to pass.
            self._ahead = next(self._frames, None)
        if self._ahead is None:
            self._finish()
        elif not self._paused:
            self._schedule()

    def _schedule(self) -> None:
        if self._interval_s > 0:
            self._next_s += self._interval_s
            self._timer = self._loop.call_at(self._next_s, self._play_singly)
        else:
            self._timer = self._loop.call_soon(self._play_singly)

    def _play_burst(self) -> None:
        self._timer = None
        batch = [self._lead]
        size = 0
        for wire, tokens in self._frames:
            batch.append(wire)
            size += len(wire)
            self.tokens += tokens
            if size >= _BATCH_BYTES:
                break
        else:
            self._lead = b"".join(batch)
            self.frames += len(batch) - 1
            self._finish()
            return
        self._lead = b""
        self.frames += len(batch) - 1
        self._transport.write(b"".join(batch))
        if not self._paused:
            self._timer = self._loop.call_soon(self._play_burst)

    def _write(self, frame: Frame) -> None:
        wire, tokens = frame
        if self._lead:
            wire = self._lead + wire
            self._lead = b""
        self.frames += 1
        self.tokens += tokens
        self._transport.write(wire)

    def _finish(self) -> None:
        if self._lead:
            self._transport.write(self._lead)
            self._lead = b""
        end = self._plan.end
        if end is End.STALL:
            return
        self._on_end(self)
        if end is End.CLOSE:
            self._transport.close()
        elif end is End.RESET:
            self._reset()

    def _reset(self) -> None:
        if self._transport.is_closing():
            return
        if _unacknowledged_bytes(self._transport):
            self._loop.call_later(_FLUSH_POLL_S, self._reset)
        else:
            reset(self._transport)


def reset(transport: asyncio.Transport) -> None:
    """Send RST instead of FIN: what a crashed host or an impatient load balancer does."""
    sock = transport.get_extra_info("socket")
    if not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def _unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Return what the client's host has not got yet: RST throws away what a socket still holds.

    Source: tcp(7), SIOCOUTQ, which is TIOCOUTQ.
    """
    sock = transport.get_extra_info("socket")
    queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)
