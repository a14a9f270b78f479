"""Goal: a supervisor that hears its children once a second knows when each of them last lived.

Method: a child's end of a lifeline, and nobody behind it.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from relay.process.child import Child
from relay.process.lifeline import BEAT, READY, RENEW
from relay.tasks import Bell


class NoProcess:
    """A process that does nothing."""

    pid = 1
    returncode = None

    async def wait(self) -> int:
        return 0

    def send_signal(self, number: signal.Signals, /) -> None:
        pass


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's end and the child's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(0)
        yield ours, theirs


async def test_beats_are_heard_when_they_are_asked_for_and_say_when_they_were(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    child = Child(NoProcess(), ours)
    theirs.send(READY)
    assert await child.became_ready()
    began_s = child.seen_s
    assert began_s is not None
    theirs.send(BEAT + b" %.3f" % (began_s + 0.001))
    theirs.send(RENEW + b"worker-1")
    await asyncio.sleep(0.05)
    assert child.seen_s == began_s
    assert not child.renewals
    theirs.send(BEAT + b" %.3f" % (began_s + 0.002))
    child.hear()
    assert child.renewals == {"worker-1"}
    assert child.seen_s < time.monotonic()
    theirs.send(BEAT + b" %.3f" % (began_s + 0.003))
    child.hear()
    assert child.seen_s == pytest.approx(began_s + 0.003, abs=0.001)
    theirs.send(BEAT)  # as the release before said it
    child.hear()
    assert time.monotonic() - child.seen_s < 0.05
    theirs.close()
    child.hear()
    child.close()


async def test_a_bell_wakes_those_who_wait_for_it_and_nobody_later() -> None:
    bell = Bell()
    waiting = [asyncio.create_task(bell.wait(10)) for _ in range(3)]
    await asyncio.sleep(0)
    bell.ring()
    began_s = time.monotonic()
    await asyncio.gather(*waiting)
    assert time.monotonic() - began_s < 1
    began_s = time.monotonic()
    await bell.wait(0.05)
    assert time.monotonic() - began_s >= 0.04  # a loop's own clock is of whole milliseconds
