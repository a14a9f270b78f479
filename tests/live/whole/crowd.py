"""A crowd of clients in a process of its own: one loop over epoll, so that it is never short.

closed   so many clients; each asks again when it is answered (after a no, PAUSE_S later)
offered  so many calls a second, whatever becomes of them

Each call is on a connection of its own, or on one of at most KEPT_MAX that are kept. A client gives
up where no byte of its answer has come PATIENCE_S after it began to dial.
"""

import contextlib
import multiprocessing
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final, NamedTuple

PATIENCE_S: Final = 5.0
WHOLE_S: Final = 20.0
PAUSE_S: Final = 0.2
KEPT_MAX: Final = 400
TICK_S: Final = 0.002
READ_BYTES: Final = 1 << 16
HEAD_END: Final = b"\r\n\r\n"


class Answer(NamedTuple):
    """What became of a call: when it was made, sent, begun to be answered and over.

    `status` 0: it had no answer; `sent_s` 0: it was never connected.
    """

    asked_s: float
    sent_s: float
    begun_s: float
    ended_s: float
    status: int
    whole: bool
    retry: bool


class Crowd(NamedTuple):
    """Whom to ask what, and how: `clients` in a closed loop, or `per_s` offered."""

    port: int
    requests: tuple[bytes, ...]
    seconds: float
    clients: int = 0
    per_s: float = 0.0
    kept: bool = False


class _Line:
    """One connection, and the call on it."""

    def __init__(self, port: int) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.connect_ex(("127.0.0.1", port))
        self.connected = False
        self.request = b""
        self.asked_s = self.sent_s = self.begun_s = 0.0
        self.got = bytearray()

    def ask(self, request: bytes, now_s: float) -> None:
        self.request, self.asked_s, self.sent_s, self.begun_s = request, now_s, 0.0, 0.0
        self.got.clear()

    def answer(self, now_s: float) -> Answer:
        head, _, _ = self.got.partition(HEAD_END)
        status = int(head[9:12]) if head[:9] == b"HTTP/1.1 " else 0
        retry = b"\r\nretry-after:" in head.lower()
        whole = status == 200 and self.is_whole()
        return Answer(self.asked_s, self.sent_s, self.begun_s, now_s, status, whole, retry)

    def is_whole(self) -> bool:
        at = self.got.find(HEAD_END)
        if at < 0:
            return False
        head = bytes(self.got[:at]).lower()
        named = head.find(b"content-length:")
        if named < 0:
            return self.got.endswith(b"0\r\n\r\n") and b"[DONE]" in self.got[-64:]
        size = int(head[named + 15 :].split(b"\r\n", 1)[0])
        return len(self.got) - at - len(HEAD_END) >= size

    def closes(self) -> bool:
        return b"connection: close" in bytes(self.got[: self.got.find(HEAD_END)]).lower()


class _Clients:
    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.poll = select.epoll()
        self.lines: dict[int, _Line] = {}
        self.order: deque[tuple[float, _Line]] = deque()
        self.idle: list[_Line] = []
        self.answers: list[Answer] = []
        self.again: deque[float] = deque()
        self.asked = self.unasked = 0

    def ask(self, now_s: float) -> None:
        request = self.crowd.requests[self.asked % len(self.crowd.requests)]
        if self.idle:
            line = self.idle.pop()
        elif self.crowd.kept and self.crowd.per_s and len(self.lines) >= KEPT_MAX:
            self.unasked += 1
            return
        else:
            line = _Line(self.crowd.port)
            self.lines[line.sock.fileno()] = line
            self.poll.register(line.sock, select.EPOLLOUT)
        self.asked += 1
        line.ask(request, now_s)
        self.order.append((now_s, line))
        if line.connected:
            self.send(line)

    def send(self, line: _Line) -> None:
        line.sent_s = time.monotonic()
        with contextlib.suppress(OSError):
            line.sock.send(line.request)

    def drop(self, line: _Line) -> None:
        self.lines.pop(line.sock.fileno(), None)
        line.sock.close()

    def end(self, line: _Line, *, keeps: bool) -> None:
        now_s = time.monotonic()
        answer = line.answer(now_s)
        line.asked_s = 0.0
        self.answers.append(answer)
        if keeps and self.crowd.kept and not line.closes():
            self.idle.append(line)
        else:
            self.drop(line)
        if self.crowd.clients:
            self.again.append(now_s + (0.0 if answer.whole else PAUSE_S))

    def heard(self, line: _Line) -> None:
        try:
            data = line.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not line.asked_s:
            if line in self.idle:
                self.idle.remove(line)
            self.drop(line)
            return
        if data and not line.begun_s:
            line.begun_s = time.monotonic()
        line.got += data
        if not data or line.is_whole():
            self.end(line, keeps=bool(data))

    def turn(self) -> None:
        for fd, events in self.poll.poll(TICK_S, 256):
            line = self.lines.get(fd)
            if line is None:
                continue
            if not line.connected and not events & (select.EPOLLERR | select.EPOLLHUP):
                line.connected = True
                self.poll.modify(fd, select.EPOLLIN)
                self.send(line)
            elif line.connected:
                self.heard(line)
            else:
                self.end(line, keeps=False)

    def give_up(self, now_s: float) -> None:
        while self.order and self.order[0][0] < now_s - PATIENCE_S:
            asked_s, line = self.order.popleft()
            if line.asked_s == asked_s and not line.begun_s:
                self.end(line, keeps=False)

    def run(self) -> list[Answer]:
        begun_s = due_s = time.monotonic()
        until_s = begun_s + self.crowd.seconds
        self.again.extend([begun_s] * self.crowd.clients)
        while (now_s := time.monotonic()) < until_s:
            while self.crowd.per_s and due_s <= now_s:
                due_s += 1 / self.crowd.per_s
                self.ask(now_s)
            for _ in range(len(self.again)):
                again_s = self.again.popleft()
                if again_s <= now_s:
                    self.ask(now_s)
                else:
                    self.again.append(again_s)
            self.turn()
            self.give_up(now_s)
        self.crowd = self.crowd._replace(clients=0)
        while time.monotonic() < until_s + WHOLE_S and any(
            line.asked_s for line in self.lines.values()
        ):
            self.turn()
            self.give_up(time.monotonic())
        for line in list(self.lines.values()):
            self.drop(line)
        return self.answers


def act(crowd: Crowd) -> list[Answer]:
    """Be the crowd; return what became of each call."""
    return _Clients(crowd).run()


@contextlib.contextmanager
def processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """Have processes for crowds: `submit(act, crowd)`."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        list(pool.map(abs, range(count)))
        yield pool


def good_per_s(answers: Sequence[Answer], since_s: float, until_s: float) -> float:
    """Return how many whole answers a second ended in a time."""
    good = sum(answer.whole and since_s <= answer.ended_s < until_s for answer in answers)
    return good / (until_s - since_s)
