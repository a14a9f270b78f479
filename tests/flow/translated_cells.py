"""The matrix of docs/translation.md over real sockets: client, data plane, scripted upstream.

Method: the literal requests and answers of tests/pure/translate/samples.py; what the client reads
is held against what the upstream said, and what the upstream read against what the client asked.
"""

import asyncio
import json
from typing import Any, Final

from relay.model import Channel, Dialect, OpenAiApi
from relay.translate import TranslateDialect
from tests.flow.rig import KEY, MODEL, SSE_HEAD, Peer, Rig, chunked, make_channel, unchunked
from tests.pure.translate.matrix import CHECKS, _caches_itself
from tests.pure.translate.reading import meaning, read_body, read_request, read_stream
from tests.pure.translate.samples import (
    ANTHROPIC,
    BODIES,
    CHAT,
    GEMINI,
    REQUESTS,
    RESPONSES,
    STREAM_ERRORS,
    STREAMS,
    Json,
)

WORDS: Final = {CHAT: "openai", ANTHROPIC: "anthropic", GEMINI: "gemini", RESPONSES: "responses"}
PATHS: Final = {
    CHAT: "/v1/chat/completions",
    ANTHROPIC: "/v1/messages",
    RESPONSES: "/v1/responses",
}
ASKED_AT: Final = {
    CHAT: "/v1/chat/completions",
    ANTHROPIC: "/v1/messages",
    RESPONSES: "/v1/responses",
    GEMINI: f"/v1beta/models/up-{MODEL}:",
}
BAD: Final[dict[TranslateDialect, Json]] = {
    CHAT: {"error": {"message": "Too odd.", "type": "invalid_request_error", "param": "messages"}},
    ANTHROPIC: {"type": "error", "error": {"type": "invalid_request_error", "message": "Too odd."}},
    GEMINI: {"error": {"code": 400, "message": "Too odd.", "status": "INVALID_ARGUMENT"}},
    RESPONSES: {"error": {"message": "Too odd.", "type": "invalid_request_error", "param": None}},
}


def channel_of(dialect: TranslateDialect, number: int, port: int, **fields: Any) -> Channel:
    """Return a channel that speaks one dialect, and no other."""
    if dialect is GEMINI:
        fields |= {"protocol": Dialect.GEMINI, "base_url": f"http://127.0.0.1:{port}"}
    elif dialect is ANTHROPIC:
        fields |= {"protocol": Dialect.ANTHROPIC}
    else:
        fields |= {"openai_api": OpenAiApi.CHAT if dialect is CHAT else OpenAiApi.RESPONSES}
    return make_channel(number, port, **fields)


def asking(client: TranslateDialect, body: Json, how: str, *headers: str) -> bytes:
    """Return a client's raw request."""
    body = dict(body)
    if client is GEMINI:
        verb = "streamGenerateContent?alt=sse" if how == "stream" else "generateContent"
        path = f"/v1beta/models/{MODEL}:{verb}"
    else:
        path = PATHS[client]
        body |= {"model": MODEL, "stream": how == "stream"}
    if client is CHAT and how == "stream":
        body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        *("Host: relay", "Content-Type: application/json", f"x-goog-api-key: {KEY}"),
        *(f"Content-Length: {len(data)}", "Connection: close"),
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


class Answer:
    """What a client reads: the status, the head, and the body without its framing."""

    def __init__(self, raw: bytes) -> None:
        head, _, body = raw.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1])
        self.head = head.decode()
        self.streamed = b"chunked" in head
        self.body = unchunked(raw)[1] if self.streamed else body

    def header(self, name: str) -> str:
        """Return a header's value, "" without it."""
        found = [line for line in self.head.split("\r\n") if line.lower().startswith(f"{name}:")]
        return found[0].partition(":")[2].strip() if found else ""


