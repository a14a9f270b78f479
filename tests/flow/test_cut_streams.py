"""Goal: a stream that ends early never looks whole, and no client is sent half of an event.

Method: every recorded stream is cut at every byte, by a clean end and by a broken connection, and
what a real pump makes of it is read back by rules that stand here and not in the relay. The same
streams as other servers frame them (tests/flow/reframed.py) are cut so in `make faults`, until it
is 200 with the larger collection that RELAY_RECORDED names.
"""

import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.config import Switching
from relay.edge.question import JsonQuestion
from relay.errors import (
    ChannelReportedError,
    ChannelTruncated,
    ConnectionBroken,
    RelayError,
    UpstreamRejected,
)
from relay.flow.attempts.stream import StreamAttempt
from relay.flow.call import Call
from relay.flow.ports import Backpressure
from relay.flow.request import RequestFacts, RequestHead
from relay.flow.response import Response
from relay.records import Endpoint
from relay.wire.request.json_request import peek_json
from tests.flow.reframed import VARIANTS, variants_of
from tests.flow.rig import make_channel
from tests.recorded import recorded_streams

TYPE = {b"content-type": b"text/event-stream"}
LIMITS = Switching()
CHANNEL = make_channel(1, 1)
REQUEST = peek_json(b'{"model":"a","stream":true}', Endpoint.CHAT)
QUESTION = JsonQuestion(REQUEST, (), strips_usage=False)
LAST_WORDS = {
    *("message_stop", "response.completed", "response.incomplete", "message-end"),
    "transcript.text.done",
}
KINDS = {
    "-responses-": Endpoint.RESPONSES,
    "-completions-": Endpoint.COMPLETIONS,
    "-gemini-": Endpoint.STREAM_GENERATE,
    "-audio-": Endpoint.TRANSCRIPTIONS,
    "anthropic-": Endpoint.MESSAGES,
}
CASES = 200
PART = 16_384
"""What is cut in one test, that none takes minutes: each cut goes over all that is before it."""
QUICK = (Endpoint.CHAT, Endpoint.MESSAGES)
STREAMS = recorded_streams()
"""Those of endpoints that are not served here too, as chats: their events are events as well."""


class Reader:
    """A client of HTTP/1.0: what it is sent is the answer itself."""

    keeps_alive = True
    takes_chunks = False
    unsent_bytes = 0

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.write = self.writes.append

    def set_backpressure(self, backpressure: Backpressure | None) -> None:
        del backpressure

    def cut(self) -> None:
        raise AssertionError("a stream is ended in band")

    @property
    def body(self) -> bytes:
        return b"".join(self.writes).partition(b"\r\n\r\n")[2]


class Carried:
    """What one pump made of some reads and their end."""

    def __init__(self, endpoint: Endpoint, reads: list[bytes], *, lost: bool = False) -> None:
        self.client = Reader()
        self.ends: list[RelayError | None] = []
        call = self.call = Call(bytes(16), self.client, 0)
        call.head = RequestHead(endpoint, None, "", "", endpoint.dialect, "", b"")
        call.request = RequestFacts("m", stream=True)
        call.question = QUESTION
        call.response = Response(self.client, call.id)
        pump = StreamAttempt(call, CHANNEL, lambda _: None, lambda _: None, LIMITS)
        pump.report = lambda _, error: self.ends.append(error)
        pump.on_head(200, TYPE)
        for read in reads:
            pump.on_body(b"", [read], done=False)
        if not self.ends and lost:
            pump.on_lost(ConnectionBroken("gone"))
        elif not self.ends:
            pump.on_body(b"", [], done=True)
        assert len(self.ends) == 1

    @property
    def whole(self) -> bool:
        return self.ends == [None]


@functools.lru_cache(maxsize=8)  # for all cuts of one event the client is sent the same
def payloads(body: bytes) -> list[Any]:
    """Read a body as a strict client does: every event closed, all data JSON."""
    text = body.decode().replace("\r\n", "\n")
    assert not text or text.endswith("\n\n"), "the last event is closed"
    found = []
    for event in text.split("\n\n"):
        lines = [line[5:].removeprefix(" ") for line in event.split("\n") if line[:5] == "data:"]
        if lines:
            data = "\n".join(lines)
            found.append("[DONE]" if data.strip() == "[DONE]" else json.loads(data))
    return found


def says_last_word(payload: Any) -> bool:
    if payload == "[DONE]":
        return True
    choices = [*(payload.get("choices") or ()), *(payload.get("candidates") or ())]
    return payload.get("type") in LAST_WORDS or any(
        choice.get("finish_reason") or choice.get("finishReason") for choice in choices
    )


