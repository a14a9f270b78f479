"""An upstream whose answers stand ready: it skips a body and writes, and costs next to nothing.

The scripted upstream (`relay mock`) reads every prompt and writes event by event: of long prompts
and of bursts it would cost more than what is measured. This one has the mock render the answer to
the first call of its kind (path and length), and says the same to all that come after:

    head, body of a known length --> writes of `bursts` events each, pauses between them

Run: python -m benchmarks.targets.canned PORT SCRIPT       SCRIPT: JSON of benchmarks' Script
"""

import asyncio
import gc
import random
import re
import sys
from itertools import cycle
from typing import Final, cast

import msgspec
import uvloop

from benchmarks.targets.upstream import Script
from relay.mock.answers.repertoire import Repertoire
from relay.mock.options import MockOptions

_HEAD_BYTES_MAX: Final = 64 * 1024
_ANSWERS_MAX: Final = 64
"""Kinds of calls; beyond it all are forgotten and rendered anew."""
_LENGTH: Final = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_SCRATCH: Final = memoryview(bytearray(256 * 1024))
"""Where every connection reads to: a read is looked at before the next one is made."""
_EMPTY: Final = b'{"object":"list","data":[]}'
_PLAIN: Final = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"

Writes = tuple[bytes, ...]


class Answers:
    """The answers of an upstream by kind of call, each as the writes that make it up."""

    def __init__(self, script: Script) -> None:
        self._script = script
        options = MockOptions(chunks=script.chunks, tokens_per_event=script.tokens_per_event)
        self._repertoire = Repertoire(options)
        self._known: dict[tuple[bytes, int], Writes] = {}

    def known(self, path: bytes, length: int) -> Writes | None:
        """Return the answer to a kind of call, None where its first body has yet to be read."""
        return self._known.get((path, length))

    def learn(self, path: bytes, body: bytes) -> Writes:
        """Return the answer to a call, and keep it for all of its kind."""
        if len(self._known) >= _ANSWERS_MAX:
            self._known.clear()
        endpoint = path.partition(b"?")[0].removeprefix(b"/v1/").decode("latin-1")
        plan = self._repertoire.perform(endpoint, "application/json", body, chunked=True).plan
        writes = cut([frame for frame, _ in plan.frames], self._script.bursts)
        self._known[path, len(body)] = (plan.head + writes[0], *writes[1:])
        return self._known[path, len(body)]


def cut(frames: list[bytes], bursts: tuple[int, ...]) -> Writes:
    """Return frames joined to writes of so many each, over and over; no bursts = all in one."""
    writes, at = [], 0
    for size in cycle(bursts or (len(frames),)):
        if at >= len(frames):
            break
        writes.append(b"".join(frames[at : at + size]))
        at += size
    return tuple(writes)


class CannedProtocol(asyncio.BufferedProtocol):
    """One client connection; no pipelining."""

    def __init__(self, answers: Answers, script: Script, dice: random.Random) -> None:
        self._answers = answers
        self._script = script
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self._path = b""
        self._length = self._left = 0
        self._writes: Writes | None = None
        self._body = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a connection."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Write no more."""
        if self._timer is not None:
            self._timer.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to read to."""
        return _SCRATCH

    def buffer_updated(self, nbytes: int) -> None:
        """Take what one read brought."""
        if self._left:
            self._skip(_SCRATCH[:nbytes])
            return
        self._head += _SCRATCH[:nbytes]
        head, found, rest = self._head.partition(b"\r\n\r\n")
        if found:
            self._head = b""
            self._begin(head, rest)
        elif len(self._head) > _HEAD_BYTES_MAX:
            self._transport.abort()

    def _begin(self, head: bytes, rest: bytes) -> None:
        method, _, line = head.partition(b"\r\n")[0].partition(b" ")
        self._path = line.partition(b" ")[0]
        length = _LENGTH.search(head)
        if method != b"POST":
            self._transport.write(_PLAIN % (b"200 OK", len(_EMPTY), _EMPTY))
            return
        if length is None:
            self._transport.write(_PLAIN % (b"411 Length Required", 2, b"{}"))
            self._transport.close()
            return
        self._length = self._left = int(length[1])
        self._writes = self._answers.known(self._path, self._length)
        self._body.clear()
        self._skip(memoryview(rest))

    def _skip(self, part: memoryview) -> None:
        self._left -= len(part)
        if self._writes is None:
            self._body += part
        if self._left <= 0:
            self._answer(self._writes or self._answers.learn(self._path, bytes(self._body)))

    def _answer(self, writes: Writes) -> None:
        self._left = 0
        script = self._script
        if script.ttft_ms:
            self._wait(script.ttft_ms, writes, 0)
        elif script.pause_ms:
            self._step(writes, 0)
        else:
            for each in writes:
                self._transport.write(each)

    def _step(self, writes: Writes, at: int) -> None:
        self._transport.write(writes[at])
        if at + 1 < len(writes):
            self._wait(self._script.pause_ms, writes, at + 1)

    def _wait(self, mean_ms: float, writes: Writes, at: int) -> None:
        """Write on after a pause of that mean, at most four times as long."""
        pause_ms = min(self._dice.expovariate(1 / mean_ms), 4 * mean_ms) if mean_ms else 0.0
        self._timer = self._loop.call_later(pause_ms / 1000, self._step, writes, at)


async def serve(port: int, script: Script) -> None:
    """Answer on a port of loopback until killed."""
    answers, dice = Answers(script), random.Random(1)  # noqa: S311  pauses, no secret
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: CannedProtocol(answers, script, dice), "127.0.0.1", port, backlog=4096
    )
    gc.collect()
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Script)))