class Upstream:
    """A scripted upstream of one dialect. `whole`: its answer is not cut off."""

    def __init__(self, dialect: TranslateDialect) -> None:
        self.dialect = dialect
        self.status = 200
        self.body = b""
        self.streamed = False
        self.whole = True
        self.peer = Peer(self._answer)

    def say(self, how: str, body: bytes, *, whole: bool = True, status: int = 200) -> None:
        """Answer the next questions with `body`."""
        self.streamed = how == "stream" and status == 200
        self.body, self.whole, self.status = body, whole, status

    @property
    def asked(self) -> bytes:
        """The body of the last question."""
        return self.peer.requests[-1].partition(b"\r\n\r\n")[2]

    async def _answer(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.streamed:
            writer.write(SSE_HEAD)
            middle = len(self.body) // 2
            for piece in (self.body[:middle], self.body[middle:]):
                writer.write(chunked(piece))
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(b"0\r\n\r\n" if self.whole else b"")
        else:
            writer.write(
                b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (self.status, len(self.body) + (not self.whole), self.body)
            )
        await writer.drain()


async def try_cell(
    rig: Rig, client: TranslateDialect, upstream: Upstream, feature: str, how: str
) -> str:
    """Return what comes of one cell, in the words of the pure matrix."""
    if feature in {"error", "cut stream"}:
        return await _try_broken(rig, client, upstream, feature, how)
    source = (STREAMS if how == "stream" else BODIES)[upstream.dialect](feature)
    upstream.say(how, source)
    before = len(rig.journal.ends)
    asked = REQUESTS[client](feature)
    answer = Answer(await rig.say(asking(client, asked, how)))
    (end,) = (await rig.ended(before + 1))[before:]
    if answer.status == 400:
        assert (end.cost_nanos, end.attempts) == (0, 0)
        return f"400 {end.error_code}"
    assert answer.status == 200, answer.body
    used = (end.input_tokens, end.cached_tokens, end.output_tokens, end.reasoning_tokens)
    assert used == (100, 64, 20, 5) and not end.estimated and end.reason == "completed"
    assert f" {ASKED_AT[upstream.dialect]}".encode() in upstream.peer.requests[-1]
    if client is upstream.dialect:
        assert answer.body == source and end.translated == ""
        assert not answer.header("x-relay-translated")
        return "native"
    way = f"{WORDS[client]}>{WORDS[upstream.dialect]}"
    assert end.translated == way == answer.header("x-relay-translated")
    ask = read_request(upstream.dialect, upstream.asked)
    if not CHECKS[feature](ask) and not _caches_itself(upstream.dialect, feature):
        return "LOST in the request"
    if not _same(client, upstream.dialect, answer, source, shown=feature == "thinking"):
        return "LOST in the answer"
    dropped = answer.header("x-relay-dropped")
    return f"passes, drops {dropped.replace(',', ', ')}" if dropped else "passes"


def _same(
    client: TranslateDialect,
    upstream: TranslateDialect,
    answer: Answer,
    source: bytes,
    *,
    shown: bool,
) -> bool:
    read = read_stream if answer.streamed else read_body
    wanted, told = meaning(read(upstream, source)), meaning(read(client, answer.body))
    if client is not CHAT and not shown:
        wanted["thinking"] = ""  # these clients ask for it
    return wanted == told


async def _try_broken(
    rig: Rig, client: TranslateDialect, upstream: Upstream, feature: str, how: str
) -> str:
    dialect = upstream.dialect
    asked = asking(client, REQUESTS[client]("text"), how)
    before = len(rig.journal.ends)
    if how == "JSON":
        if feature == "error":
            upstream.say(how, json.dumps(BAD[dialect]).encode(), status=400)
        else:
            upstream.say(how, BODIES[dialect]("text")[:-20], whole=False)
        answer = Answer(await rig.say(asked))
        said = read_body(client, answer.body).trouble
        wanted = (400, "Too odd.") if feature == "error" else (502, "")
        good = said is not None and answer.status == wanted[0] and wanted[1] in said.message
    else:
        first = _first_events(dialect)
        rest = STREAM_ERRORS[dialect] if feature == "error" else b""
        upstream.say(how, first + rest, whole=False)
        answer = Answer(await rig.say(asked))
        read = read_stream(client, answer.body)
        good = answer.status == 200 and read.trouble is not None and read.ending is None
        assert f"req_{rig.journal.ends[-1].request_id.hex()}".encode() in answer.body
    (end,) = (await rig.ended(before + 1))[before:]
    assert end.reason != "completed"
    if not good:
        return "LOST"
    return "native" if client is dialect else "passes"


def _first_events(dialect: TranslateDialect) -> bytes:
    """Return the beginning of a stream, up to some output."""
    events = STREAMS[dialect]("text").replace(b"\r\n", b"\n").split(b"\n\n")
    counts = {CHAT: 2, ANTHROPIC: 4, GEMINI: 1, RESPONSES: 3}
    return b"\n\n".join(events[: counts[dialect]]) + b"\n\n"
