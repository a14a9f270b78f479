"""A stranger that tries keys, so many a second whatever becomes of them, from one address.

    a try --> a connection that has its answer, else a new one; where there are as many as there
              may be, the one that has waited longest is dropped for it

So neither a door that does not read nor one that does not answer slows it down. It is elsewhere in
truth: here it takes the processor from nobody (SCHED_IDLE), its bytes stand ready, and it has
sockets and no loop.

Run: python -m benchmarks.load.stranger < plan.json > heard.json
"""

import contextlib
import errno
import os
import resource
import select
import socket
import struct
import sys
import time
from typing import Final

import msgspec

from benchmarks.load.job import Call, Job
from benchmarks.load.request import make_request

TRIES_A_TURN: Final = 32
"""Between two looks at what was answered."""
BEHIND_S_MAX: Final = 0.05
"""A stranger that had no processor for longer does not make up for all of it at once."""
_LOOK_S: Final = 0.001
_CLOSE_AT_ONCE: Final = struct.pack("ii", 1, 0)
"""No port of ours has to rest."""
_BIND_ADDRESS_NO_PORT: Final = 24
"""So that the same port serves again. Source: ip(7), IP_BIND_ADDRESS_NO_PORT."""
_READ_BYTES: Final = 16 * 1024
_UNDER_WAY: Final = frozenset({errno.EAGAIN, errno.ENOTCONN, errno.EINPROGRESS})


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What it tries: `rate` keys a second from `source`, over at most so many connections.

    `begin_ns`: of time.monotonic_ns().
    """

    port: int
    source: str
    rate: int
    connections: int
    begin_ns: int
    seconds: float
    host: str = "127.0.0.1"
    key: str = "relay_wrong"


class Heard(msgspec.Struct, kw_only=True):
    """What became of it.

    `tries`: on a connection that was kept, or on one of the `dialed` new ones. `answers`: by
    status. `closed`: connections that ended without an answer. `dropped`: those it gave up.
    `cpu_share`: of one core.
    """

    tries: int = 0
    dialed: int = 0
    answers: dict[int, int] = {}
    closed: int = 0
    dropped: int = 0
    cpu_share: float = 0.0


class Stranger:
    """Tries keys by a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        job = Job(host=plan.host, port=plan.port, key=plan.key)
        call = Call(stream=False, prompt_bytes=100)
        self._request = make_request(job, call, f"{plan.host}:{plan.port}")
        self._poll = select.epoll()
        self._idle: list[socket.socket] = []
        self._waiting: dict[int, socket.socket] = {}
        """By descriptor, the one that has waited longest first."""
        self.heard = Heard()

    def run(self) -> Heard:
        """Try until the plan is over."""
        plan, heard = self._plan, self.heard
        time.sleep(max(0.0, plan.begin_ns / 1e9 - time.monotonic()))
        begun_s, used_s = time.monotonic(), time.process_time()
        due, seen_s = 0.0, begun_s
        while (now_s := time.monotonic()) < begun_s + plan.seconds:
            due = min(due + (now_s - seen_s) * plan.rate, plan.rate * BEHIND_S_MAX)
            seen_s = now_s
            for _ in range(min(int(due), TRIES_A_TURN)):
                self._try()
                due -= 1.0
            for fd, event in self._poll.poll(0 if due >= 1.0 else _LOOK_S):
                self._look(fd, event)
        heard.cpu_share = (time.process_time() - used_s) / (time.monotonic() - begun_s)
        return heard

    def _try(self) -> None:
        self.heard.tries += 1
        if self._idle:
            sock = self._idle.pop()
            self._waiting[sock.fileno()] = sock
            with contextlib.suppress(OSError):  # it is told apart when it is looked at
                sock.send(self._request)
            return
        if len(self._waiting) >= self._plan.connections:
            self.heard.dropped += 1
            self._close(next(iter(self._waiting)))
        self._dial()

    def _dial(self) -> None:
        sock = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_AT_ONCE)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._plan.source, 0))
        error = sock.connect_ex((self._plan.host, self._plan.port))
        if error not in (0, errno.EINPROGRESS):
            self.heard.closed += 1
            sock.close()
            return
        self.heard.dialed += 1
        self._waiting[sock.fileno()] = sock
        wanted = select.EPOLLIN
        try:
            sock.send(self._request)  # over loopback it is connected by now
        except OSError as failed:
            if failed.errno in _UNDER_WAY:
                wanted = select.EPOLLOUT
        self._poll.register(sock.fileno(), wanted)

    def _look(self, fd: int, event: int) -> None:
        sock = self._waiting.get(fd)
        if sock is None:  # idle, and closed from afar
            sock = next(one for one in self._idle if one.fileno() == fd)
            self._idle.remove(sock)
            sock.close()
            return
        try:
            if event & select.EPOLLOUT:
                self._poll.modify(fd, select.EPOLLIN)
                sock.send(self._request)
                return
            answer = sock.recv(_READ_BYTES)
        except OSError:
            answer = b""
        if not answer.startswith(b"HTTP/1.1 "):
            self.heard.closed += 1
            self._close(fd)
            return
        status = int(answer[9:12])
        self.heard.answers[status] = self.heard.answers.get(status, 0) + 1
        if b"\r\nconnection: close" in answer.lower():
            self._close(fd)
        else:
            self._idle.append(self._waiting.pop(fd))

    def _close(self, fd: int) -> None:
        """Close one that waits; the kernel forgets that it was looked at."""
        self._waiting.pop(fd).close()


def main() -> None:
    """Read the plan, try, write what became of it."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    sys.stdout.buffer.write(msgspec.json.encode(Stranger(plan).run()))


if __name__ == "__main__":
    main()
