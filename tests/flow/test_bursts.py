"""Goal: one burst does not hold the loop: events of others come in between.

Method: a data plane with real sockets, its upstream and its clients in threads of their own; a task
that does nothing but begin again sees how much of its own processor time the loop's thread spends
between two of its turns, so that a busy machine changes nothing.
"""

import asyncio
import functools
import socket
import threading
import time
from collections.abc import Callable

import pytest

from relay.model import Snapshot
from relay.wire.request.json_request import PIECE_BYTES, check_utf8
from tests.flow.rig import (
    DONE,
    FINISH,
    MODEL,
    SSE_HEAD,
    Rig,
    chat,
    chunked,
    event,
    make_channel,
    make_snapshot,
    post,
)

MB = 1_000_000
LONG_S = 0.0002
"""A turn with nothing to do is shorter; those of a body that is read in pieces are 1 ms."""
BODY = (
    b'{"id":"1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":1}}'
)
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(BODY),
    BODY,
)


def answer_each(listener: socket.socket, answer: bytes) -> None:
    """Answer each connection's requests, in a thread for each."""

    def serve(sock: socket.socket) -> None:
        with sock:
            while True:
                raw = b""
                while b"\r\n\r\n" not in raw:
                    piece = sock.recv(65_536)
                    if not piece:
                        return
                    raw += piece
                head, _, rest = raw.partition(b"\r\n\r\n")
                left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                left -= len(rest)
                while left > 0:
                    left -= len(sock.recv(1 << 20))
                sock.sendall(answer)

    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(sock,), daemon=True).start()


async def holds_ms(work: Callable[[], bytes]) -> tuple[list[float], bytes]:
    """Return how long the loop was held each time that it was for long, and what `work` did."""
    loop = asyncio.get_running_loop()
    holds = [0.0]
    running = loop.run_in_executor(None, work)
    last = time.thread_time()
    while not running.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        if now - last > LONG_S:
            holds.append((now - last) * 1_000)
        last = now
    return holds, await running


def send(port: int, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(raw)
        told = b""
        while piece := sock.recv(1 << 20):
            told += piece
        return told


async def held_ms(answer: bytes, raw: bytes) -> tuple[list[float], bytes]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_each, args=(listener, answer), daemon=True).start()
        port = listener.getsockname()[1]
        snapshot: Snapshot = make_snapshot([make_channel(1, port)])
        async with Rig(snapshot) as rig:
            await holds_ms(functools.partial(send, rig.port, small()))
            return await holds_ms(functools.partial(send, rig.port, raw))


def small() -> bytes:
    return post("/v1/chat/completions", chat(stream=True))


@pytest.mark.parametrize("text", ["a", "中"])
async def test_a_body_of_20_mb_is_worked_off_in_pieces(text: str) -> None:
    content = text * (20 * MB // len(text.encode()))
    raw = post("/v1/chat/completions", {"model": MODEL, "messages": [{"content": content}]})
    # At once it would be one of 45 to 60 ms in plain Python; JSON itself is decoded in one go.
    shares = []
    for _ in range(3):  # a cold cache makes one turn dear, and not the next time
        holds, told = await held_ms(PLAIN, raw)
        assert told.startswith(b"HTTP/1.1 200"), told[:300]
        shares.append(max(holds) / sum(holds))
    assert min(shares) < 0.75, shares


async def test_500_events_in_one_read_hold_nobody_up() -> None:
    events = b"".join(event("hi there") for _ in range(500))
    burst = SSE_HEAD + chunked(event("a")) + chunked(events) + chunked(FINISH + DONE)
    holds, told = await held_ms(burst + b"0\r\n\r\n", small())
    assert told.count(b"hi there") == 500
    assert max(holds) < 15


def test_pieces_are_cut_anywhere_and_say_what_the_whole_would() -> None:
    for size in range(PIECE_BYTES - 3, PIECE_BYTES + 4):
        text = b"a" * size + "中文字🙂".encode() * 40_000
        check_utf8(text)
        for wrong in (text[:-1], text[: 2 * PIECE_BYTES] + b"\xff" + text[2 * PIECE_BYTES :]):
            with pytest.raises(UnicodeDecodeError):
                check_utf8(wrong)
