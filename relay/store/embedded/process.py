"""A server process of ours: started under a user, found again, stopped within a deadline (Linux).

Its processes are known by program name and working directory, not by a pid file: so those that a
killed supervisor left behind are found too, and a reused pid is never mistaken for one of them.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from relay.errors import DependencyDown

T = TypeVar("T")

LOG_BYTES_MAX: Final = 8 * 1024 * 1024
"""A log over this is renamed to NAME.1 at the next start; the servers say little."""
POLL_S: Final = 0.01
QUOTE_CHARACTERS_MAX: Final = 300
PARENT_FIELD: Final = 1
"""Fields of /proc/PID/stat, counted after the program's name. Source: proc(5)."""
ENVIRONMENT: Final = {"LC_ALL": "C", "PATH": os.defpath}
"""All that a server gets to see: our own environment holds secrets and PG* settings."""
_DIE_WITH_PARENT: Final = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, int(sys.argv[1])); "
    "os.execvp(sys.argv[2], sys.argv[2:])"
)
"""Source: prctl(2), PR_SET_PDEATHSIG is 1; it outlives an execve of a plain program."""


class Identity(NamedTuple):
    """A user of the system that a server runs as."""

    name: str
    uid: int
    gid: int


class Step(NamedTuple):
    """One step of a stop: a signal, and how long it may take to work."""

    number: signal.Signals
    wait_s: float


def run(
    command: Sequence[str | Path], identity: Identity | None, *, wait_s: float
) -> subprocess.CompletedProcess[bytes]:
    """Run a short command to its end as `identity` (None: as we are); stderr joins stdout.

    Raises:
        OSError: It could not be started; PermissionError where `identity` may not execute it,
            TimeoutError where it took longer than `wait_s` and was killed.
    """
    try:
        return subprocess.run(  # noqa: S603 -- the commands are ours
            command,
            check=False,
            cwd="/",
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=wait_s,
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=[] if identity else None,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(errno.ETIMEDOUT, f"no end in {wait_s:.0f} s") from error


async def in_thread(work: Callable[[], T]) -> T:
    """Do blocking work in a thread, and to its end even if we are cancelled.

    What goes on behind a cancelled start would still be there when the next one begins.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait([task])


class _Adopted:
    """A child that Popen does not know."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return how it ended; None while it runs."""
        if self._code is None:
            try:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self._code = -signal.SIGKILL
            else:
                self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code


class ServerProcess:
    """One server: at most one set of processes of `program` lives in `folder`.

    Args:
        program: The name the kernel knows its processes by ("postgres").
        folder: Its working directory; no other server may use it.
        log: Where its output is appended. Opened by us, so its user needs no way there.
        identity: The user it runs as; None: our own.
        steps: How it is stopped, politely first.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        log: Path,
        identity: Identity | None,
        *,
        steps: Sequence[Step],
    ) -> None:
        self.program = program
        self._folder = folder
        self._log = log
        self._identity = identity
        self._steps = steps
        self._process: subprocess.Popen[bytes] | _Adopted | None = None

    @property
    def exited(self) -> bool:
        """Whether it is not running: never started, stopped, or dead on its own."""
        return self._process is None or self._process.poll() is not None

    def adopt(self) -> bool:
        """Take it as it runs, started by an earlier program of this process; tell if there is one.

        It goes on being tied to this process: the thread that started it is the one that executed
        the program of now.
        """
        ours = [pid for pid in _without_children(self._pids()) if _parent(pid) == os.getpid()]
        if len(ours) == 1:
            self._process = _Adopted(ours[0])
        return len(ours) == 1

    def start(self, command: Sequence[str | Path]) -> None:
        """Start it; it dies with this thread, so call this from one that lives as long as we.

        Raises:
            DependencyDown: The program could not be executed.
        """
        assert self.exited
        _rotate(self._log)
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 -- the command is ours
                    [*_tied_to_us(self._steps[0].number, self._identity), *command],
                    cwd=self._folder,
                    env=ENVIRONMENT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Ctrl-C goes to the whole terminal group; the servers must outlive the drain.
                    start_new_session=True,
                    user=self._identity.uid if self._identity else None,
                    group=self._identity.gid if self._identity else None,
                    extra_groups=[] if self._identity else None,
                )
        except OSError as error:
            raise DependencyDown(f"cannot start {self.program}: {error.strerror}") from error

    async def wait_until(self, ready: Callable[[], Awaitable[bool]], *, wait_s: float) -> None:
        """Wait until `ready` says so.

        Raises:
            DependencyDown: It exited instead, or `wait_s` passed; quotes its last log line.
        """
        try:
            async with asyncio.timeout(wait_s):
                while not await ready():
                    if self.exited:
                        raise DependencyDown(f"{self.program} did not start: {self._last_words()}")
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise DependencyDown(
                f"{self.program} was not ready in {wait_s:.0f} s: {self._last_words()}"
            ) from error

    async def stop(self) -> None:
        """Stop every process of it, those of an earlier supervisor too; none is left, or we raise.

        Raises:
            DependencyDown: Some survived every step.
        """
        for step in self._steps:
            if await self._gone(step):
                return
        raise DependencyDown(f"{self.program} in {self._folder} does not stop")

    async def _gone(self, step: Step) -> bool:
        """Signal what is left and wait; return whether nothing is left."""
        pids = self._pids()
        for pid in pids if step.number == signal.SIGKILL else _without_children(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, step.number)
        try:
            async with asyncio.timeout(step.wait_s):
                while True:
                    if not self._pids():
                        return True
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return False

    def _pids(self) -> set[int]:
        """Return the pids of its living processes, whoever started them."""
        numbers = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
        pids = {number for number in numbers if self._is_ours(Path("/proc", str(number)))}
        if self._process is not None and not self.exited:
            pids.add(self._process.pid)  # It may not have got as far as its program.
        return pids

    def _is_ours(self, process: Path) -> bool:
        try:
            if process.joinpath("comm").read_text().rstrip("\n") != self.program:
                return False
            return process.joinpath("cwd").readlink() == self._folder
        except OSError:
            return False  # Gone meanwhile, a zombie, or another user's.

    def _last_words(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").split("\n")
        except OSError:
            return f"see {self._log}"
        line = next((line for line in reversed(lines) if line.strip()), "it said nothing")
        return f"{line.strip()[:QUOTE_CHARACTERS_MAX]} (see {self._log})"


def _tied_to_us(number: signal.Signals, identity: Identity | None) -> list[str]:
    """Return a command prefix under which the kernel sends `number` when our thread dies.

    Another user may not be able to run our Python: for that one it is setpriv. As ourselves it is
    our Python, because setpriv also sets capabilities, which a service's system call filter
    forbids. Where there is neither, a supervisor that is killed leaves the server running; the
    next start stops it.
    """
    if identity is None and sys.executable:
        return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(number.value)]
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--"] if setpriv else []


def _without_children(pids: set[int]) -> set[int]:
    """Return those of `pids` whose parent is none of them: Postgres signals its own children."""
    return {pid for pid in pids if _parent(pid) not in pids}


def _parent(pid: int) -> int:
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return 0
    # The name stands in parentheses and may hold any character, so count from the last one.
    return int(stat.rpartition(")")[2].split()[PARENT_FIELD])


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.replace(log.with_name(f"{log.name}.1"))