def has_output(payload: Any) -> bool:
    if payload == "[DONE]":
        return False
    kind = str(payload.get("type", ""))
    deltas = [choice.get("delta") or choice for choice in payload.get("choices") or ()]
    told = any(
        delta.get(name)
        for delta in deltas
        for name in ("content", "text", "tool_calls", "reasoning", "reasoning_content")
    )
    return told or (kind.endswith(("delta", "done", "_start")) and kind != "message_delta")


def closed_part(body: bytes) -> bytes:
    ends = [body.rfind(end) + len(end) for end in (b"\n\n", b"\n\r\n") if end in body]
    return body[: max(ends, default=0)]


def check(body: bytes, at: int, endpoint: Endpoint, carried: Carried, every: list[Any]) -> None:
    sent = payloads(carried.client.body)
    own_marker = carried.whole and len(sent) > 0 and sent[-1] == "[DONE]"
    said = sent[:-1] if own_marker and every[: len(sent)] != sent else sent
    assert said == every[: len(said)], f"cut at {at}: something else was sent"
    if carried.whole:
        closed = payloads(closed_part(body[:at]))
        if endpoint in (Endpoint.MESSAGES, Endpoint.RESPONSES):
            assert any(map(says_last_word, [one for one in closed if one != "[DONE]"])), at
        else:
            assert any(map(says_last_word, closed)), f"cut at {at}: ended without its last word"
        assert not any(map(has_output, every[len(said) :])), f"cut at {at}: text is missing"


def endpoint_of(path: Path) -> Endpoint:
    for part, endpoint in KINDS.items():
        if part in path.name:
            return endpoint
    return Endpoint.CHAT


def cut_at_every_byte(
    body: bytes, endpoint: Endpoint, begin: int = 0, end: int | None = None
) -> int:
    """Check what becomes of a stream wherever it is cut; return how often that was.

    `begin`, `end`: of these places only.
    """
    every = payloads(closed_part(body + b"\n\n"))
    before = len(closed_part(body[:begin]))
    checked: set[tuple[int, bool, bytes]] = set()
    places = range(begin, len(body) + 1 if end is None else end)
    for at in places:
        if body.endswith((b"\n\n", b"\n\r\n"), 0, at):
            before, checked = at, set()
        reads = [read for read in (body[:before], body[before:at]) if read]
        for lost in (False, True):
            carried = Carried(endpoint, reads, lost=lost)
            said = (before, carried.whole, carried.client.body)
            if said not in checked:  # most cuts within an event come to the same
                checked.add(said)
                check(body, at, endpoint, carried, every)
    return 2 * len(places)


def parts() -> Iterator[tuple[Path, int, int]]:
    """Yield the places in which to cut: of each recorded stream at most PART together."""
    for path in STREAMS:
        places = path.stat().st_size + 1
        yield from ((path, at, min(at + PART, places)) for at in range(0, places, PART))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("path", "begin", "end"),
    list(parts()),
    ids=lambda of: str(of) if isinstance(of, int) else of.name,
)
def test_no_cut_of_a_recorded_stream_looks_whole_or_sends_half_an_event(
    path: Path, begin: int, end: int
) -> None:
    assert cut_at_every_byte(path.read_bytes(), endpoint_of(path), begin, end)


def shortest() -> dict[Endpoint, list[Path]]:
    """Return the streams of each endpoint, shortest first."""
    found: dict[Endpoint, list[Path]] = {}
    for path in sorted(STREAMS, key=lambda path: path.stat().st_size):
        found.setdefault(endpoint_of(path), []).append(path)
    return found


def other_framings() -> list[tuple[Path, str]]:
    """Return the variants to cut, of short streams and all endpoints: CASES with the recorded."""
    turns = itertools.zip_longest(*shortest().values())
    paths = [path for turn in turns for path in turn if path is not None]
    found = [(path, name) for path in paths for name in list(variants_of(path.read_bytes()))[1:]]
    return found[: CASES - len(STREAMS)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("path", "name"), other_framings(), ids=lambda of: of if isinstance(of, str) else of.name
)
def test_nor_does_any_cut_of_it_as_other_servers_frame_it(path: Path, name: str) -> None:
    assert cut_at_every_byte(variants_of(path.read_bytes())[name], endpoint_of(path))


@pytest.mark.parametrize("name", list(VARIANTS)[1:])
def test_one_of_each_framing_is_cut_in_every_run(name: str) -> None:
    paths = [path for endpoint in QUICK for path in shortest()[endpoint]]
    framed = ((path, variants_of(path.read_bytes()).get(name)) for path in paths)
    path, body = next((path, body) for path, body in framed if body)
    assert cut_at_every_byte(body, endpoint_of(path))


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chunk(finish_reason: str | None = None, index: int = 0, **delta: Any) -> bytes:
    return event(choices=[{"index": index, "delta": delta, "finish_reason": finish_reason}])


