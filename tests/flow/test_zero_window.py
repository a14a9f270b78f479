"""Goal: a client that takes nothing for write_s is cut, whatever we would still like to say to it.

Method: the watch with a clock of the test's own, over a stream whose client's buffer is scripted.
"""

from collections.abc import Callable

import pytest

from relay.config import Switching, Timeouts
from relay.flow.attempts.stream import StreamAttempt
from relay.flow.call import Call
from relay.flow.ports import Backpressure
from relay.flow.request import RequestFacts
from relay.flow.response import Response
from relay.flow.running import SWEEP_S, RunningCalls
from relay.stage import COMMITTED
from tests.flow.rig import make_channel

TIMEOUTS = Timeouts(write_s=60.0, gap_s=120.0, keepalive_comment_s=15.0)


class ScriptedClient:
    """A client that takes what the test says."""

    keeps_alive = True
    takes_chunks = True
    bodiless = False

    def __init__(self) -> None:
        self.now_s = 1.0
        self.unsent_bytes = 0
        self.comments = 0
        self.cut_at_s: float | None = None
        self.buffered = False
        self.write: Callable[[bytes], None] = self._take

    def _take(self, sent: bytes) -> None:
        self.comments += sent.count(b": keep")
        if self.buffered:
            self.unsent_bytes += len(sent)

    def set_backpressure(self, backpressure: Backpressure | None) -> None:
        raise AssertionError("the watch does not ask for it")

    def cut(self) -> None:
        self.cut_at_s = self.cut_at_s or self.now_s


class Scripted:
    """A stream under way, and its client."""

    def __init__(self) -> None:
        self.client = ScriptedClient()
        self.call = Call(bytes(16), self.client, 0)
        self.call.begun_s = 1.0
        self.call.request = RequestFacts("m", stream=True)
        self.call.response = Response(self.client, self.call.id, b"")
        self.attempt = StreamAttempt(
            self.call, make_channel(1, 1), lambda _: None, lambda _: None, Switching()
        )
        self.attempt.stage = COMMITTED
        self.attempt.asked_s = self.attempt.moved_s = self.attempt.taken_s = 1.0
        self.call.open_attempts = [self.attempt]

    @property
    def lapsed(self) -> bool:
        return self.attempt.error is not None


def watch(
    stream: Scripted, seconds: float, *, unsent_bytes_per_s: int = 0, bytes_in_per_s: int = 0
) -> None:
    """Sweep for so long; each second so much comes in, and so much more waits for the client."""
    client = stream.client
    running = RunningCalls(TIMEOUTS, lambda _: None, lambda _: False, 1e9)
    running.add(stream.call)
    for tick in range(int(seconds / SWEEP_S)):
        client.now_s += SWEEP_S
        if tick % 4 == 0:
            client.unsent_bytes = max(0, client.unsent_bytes + unsent_bytes_per_s)
            stream.attempt.bytes_in += bytes_in_per_s
        running.sweep(client.now_s)
        if client.cut_at_s or stream.lapsed:
            return


@pytest.mark.parametrize("paused", [False, True])
def test_a_window_of_zero_is_cut_and_comments_are_no_progress(*, paused: bool) -> None:
    stream = Scripted()
    client = stream.client
    stream.attempt.paused, client.buffered, client.unsent_bytes = paused, True, 70_000
    watch(stream, 90)
    assert client.cut_at_s is not None and 60 <= client.cut_at_s - 1 <= 62
    assert client.comments == 0


def test_a_stream_that_flows_into_a_full_buffer_is_no_progress_either() -> None:
    stream = Scripted()
    stream.client.unsent_bytes = 1000
    watch(stream, 90, unsent_bytes_per_s=500, bytes_in_per_s=500)
    assert stream.client.cut_at_s is not None and stream.client.cut_at_s < 64


@pytest.mark.parametrize("paused", [False, True])
def test_a_slow_client_that_takes_is_kept(*, paused: bool) -> None:
    stream = Scripted()
    stream.attempt.paused, stream.client.unsent_bytes = paused, 200_000
    watch(stream, 115, unsent_bytes_per_s=-10)
    assert stream.client.cut_at_s is None and not stream.lapsed


def test_who_takes_all_hears_comments_and_is_kept() -> None:
    stream = Scripted()
    watch(stream, 115)
    assert stream.client.cut_at_s is None and stream.client.comments == 7


def test_the_upstreams_silence_is_still_the_upstreams() -> None:
    stream = Scripted()
    watch(stream, 130)
    assert stream.lapsed and stream.client.cut_at_s is None


def test_who_stops_taking_later_is_cut_so_long_after_that() -> None:
    stream = Scripted()
    watch(stream, 50, bytes_in_per_s=100)
    stream.client.unsent_bytes = 70_000
    watch(stream, 90)
    cut_at_s = stream.client.cut_at_s
    assert cut_at_s is not None and 108 <= cut_at_s <= 113
