"""One child process of the supervisor, from its birth to its end."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from relay.process import lifeline
from relay.process.lifeline import Settings
from relay.process.succession.adopted import AdoptedProcess
from relay.process.succession.handover import HandedChild
from relay.tasks import cancel_all, first_of

RENEWALS_MAX: Final = 1_024
STRIPPED: Final = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "RELAY_SECRETS_FROM")
"""What systemd told the supervisor alone."""


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a child inherits."""
    return {name: value for name, value in environ.items() if not name.startswith(STRIPPED)}


class Running(Protocol):
    """A process that this one has to reap: asyncio's, or one that was adopted."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """How it ended; None before."""

    async def wait(self) -> int:
        """Wait for its end."""

    def send_signal(self, number: signal.Signals, /) -> None:
        """Send it a signal."""


class Child:
    """A running process at the other end of a lifeline.

    `assigned_s` and `seen_s` are monotonic seconds: when it was told what to be, and its last sign
    of life; None before. Until it is assigned it is called "spare". Once it is ready it is heard
    only by `hear`: nobody wakes up for each beat of each child.
    """

    def __init__(self, process: Running, sock: socket.socket) -> None:
        self.name = "spare"
        self.pid = process.pid
        self.assigned_s: float | None = None
        self.seen_s: float | None = None
        self.renewals: set[str] = set()
        """Slots whose workers it asks to be followed by new ones."""
        self._process = process
        self._ready = asyncio.Event()
        self._sock = sock
        self._stopped = False
        asyncio.get_running_loop().add_reader(sock, self.hear)

    @classmethod
    async def start(cls, command: Sequence[str], environ: Mapping[str, str]) -> "Child":
        """Start `command --lifeline FD` and return at once; it waits for `assign`.

        Raises:
            OSError: The process could not be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                "--lifeline",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=child_environ(environ),
                # Out of the terminal's foreground group: Ctrl-C is for the supervisor to hear,
                # which then lets the children drain.
                process_group=0,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    @classmethod
    def adopt(cls, handed: HandedChild) -> "Child":
        """Take up a child that an earlier program of this process has started."""
        sock = socket.socket(fileno=handed.fd)
        sock.settimeout(0)
        child = cls(AdoptedProcess(handed.pid), sock)
        child.name = handed.slot
        child.assigned_s = child.seen_s = time.monotonic()
        child._stopped = handed.stopped
        if handed.ready:
            child._become_ready()
        return child

    def hand(self, *, current: bool, drains: bool) -> HandedChild:
        """Return what the next program of this process has to know of it."""
        return HandedChild(
            slot=self.name,
            pid=self.pid,
            fd=self._sock.fileno(),
            ready=self._ready.is_set(),
            current=current,
            stopped=self._stopped,
            drains=drains,
        )

    def assign(self, settings: Settings, listener: socket.socket | None) -> None:
        """Tell the child what to be. If it is dead already, `exited` says so, not this."""
        self.name = settings.name
        self.assigned_s = time.monotonic()
        with contextlib.suppress(OSError):
            lifeline.send_settings(self._sock, settings, listener)

    @property
    def stopped(self) -> bool:
        """Whether it was told to finish."""
        return self._stopped

    def silent_s(self, now_s: float) -> float:
        """Return for how long it has given no sign of life, as of `now_s` (monotonic)."""
        return 0.0 if self.seen_s is None else now_s - self.seen_s

    @property
    def age_s(self) -> float:
        """Seconds since it was assigned, 0 before."""
        return 0.0 if self.assigned_s is None else time.monotonic() - self.assigned_s

    async def exited(self) -> int:
        """Wait for the end; return the exit code, or minus the signal's number."""
        return await self._process.wait()

    async def became_ready(self) -> bool:
        """Wait until the child is ready or gone; return whether it is ready."""
        await first_of(self._ready.wait(), self.exited())
        return self.is_ready

    @property
    def is_ready(self) -> bool:
        """Whether the child said that it can serve, and lives."""
        return self._ready.is_set() and self.alive

    @property
    def alive(self) -> bool:
        """Whether the process has not been reaped yet."""
        return self._process.returncode is None

    def stop(self) -> None:
        """Ask the child to finish (SIGTERM); asking again changes nothing."""
        if not self._stopped:
            self._stopped = True
            self._signal(signal.SIGTERM)

    def hurry(self) -> None:
        """Ask the child to finish now (another SIGTERM)."""
        self._stopped = True
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the child at once (SIGKILL)."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of the lifeline of a child that is gone."""
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()

    def _signal(self, number: signal.Signals) -> None:
        # asyncio remembers that it reaped the process, so no stranger with the same pid is hit.
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def hear(self) -> None:
        """Take in all that it has said by now."""
        while self._sock.fileno() >= 0:
            try:
                packet = self._sock.recv(lifeline.PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except ConnectionError:
                packet = b""
            if not packet:
                asyncio.get_running_loop().remove_reader(self._sock)
                return
            self._take(packet)

    def _become_ready(self) -> None:
        self._ready.set()
        asyncio.get_running_loop().remove_reader(self._sock)

    def _take(self, packet: bytes) -> None:
        now_s = time.monotonic()
        word, _, at = packet.partition(b" ")
        if word == lifeline.BEAT and at:
            self.seen_s = min(float(at), now_s)
            return
        self.seen_s = now_s
        if packet == lifeline.READY:
            self._become_ready()
        elif packet.startswith(lifeline.RENEW) and len(self.renewals) < RENEWALS_MAX:
            self.renewals.add(packet.removeprefix(lifeline.RENEW).decode(errors="replace"))


async def all_gone(children: Sequence[Child]) -> None:
    """Wait for the end of all of them."""
    for child in children:
        await child.exited()


async def all_ready(children: Sequence[Child]) -> None:
    """Wait until each is ready, or one of them is gone."""
    waits = [asyncio.create_task(child.became_ready()) for child in children]
    try:
        for wait in asyncio.as_completed(waits):
            if not await wait:
                return
    finally:
        await cancel_all(waits)


def describe_exit(code: int) -> str:
    """Return an exit as words: "exit 1", "SIGKILL"."""
    if code >= 0:
        return f"exit {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def own_command(*arguments: str) -> tuple[str, ...]:
    """Return the command line of this program with other arguments.

    -P keeps the working directory off the import path: a folder named `relay` there is not us.
    """
    return (sys.executable, "-P", "-m", "relay", *arguments)
