"""Goal: a bug of ours ends its call at once, and is found from the log, which tells no content.

Method: a limiter that raises with the prompt in its message, in each way that a call can begin;
what calls are paid from and who remembers what they made raise in the midst of answers. The log is
read as an operator gets it.
"""

import asyncio
import contextlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, cast

import msgspec
import pytest

from relay import event_log
from relay.config import Config, JournalConfig, Timeouts
from relay.errors import RelayError
from relay.flow.call import Call
from relay.flow.ports import Reservation
from relay.flow.state.owners import OwnerStore
from relay.ports import AnswerListener, Limiter
from relay.upstream.connection import UpstreamConnection
from relay.usage import Usage
from tests.flow.provider import Provider
from tests.flow.rig import (
    DONE,
    FINISH,
    KEY,
    MODEL,
    SSE_HEAD,
    USAGE,
    Peer,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
    read_request,
    unchunked,
)
from tests.flow.test_sessions import create, hear, session, turn
from tests.flow.test_zero_copy import QuietTransport

CANARY = "CANARY51d0"
CHAT = "/v1/chat/completions"


class BuggyLimiter:
    """Raises what no code of ours should; `waits`: only once it is waited for."""

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits

    def admit(self, *_: object) -> None:
        if not self._waits:
            raise KeyError(CANARY)

    async def wait(self, *_: object) -> None:
        raise ValueError(f"{CANARY} is none")

    def foresee(self, *_: object) -> None:
        return None


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What the process logs, as an operator gets it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    event_log.configure({"RELAY_LOG": "json"}, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def question() -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": CANARY}]}
    return post(CHAT, body).replace(b"Connection: close\r\n", b"")


async def ask_in_pieces(rig: Rig) -> bytes:
    """Ask so that the body comes after the head: a task serves it."""
    raw = question()
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(raw[:-10])
    await writer.drain()
    while not rig.server.counters.inflight:
        await asyncio.sleep(0.005)
    writer.write(raw[-10:])
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("pieces", [False, True])
async def test_the_place_of_a_bug_is_logged_and_no_content(
    lines: io.StringIO, *, waits: bool, pieces: bool
) -> None:
    limiter = cast("Limiter", BuggyLimiter(waits=waits))
    snapshot = make_snapshot([make_channel(1, 1)], rpm=9)
    async with Rig(snapshot, limiter=limiter) as rig:
        assert await (ask_in_pieces(rig) if pieces else rig.say(question())) == b""
        logged = lines.getvalue()
        found: list[dict[str, Any]] = [
            event
            for line in logged.splitlines()
            if (event := json.loads(line))["event"] == "unexpected failure"
        ]
        (event,) = found
        assert event["error"] == ("ValueError" if waits else "KeyError")
        assert any("test_own_bugs.py:" in place for place in event["at"])
        assert any("edge/service.py:" in place for place in event["at"])
        assert CANARY not in logged and KEY not in logged
        assert event["request"].startswith("req_")
        assert rig.server.counters.inflight == 0
        (end,) = await rig.ended()
        assert (end.status, end.cost_nanos) == (500, 0)
        # and the relay goes on
        assert b"401" in await rig.say(post(CHAT, chat(), key="relay_other"))


async def test_a_bug_that_somebody_has_found_does_not_fill_the_log(lines: io.StringIO) -> None:
    limiter = cast("Limiter", BuggyLimiter(waits=False))
    snapshot = make_snapshot([make_channel(1, 1)], rpm=9)
    async with Rig(snapshot, limiter=limiter) as rig:
        begun_s = time.monotonic()
        for _ in range(100):
            await rig.say(question())
        seconds = int(time.monotonic() - begun_s) + 2
        found = lines.getvalue().splitlines()
        events = [json.loads(line) for line in found]
        counts = [e["count"] for e in events if e["event"] == "unexpected failure"]
        assert 0 < len(counts) <= 10 * seconds
        assert sum(counts) <= 100


def told_of(lines: io.StringIO) -> list[dict[str, Any]]:
    """Return what the log says of bugs."""
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert CANARY not in lines.getvalue()
    return [event for event in said if event["event"] == "unexpected failure"]


class BuggyPurse(Reservation):
    """Raises once where a call is settled, or while it runs; counts what is taken and closed."""

    def __init__(self, *, closing: bool = False, running: bool = False) -> None:
        self.closing, self.running = closing, running
        self.taken = self.closed = 0

    def take(self, call: Call) -> bool:
        self.taken += 1
        return True

    async def wait(self, call: Call) -> None:
        raise AssertionError("nobody waits for this one")

    def update(self, call: Call, usage: Usage) -> None:
        if self.running:
            self.running = False
            raise IndexError(CANARY)

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        self.closed += 1
        if self.closing:
            self.closing = False
            raise IndexError(CANARY)


class BuggyMemory:
    """Keeps nothing of who made what, and raises at one of the things that it is told."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.puts = 0

    def put(self, digest: bytes, value: bytes, ttl_s: int) -> None:
        self.puts += 1
        if self.puts == self.at:
            raise LookupError(CANARY)

    async def get(self, digests: Sequence[bytes]) -> list[bytes | None]:
        return [None for _ in digests]

    def push(self, digest: bytes, value: bytes, ttl_s: int) -> None:
        return None

    def drop(self, digest: bytes, value: bytes) -> None:
        return None

    async def listed(self, digest: bytes) -> list[bytes]:
        return []


SAID = {
    "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


class Upstream:
    """Answers one question after the other over each connection, in the form that it asks for."""

    def __init__(self) -> None:
        self.asked = self.lost = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await read_request(reader)
                self.asked += 1
                if b'"stream":true' in request:
                    writer.write(SSE_HEAD + chunked(event("one")))
                    await asyncio.sleep(0.02)
                    writer.write(chunked(event("two")))
                    await asyncio.sleep(0.02)
                    writer.write(chunked(FINISH + USAGE + DONE) + b"0\r\n\r\n")
                else:
                    body = msgspec.json.encode(SAID)
                    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.lost += 1
        writer.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kept", [False, True], ids=["dialled", "kept"])
async def test_a_bug_at_the_end_of_an_answer_ends_its_call_at_once(
    lines: io.StringIO, *, stream: bool, kept: bool
) -> None:
    """By then the connection to the upstream has let go of the answer."""
    purse = BuggyPurse()
    async with Upstream() as upstream:
        snapshot = make_snapshot([make_channel(n, upstream.port) for n in (1, 2)])
        async with Rig(snapshot, paid_by=[purse]) as rig:
            if kept:
                await rig.say(post(CHAT, chat()))
            purse.closing = True
            began_s = time.monotonic()
            answer = await rig.say(post(CHAT, chat(stream=stream)))
            assert time.monotonic() - began_s < 2
            head, _, body = answer.partition(b"\r\n\r\n")
            if stream:
                events = unchunked(answer)[1]
                assert b"one" in events and b"two" in events and b"[DONE]" not in events
                told = json.loads(events.rpartition(b"data: ")[2])
            else:
                assert head.startswith(b"HTTP/1.1 500 ")
                told = json.loads(body)
            assert told["error"]["code"] == "internal_error"
            assert told["error"]["message"].startswith("The relay failed on this request.")
            end = (await rig.ended(1 + kept))[-1]
            assert (end.status, end.cost_nanos) == (200 if stream else 500, 0)
            assert end.error_code == "internal_error" and end.attempts == 1
            (said,) = told_of(lines)
            assert said["request"] == f"req_{end.request_id.hex()}"
            assert said["error"] == "IndexError"
            assert any("test_own_bugs.py:" in place for place in said["at"])
            # What it took is given back, nobody is charged, and no channel is blamed for it.
            assert purse.taken == purse.closed == 1 + kept
            assert not rig.server.counters.upstream_errors
            assert rig.server.counters.inflight == 0
            await until(lambda: upstream.lost == 1)
            assert upstream.asked == 1 + kept
            # and the relay goes on
            assert (await rig.say(post(CHAT, chat()))).startswith(b"HTTP/1.1 200 ")


async def until(met: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(3):
        while not met():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("store", [True, False], ids=["at its first event", "in the midst of it"])
async def test_a_bug_in_the_midst_of_a_stream_ends_it_with_an_error(
    lines: io.StringIO, *, store: bool
) -> None:
    memory = BuggyMemory(1)
    async with Provider(1) as first, Provider(2) as second:
        snapshot = make_snapshot([first.channel(), second.channel()])
        async with Rig(snapshot, owner_store=cast("OwnerStore", memory)) as rig:
            body = {"model": MODEL, "input": "hello", "stream": True, "store": store}
            answer = await rig.say(post("/v1/responses", body))
            if store:  # nothing was out
                assert answer.startswith(b"HTTP/1.1 500 ") and b"internal_error" in answer
            else:
                events = unchunked(answer)[1]
                assert b"response.completed" not in events
                assert b"event: response.failed\n" in events
                assert b"The relay failed on this request." in events.rpartition(b"data: ")[2]
            (end,) = await rig.ended()
            assert end.error_code == "internal_error" and end.attempts == 1
            (said,) = told_of(lines)
            assert said["request"] == f"req_{end.request_id.hex()}"
            assert len(first.bodies) + len(second.bodies) == 1
            assert rig.server.counters.inflight == 0 and rig.server.pool.open_count == 0


async def test_a_bug_in_a_turn_over_a_socket_ends_the_turn_and_not_the_session(
    lines: io.StringIO,
) -> None:
    memory = BuggyMemory(1)
    async with Provider(1) as first, Provider(2) as second:
        first.speaks_websocket = second.speaks_websocket = True
        snapshot = make_snapshot([first.channel(), second.channel()])
        rig = Rig(snapshot, owner_store=cast("OwnerStore", memory))
        async with rig, session(rig) as socket:
            await socket.send_json(create())
            told = await hear(socket)
            while told["type"] not in ("error", "response.failed", "response.completed"):
                told = await hear(socket)
            assert "The relay failed on this request." in json.dumps(told)
            await until(lambda: len(told_of(lines)) == 1)
            assert (await turn(socket))[-1]["type"] == "response.completed"
            assert [end.error_code for end in await rig.ended(2)] == ["internal_error", ""]


async def test_a_bug_in_looking_at_one_call_leaves_the_others_their_deadlines(
    lines: io.StringIO,
) -> None:
    purse = BuggyPurse(running=True)

    async def begin(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(SSE_HEAD + chunked(event("one")))
        await asyncio.sleep(30)

    config = Config(
        journal=JournalConfig(checkpoint_s=0.1), timeouts=Timeouts(gap_s=1.0, total_s=9.0)
    )
    async with Peer(begin) as peer:
        snapshot = make_snapshot([make_channel(1, peer.port)])
        async with Rig(snapshot, config, paid_by=[purse]) as rig:
            calls = [rig.say(post(CHAT, chat(stream=True))) for _ in range(3)]
            answers = await asyncio.gather(*calls)
            codes = sorted(
                json.loads(a.rpartition(b"data: ")[2].partition(b"\n")[0])["error"]["code"]
                for a in answers
            )
            assert codes.count("internal_error") == 1 and len(codes) == 3
            ends = await rig.ended(3)
            assert {end.status for end in ends} == {200}
            (said,) = told_of(lines)
            assert said["error"] == "IndexError" and purse.closed == purse.taken == 3


class BuggyListener(AnswerListener):
    """Raises where it is told of one thing; `asks`: after having asked something else."""

    def __init__(self, at: str, connection: UpstreamConnection, *, heard: bool = True) -> None:
        self._at, self._heard = at, heard
        self._connection = connection
        self.following: AnswerListener | None = None
        self.faults: list[Exception] = []

    def _meet(self, what: str) -> None:
        if what == self._at:
            if self.following is not None:
                self._connection.ask(b"head", b"", self.following)
            raise ZeroDivisionError(what)

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        self._meet("head")

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        self._meet("end" if done else "body")

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        self._meet("frame")

    def on_lost(self, error: RelayError) -> None:
        self._meet("lost")

    def on_fault(self, error: Exception) -> bool:
        self.faults.append(error)
        return self._heard


class CountingTransport(QuietTransport):
    """A transport that counts how often it is dropped."""

    aborted = 0

    def abort(self) -> None:
        self.aborted += 1


def connected() -> tuple[UpstreamConnection, CountingTransport]:
    connection, transport = UpstreamConnection(lambda _: None, lambda _: None), CountingTransport()
    connection.connection_made(transport)
    return connection, transport


READS = {
    "head": [SSE_HEAD],
    "body": [SSE_HEAD + chunked(b"data: a")],
    "frame": [SSE_HEAD + chunked(event("a")), chunked(event("b"))],
    "end": [SSE_HEAD, chunked(event("a")) + b"0\r\n\r\n"],
    "lost": [b"no HTTP at all\r\n\r\n"],
}


@pytest.mark.parametrize("at", READS)
@pytest.mark.parametrize("heard", [True, False])
def test_whatever_a_reader_raises_is_told_to_it_and_drops_the_connection(
    at: str, *, heard: bool
) -> None:
    connection, transport = connected()
    listener = BuggyListener(at, connection, heard=heard)
    connection.ask(b"head", b"", listener)
    *before, last = READS[at]
    for raw in before:
        connection.data_received(raw)
    assert not listener.faults
    raised = contextlib.nullcontext() if heard else pytest.raises(ZeroDivisionError)
    with raised:
        connection.data_received(last)
    assert [str(fault) for fault in listener.faults] == [at]
    assert transport.aborted and not connection.usable


def test_a_bug_does_not_take_the_connection_from_whoever_asks_over_it_by_then() -> None:
    connection, transport = connected()
    listener, following = BuggyListener("end", connection), BuggyListener("none", connection)
    listener.following = following
    connection.ask(b"head", b"", listener)
    connection.data_received(SSE_HEAD + chunked(event("a")) + b"0\r\n\r\n")
    assert len(listener.faults) == 1 and not transport.aborted
    connection.data_received(SSE_HEAD + chunked(event("b")) + b"0\r\n\r\n")
    assert not following.faults and connection.usable


def test_a_bug_in_hearing_of_a_lost_connection_is_told() -> None:
    connection, _ = connected()
    listener = BuggyListener("lost", connection)
    connection.ask(b"head", b"", listener)
    connection.connection_lost(None)
    assert [str(fault) for fault in listener.faults] == ["lost"]
