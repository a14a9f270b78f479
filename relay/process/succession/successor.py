"""Become the next program of this process, and go back to this one where that does not serve.

    SIGHUP -> rehearse, migrate -> execute -> children beside ours -> ours drain
                  | refused          | do not serve: execute the program before

The rehearsal is a process of its own; refused, nothing changed but what was migrated.

What is executed is what the operator started, looked up anew: /opt/relay/current/bin/relay is
another release once the link has moved. The process, its sockets and its children stay.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from relay import event_log
from relay.config import Config
from relay.errors import ConfigError, RelayError
from relay.process.child import child_environ
from relay.process.succession import handover, outcome
from relay.process.succession.handover import HandedChild, HandedSockets, Handover, Program
from relay.process.succession.outcome import Result
from relay.process.systemd import PROLONG_S, Notifier
from relay.tasks import first_of

REHEARSAL: Final = "RELAY_REHEARSAL"
"""Set for a program that is only tried: the digest of the database's URL in force."""
MIGRATES: Final = "RELAY_REHEARSAL_MIGRATES"
"""Set beside it: the schema is to be brought up to date as well, and MIGRATING said before."""
MIGRATING: Final = b"migrating\n"
REHEARSAL_S: Final = 60.0
MIGRATION_S: Final = 3600.0
"""Of all files; each has a bound of its own."""
REASON_CHARACTERS_MAX: Final = 500
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Held back while one program has stopped listening and the next one does not listen yet."""

_log = logging.getLogger(__name__)


class Successor:
    """The way from one program of this process to the next.

    Args:
        data_dir: Where the outcome is told.
        release: What runs, in words.
        sockets: What is listened on, by name.
        demo_port: Where the demonstration's upstream listens; None: there is none.
        handed: What the program before has left; None: this one is the first.
    """

    def __init__(
        self,
        data_dir: Path,
        release: str,
        sockets: dict[str, HandedSockets],
        demo_port: int | None,
        handed: Handover | None,
    ) -> None:
        self.handed = handed
        self.reloads = handed.reloads if handed else 0
        self._data_dir = data_dir
        self._release = release
        self._sockets = sockets
        self._demo_port = demo_port
        self._named = handed.named if handed else named_program(sys.argv, sys.orig_argv)
        self._own = resolved(named_program(sys.argv, sys.orig_argv))

    @property
    def came_back(self) -> bool:
        """Whether a successor has given up: what was handed is what is to be kept."""
        return self.handed is not None and bool(self.handed.failure)

    @property
    def took_over(self) -> bool:
        """Whether a program before this one still has children that serve."""
        return self.handed is not None and not self.handed.failure

    @property
    def current_pids(self) -> set[int]:
        """The children that held their slots in the program before."""
        return {one.pid for one in self.handed.children if one.current} if self.handed else set()

    def tell(self, result: Result, reason: str = "") -> None:
        """Write down how the reload stands."""
        outcome.tell(self._data_dir, self._release, self.reloads, result, reason)

    async def rehearse(self, database_url: str, notifier: Notifier) -> None:
        """Have the next program say whether it could serve, and bring the schema up to date.

        Args:
            database_url: In force.
            notifier: Asked for more time while the schema is changed.

        Raises:
            ConfigError: It could not; the message is its own.
        """
        digest = hashlib.sha256(database_url.encode()).hexdigest()
        environ = {**child_environ(os.environ), REHEARSAL: digest, MIGRATES: "1"}
        try:
            process = await asyncio.create_subprocess_exec(
                *_command(self._named),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environ,
            )
        except OSError as exc:
            raise ConfigError(f"{self._named.file}: {exc.strerror}") from exc
        try:
            said = await self._hear(process, notifier)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            raise ConfigError(_last_words(said) or f"it ended with {process.returncode}")

    async def _hear(self, process: asyncio.subprocess.Process, notifier: Notifier) -> bytes:
        """Return what a rehearsal complained of, when it has ended."""
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(process.stderr.read())
        try:
            async with asyncio.timeout(REHEARSAL_S):
                while (words := await process.stdout.readline()) and words != MIGRATING:
                    pass
                if not words:
                    await process.wait()
                    return await complaints
            _log.warning("the schema is brought up to date for the next release")
            self.tell(Result.RUNNING, "the schema is brought up to date")
            async with asyncio.timeout(MIGRATION_S):
                while not complaints.done():
                    notifier.prolong()
                    await first_of(complaints, within_s=PROLONG_S / 2)
                await process.wait()
        except TimeoutError:
            raise ConfigError("the next program did not end its rehearsal in time") from None
        finally:
            complaints.cancel()
        return complaints.result()

    def become(self, children: Sequence[HandedChild], config: Config) -> NoReturn:
        """Execute the next program in this process.

        Raises:
            ConfigError: It cannot be executed; this one goes on.
        """
        state = Handover(
            sockets=self._sockets,
            children=list(children),
            back=self._own,
            named=self._named,
            config=msgspec.Raw(msgspec.msgpack.encode(config)),
            demo_port=self._demo_port,
            reloads=self.reloads,
        )
        try:
            _execute(self._named, state)
        except OSError as exc:
            raise ConfigError(f"{self._named.file} cannot be executed: {exc.strerror}") from exc

    def go_back(self, children: Sequence[HandedChild], failure: str) -> NoReturn:
        """Execute the program before this one, which takes its own children up again.

        Raises:
            OSError: It cannot be executed any more.
        """
        assert self.handed is not None
        state = msgspec.structs.replace(self.handed, children=list(children), failure=failure)
        _execute(self.handed.back, state)

    def settle(self) -> None:
        """Let go of sockets that only the program before has listened on."""
        kept = {fd for sockets in self._sockets.values() for fd in sockets.fds}
        for sockets in self.handed.sockets.values() if self.handed else ():
            for fd in sockets.fds:
                if fd not in kept:
                    os.close(fd)


def return_to(handed: Handover, error: Exception) -> NoReturn:
    """Execute the program before this one, which could not even begin; its children serve on.

    Raises:
        OSError: It cannot be executed any more.
    """
    failure = error.message if isinstance(error, RelayError) else type(error).__name__
    _log.error("going back to the release before", extra={"reason": failure})
    _execute(handed.back, msgspec.structs.replace(handed, failure=failure))


def hear_signals() -> None:
    """Take the signals that were held back; to be called when there are handlers for them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def named_program(argv: Sequence[str], orig_argv: Sequence[str]) -> Program:
    """Return what this process was started as, so that it can be started so again.

    Args:
        argv: sys.argv.
        orig_argv: sys.orig_argv: with the interpreter's own arguments.
    """
    file = Path(argv[0]).absolute()
    if file.suffix != ".py" and os.access(file, os.X_OK):
        return Program(str(file), [str(file), *argv[1:]])
    return Program(sys.executable, [sys.executable, *orig_argv[1:]])


def resolved(program: Program) -> Program:
    """Return the program as it lies on the disk now: links to its folder are followed.

    The file's own link is not: a virtual environment is found by it.
    """
    file = Path(program.file)
    found = str(file.parent.resolve() / file.name)
    return Program(found, [found, *program.arguments[1:]])


def _command(program: Program) -> list[str]:
    return [program.file, *program.arguments[1:]]


def _last_words(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("relay: ")[:REASON_CHARACTERS_MAX] if lines else ""


def _execute(program: Program, state: Handover) -> NoReturn:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    fd = handover.leave(state, os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        event_log.drain()
        os.execve(program.file, program.arguments, os.environ)  # noqa: S606 - our own program
    finally:  # it was not executed
        handover.call_off(state, fd, os.environ)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
