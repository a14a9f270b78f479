"""The promise of the hot path: one read becomes one write, its payload untouched.

A real upstream connection and a real pump between a transport that is fed by hand and a client
that keeps every object it is given.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from relay.config import Switching
from relay.edge.question import JsonQuestion
from relay.errors import RelayError
from relay.flow.attempts.stream import StreamAttempt
from relay.flow.call import Call
from relay.flow.ports import Backpressure
from relay.flow.request import RequestFacts
from relay.flow.response import Response
from relay.records import Endpoint
from relay.stage import Stage
from relay.upstream.connection import UpstreamConnection
from relay.wire.request.json_request import peek_json
from tests.flow.rig import DONE, FINISH, SSE_HEAD, USAGE, chunked, event, make_channel


class KeepingClient:
    """A client that keeps what it is sent."""

    keeps_alive = True
    takes_chunks = True
    unsent_bytes = 0

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.write: Callable[[bytes], None] = self.writes.append

    def set_backpressure(self, backpressure: Backpressure | None) -> None:
        raise AssertionError("nobody is slow here")

    def cut(self) -> None:
        raise AssertionError("nothing fails here")


class QuietTransport(asyncio.Transport):
    """A transport that takes everything and is never closed."""

    def write(self, data: Any) -> None:
        del data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        raise AssertionError("nothing fails here")


class Bench:
    """A pump whose reads are given one by one."""

    def __init__(self) -> None:
        self.client = KeepingClient()
        self.settled: list[Call] = []
        self.reads: list[bytes] = []
        call = Call(bytes(16), self.client, 0)
        call.request = RequestFacts("m", stream=True)
        request = peek_json(b'{"model":"a","stream":true}', Endpoint.CHAT)
        call.question = JsonQuestion(request, (), strips_usage=False)
        call.response = Response(self.client, call.id)
        self.pump = StreamAttempt(
            call, make_channel(1, 1), lambda _: None, self.settled.append, Switching()
        )
        self.connection = UpstreamConnection(lambda _: None, lambda _: None)
        self.connection.connection_made(QuietTransport())
        self.ends: list[RelayError | None] = []
        self.pump.listen(self.connection, lambda _, error: self.ends.append(error))
        self.connection.ask(b"head", b"body", self)

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.pump.on_head(status, headers)

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        self.reads.append(raw)
        self.pump.on_body(raw, parts, done=done)

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        self.reads.append(raw)
        self.pump.on_frame(raw, payload)

    def on_lost(self, error: Exception) -> None:
        raise error

    def on_fault(self, error: Exception) -> bool:
        raise error

    def read(self, raw: bytes) -> None:
        self.connection.data_received(raw)


async def test_whole_frames_of_whole_events_go_out_as_the_very_same_object() -> None:
    bench = Bench()
    bench.read(SSE_HEAD + chunked(event("first")))
    for n in range(50):
        bench.read(chunked(event(f"token {n}")))
        bench.read(chunked(event("a")) + chunked(event("b")))
    assert bench.pump.stage is Stage.COMMITTED
    assert len(bench.client.writes) == len(bench.reads) == 101
    assert all(
        written is read
        for written, read in zip(bench.client.writes[1:], bench.reads[1:], strict=True)
    )
    for last in (FINISH, USAGE, DONE):
        bench.read(chunked(last))
    bench.read(b"0\r\n\r\n")
    assert bench.ends == [None] and bench.settled
    assert b"".join(bench.client.writes).endswith(chunked(DONE) + b"0\r\n\r\n")


async def test_other_framing_is_framed_anew_in_one_write_with_the_payload_untouched() -> None:
    bench = Bench()
    bench.read(SSE_HEAD + chunked(event("first")))
    for payload, raw in (
        (event("x"), b"%x;ext=1\r\n%b\r\n" % (len(event("x")), event("x"))),
        (event("y"), b"000%x\r\n%b\r\n" % (len(event("y")), event("y"))),
    ):
        before = len(bench.client.writes)
        bench.read(raw)
        assert bench.client.writes[before:] == [chunked(payload)]


async def test_half_an_event_waits_for_its_other_half() -> None:
    bench = Bench()
    bench.read(SSE_HEAD + chunked(event("first")))
    whole = event("split") + event("next")
    bench.read(chunked(whole[:30]))
    assert len(bench.client.writes) == 1
    bench.read(chunked(whole[30:-10]))
    assert bench.client.writes[1] == chunked(event("split"))
    bench.read(chunked(whole[-10:]))
    assert bench.client.writes[2] == chunked(event("next"))
    bench.read(chunked(event("aligned again")))
    assert bench.client.writes[3] is bench.reads[-1]


async def test_every_event_counts_once_however_its_reads_are_cut() -> None:
    one, long = event("one"), b'event: x\ndata: {"choices":[{"delta":{"content":"two"}}]}\n\n'
    for events in ([one] * 5, [one, long, one, one, long], [one + one, one, long + one]):
        body = b"".join(map(chunked, events))
        told = b"".join(events).count(b"\n\n")
        for at in range(1, len(body)):
            bench = Bench()
            bench.read(SSE_HEAD + chunked(event("first")))
            bench.read(body[:at])
            bench.read(body[at:])
            bench.read(chunked(FINISH) + chunked(DONE) + b"0\r\n\r\n")
            assert bench.ends == [None]
            assert bench.settled[0].events_out == 1 + told + 2, (events, at)
            assert b"".join(events) in b"".join(map(payload_of, bench.client.writes))


def payload_of(written: bytes) -> bytes:
    """Return what the chunks of a write hold."""
    at = written.find(b"\r\n\r\n") + 4 if written.startswith(b"HTTP/") else 0
    payload = b""
    while at < len(written):
        end = written.index(b"\r\n", at)
        size = int(written[at:end], 16)
        payload += written[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return payload


async def test_the_first_read_may_bring_many_events_and_only_its_own_are_counted() -> None:
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    for reads in (
        [chunked(role) + chunked(b": hi\n\n"), chunked(event("a"))],
        [chunked(role) + chunked(role), chunked(role) + chunked(event("a"))],
        [chunked(role) + chunked(event("a")) + chunked(event("b"))],
    ):
        bench = Bench()
        bench.read(SSE_HEAD + reads[0])
        for read in reads[1:]:
            bench.read(read)
        bench.read(chunked(FINISH) + chunked(DONE) + b"0\r\n\r\n")
        assert bench.settled[0].events_out == b"".join(reads).count(b"\n\n\r\n") + 2
