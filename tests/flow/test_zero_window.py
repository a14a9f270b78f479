"""Goal: a client that takes nothing for write_s is cut, whatever we would still like to say to it.

Method: the watch with a clock of the test's own, over a stream whose client's buffer is scripted.
"""

from typing import Any

import pytest

from relay.config import Timeouts
from relay.flow.request import RequestFacts, unread_head
from relay.flow.running import SWEEP_S, RunningCalls
from relay.model import Dialect
from relay.stage import ASKED, COMMITTED

TIMEOUTS = Timeouts(write_s=60.0, gap_s=120.0, keepalive_comment_s=15.0)


class Scripted:
    """A call, its only attempt, its client and its response in one."""

    def __init__(self, *, stream: bool = True, committed: bool = True) -> None:
        self.id = b"1"
        self.committed = False  # no checkpoints here
        self.checked_s = 0.0
        self.begun_s = 1.0
        self.head = unread_head(Dialect.OPENAI)
        self.request = RequestFacts("m", stream=stream)
        self.open_attempts = [self]
        self.client = self.response = self.call = self
        self.stage = COMMITTED if committed else ASKED
        self.paused = False
        self.asked_s = 1.0
        self.bytes_in = self.seen_bytes = 0
        self.moved_s = self.taken_s = 1.0
        self.unsent_bytes = 0
        self.seen_unsent = 0
        self.spoke_s = 0.0
        self.comments = 0
        self.cut_at_s: float | None = None
        self.lapsed = False

    def cut(self) -> None:
        self.cut_at_s = self.cut_at_s or self.now_s

    def lapse(self, error: Exception) -> None:
        self.lapsed = True

    def fail(self, error: Exception) -> None:
        self.lapsed = True

    def send_comment(self, comment: bytes) -> None:
        self.comments += 1
        if self.buffered:
            self.client_bytes += len(comment)

    now_s = 1.0
    buffered = False
    client_bytes = 0


class ClientOf:
    """The client's side, apart from the attempt's own record of it."""

    def __init__(self, owner: Scripted) -> None:
        self._owner = owner

    @property
    def unsent_bytes(self) -> int:
        return self._owner.client_bytes

    def cut(self) -> None:
        self._owner.cut()


def watch(call: Scripted, seconds: float, **change_per_s: float) -> None:
    """Sweep for so long; each second the named fields grow by so much."""
    client: Any = ClientOf(call)
    call.client = client
    running = RunningCalls(TIMEOUTS, lambda _: None, lambda _: False, 1e9)
    owner: Any = call
    running.add(owner)
    for tick in range(int(seconds / SWEEP_S)):
        call.now_s += SWEEP_S
        if tick % 4 == 0:
            for name, step in change_per_s.items():
                setattr(call, name, max(0, int(getattr(call, name) + step)))
        running.sweep(call.now_s)
        if call.cut_at_s or call.lapsed:
            return


@pytest.mark.parametrize("paused", [False, True])
def test_a_window_of_zero_is_cut_and_comments_are_no_progress(*, paused: bool) -> None:
    call = Scripted()
    call.paused, call.buffered, call.client_bytes = paused, True, 70_000
    watch(call, 90)
    assert call.cut_at_s is not None and 60 <= call.cut_at_s - 1 <= 62
    assert call.comments == 0


def test_a_stream_that_flows_into_a_full_buffer_is_no_progress_either() -> None:
    call = Scripted()
    call.client_bytes = 1000
    watch(call, 90, client_bytes=500, bytes_in=500)
    assert call.cut_at_s is not None and call.cut_at_s < 64


@pytest.mark.parametrize("paused", [False, True])
def test_a_slow_client_that_takes_is_kept(*, paused: bool) -> None:
    call = Scripted()
    call.paused, call.client_bytes = paused, 200_000
    watch(call, 115, client_bytes=-10)
    assert call.cut_at_s is None and not call.lapsed


def test_who_takes_all_hears_comments_and_is_kept() -> None:
    call = Scripted()
    watch(call, 115)
    assert call.cut_at_s is None and call.comments == 7


def test_the_upstreams_silence_is_still_the_upstreams() -> None:
    call = Scripted()
    watch(call, 130)
    assert call.lapsed and call.cut_at_s is None


def test_who_stops_taking_later_is_cut_so_long_after_that() -> None:
    call = Scripted()
    watch(call, 50, bytes_in=100)
    call.client_bytes = 70_000
    watch(call, 90, bytes_in=0)
    assert call.cut_at_s is not None and 108 <= call.cut_at_s <= 113
