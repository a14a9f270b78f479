"""An upstream that answers by the model it is asked for, in every way that an upstream should not.

    "MODEL" -> FAULTS[MODEL](what the request says) -> bytes; then it closes, or stays open

It is cheap enough to be asked tens of thousands of times beside a relay, and quotes its credential
and the client's own words wherever a fault lets it.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple, cast

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
MODEL: Final = re.compile(rb'"model": ?"([^"]+)"')
CREDENTIAL: Final = re.compile(rb"(?i)\r\nauthorization: *bearer ([^\r]+)")
WORDS: Final = re.compile(rb"prompt-[0-9a-z-]+")
CHUNKED: Final = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: "
STREAM: Final = CHUNKED + b"text/event-stream\r\n\r\n"
TRAILER: Final = b"x-trailer: %b\r\n" % (b"t" * 4000)


class Asked(NamedTuple):
    """What a request brought that must not come out anywhere else."""

    credential: bytes
    words: bytes

    @property
    def quoted(self) -> bytes:
        """Both, as a careless upstream says them."""
        return self.credential + b" " + self.words


def sized(status: bytes, body: bytes, kind: bytes = b"application/json") -> bytes:
    """Return a whole answer."""
    head = b"HTTP/1.1 %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (status, kind, len(body)) + body


def chunk(payload: bytes) -> bytes:
    """Return one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def told(code: bytes, words: bytes) -> bytes:
    """Return an error's body."""
    return b'{"error":{"message":"%b","type":"%b","code":"%b"}}' % (words, code, code)


FINE: Final = (
    b'{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":'
    b'"assistant","content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,'
    b'"completion_tokens":4,"total_tokens":7}}'
)
EVENT: Final = (
    b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,'
    b'"delta":{"content":"word "},"finish_reason":null}]}\n\n'
)
ENDING: Final = (
    b'data: {"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,'
    b'"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)

FAULTS: Final[dict[bytes, Callable[[Asked], bytes]]] = {
    b"fine": lambda _: sized(b"200 OK", FINE),
    b"streamed": lambda _: STREAM + chunk(EVENT) + chunk(ENDING) + b"0\r\n\r\n",
    # Said before the body is read, and then it goes on neither to read nor to close.
    b"early": lambda asked: sized(b"413 Payload Too Large", told(b"too_large", asked.quoted)),
    b"trailers": lambda _: (
        CHUNKED + b"application/json\r\n\r\n" + chunk(FINE) + b"0\r\n" + TRAILER * 40
    ),
    b"extensions": lambda _: STREAM + chunk(EVENT) + b"5;" + b"x=y;" * 20_000,
    b"garbled": lambda asked: asked.quoted + b" is no HTTP\r\n\r\n",
    b"garbled-chunk": lambda asked: STREAM + chunk(EVENT) * 2 + asked.quoted + b"\r\n",
    b"long-head": lambda asked: b"HTTP/1.1 200 OK\r\nx: " + asked.quoted * 2000,
    b"echo-400": lambda asked: sized(b"400 Bad Request", told(b"invalid_request", asked.quoted)),
    b"echo-500": lambda asked: sized(b"500 Oops", b"<p>%b</p>" % asked.quoted, b"text/html"),
    b"echo-event": lambda asked: (
        STREAM + chunk(EVENT) + chunk(b"data: %b\n\n" % told(b"server_error", asked.quoted))
    ),
    b"cut": lambda _: STREAM + chunk(EVENT) * 2 + b"7f\r\ndata: {",
}
OPEN_S: Final = 0.2
"""How long one stays open that no longer reads."""
STAYS_OPEN: Final = frozenset({b"fine", b"streamed", b"early"})


class HostileUpstream(asyncio.Protocol):
    """One connection of it.

    Args:
        asked: Counts the requests, by model.
    """

    def __init__(self, asked: Counter[bytes]) -> None:
        self._asked = asked
        self._data = b""
        self._ignored = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._ignored:
            return
        self._data += data
        end = self._data.find(HEAD_END)
        size = LENGTH.search(self._data, 0, end + 2) if end >= 0 else None
        model = MODEL.search(self._data, end) if size is not None else None
        if size is None or model is None:
            return
        early = model[1] == b"early"
        if len(self._data) < end + len(HEAD_END) + int(size[1]) and not early:
            return
        credential, words = CREDENTIAL.search(self._data), WORDS.search(self._data)
        assert credential is not None
        asked = Asked(credential[1], words[0] if words is not None else b"")
        self._asked[model[1]] += 1
        self._data = b""
        self._transport.write(FAULTS[model[1]](asked))
        if early:
            self._ignored = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(OPEN_S, self._transport.abort)
        elif model[1] not in STAYS_OPEN:
            self._transport.close()