TEXT, FINISH, USAGE = chunk(content="a"), chunk("stop"), event(choices=[], usage={"n": 1})
WORDED = b"event: response.output_text.delta\n" + event(
    type="response.output_text.delta", delta="a"
)


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize(
    ("endpoint", "reads", "whole", "sent"),
    [
        # A finish reason that was not closed is passed on, and ends nothing.
        (Endpoint.CHAT, [TEXT, FINISH[:-1]], False, TEXT + FINISH),
        (Endpoint.CHAT, [TEXT, FINISH[:-2]], False, TEXT + FINISH),
        (Endpoint.CHAT, [TEXT, FINISH[:-3]], False, TEXT),
        # Behind a finish reason nothing that is half changes anything.
        (Endpoint.CHAT, [TEXT, FINISH, USAGE[:-9]], True, TEXT + FINISH + b"data: [DONE]\n\n"),
        (Endpoint.CHAT, [TEXT, FINISH, b"data: [DO"], True, TEXT + FINISH + b"data: [DONE]\n\n"),
        (Endpoint.CHAT, [TEXT, FINISH, b"data: [DONE]"], True, TEXT + FINISH + b"data: [DONE]\n\n"),
        (Endpoint.CHAT, [TEXT, b"data: [DONE]\n"], False, TEXT),
        # A usage event is whole where its JSON is.
        (
            Endpoint.CHAT,
            [TEXT + FINISH + USAGE[:-2]],
            True,
            TEXT + FINISH + USAGE + b"data: [DONE]\n\n",
        ),
        # Text of another choice behind a finish reason: that choice was cut.
        (
            Endpoint.CHAT,
            [TEXT, FINISH, chunk(index=1, content="b")[:-2]],
            False,
            TEXT + FINISH + chunk(index=1, content="b"),
        ),
        (Endpoint.RESPONSES, [WORDED, b"event: response.completed\n"], False, WORDED),
        (Endpoint.RESPONSES, [WORDED, b"event: response.completed"], False, WORDED),
        (
            Endpoint.RESPONSES,
            [WORDED, b"event: response.completed\n\n"],
            False,
            WORDED + b"event: response.completed\n\n",
        ),
        (Endpoint.RESPONSES, [WORDED, b'data: {"type": "response.compl'], False, WORDED),
        (
            Endpoint.MESSAGES,
            [event(type="content_block_delta"), b"event: message_stop\ndata: {"],
            False,
            event(type="content_block_delta"),
        ),
        # Lines end in CRLF, the second half of a line end is missing.
        (
            Endpoint.CHAT,
            [TEXT.replace(b"\n", b"\r\n"), FINISH.replace(b"\n", b"\r\n")[:-3]],
            False,
            TEXT.replace(b"\n", b"\r\n") + FINISH[:-2] + b"\r\n\n",
        ),
        # Half a comment, half a name, half a number are nothing at all.
        (Endpoint.CHAT, [TEXT, FINISH, b": pi"], True, TEXT + FINISH + b"data: [DONE]\n\n"),
        (Endpoint.CHAT, [TEXT, b"data: 1"], False, TEXT),
    ],
)
def test_what_is_not_closed_ends_nothing(
    endpoint: Endpoint, reads: list[bytes], sent: bytes, *, whole: bool, lost: bool
) -> None:
    carried = Carried(endpoint, reads, lost=lost)
    if lost and not whole:
        # What broke off is cut at its last whole event: its rest is not looked at.
        assert not carried.whole
        assert sent.startswith(carried.client.body)
    else:
        assert (carried.whole, carried.client.body) == (whole, sent)


@pytest.mark.parametrize(
    "rest",
    [FINISH[:-2], TEXT[:-1], TEXT[:-5], b"data: [DONE]", b": ping", b"event: message_stop\n"],
)
def test_a_first_event_that_is_not_closed_is_no_answer_so_that_another_channel_is_asked(
    rest: bytes,
) -> None:
    carried = Carried(Endpoint.CHAT, [rest])
    assert isinstance(carried.ends[0], ChannelTruncated)
    assert not carried.client.writes and not carried.call.committed


def test_a_first_event_that_is_not_closed_may_be_an_error() -> None:
    said = event(error={"message": "no", "code": "content_filter"})[:-2]
    assert isinstance(Carried(Endpoint.CHAT, [said]).ends[0], UpstreamRejected)


def test_an_error_that_is_not_closed_is_told_behind_what_came_before_it() -> None:
    said = event(error={"message": "no", "code": "overloaded"})[:-2]
    carried = Carried(Endpoint.CHAT, [TEXT, chunk(content="b") + said])
    assert isinstance(carried.ends[0], ChannelReportedError)
    assert carried.client.body == TEXT + chunk(content="b")


def test_usage_is_read_from_an_event_that_is_not_closed() -> None:
    usage = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4})[:-2]
    call = Carried(Endpoint.CHAT, [TEXT, FINISH, usage]).call
    assert call.usage is not None and call.usage.output_tokens == 4
