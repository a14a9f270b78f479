"""A host as an operator has it: `relay serve` on a Postgres and a Redis that are not the relay's.

Host.begin   starts the relay (with its sockets handed to it, as systemd does, where asked for)
Host.end     stops it; its databases go on
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from relay.store.embedded.embedded import Embedded
from tests.live.relay_process import (
    RELAY,
    RelayProcess,
    family,
    kill,
    send,
    until_told,
)

READY_S = 60.0
_BORN = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for at, fd in enumerate(fds):
    os.dup2(fd, 3 + at)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Puts the sockets where systemd puts them, and becomes the relay."""


class Host(RelayProcess):
    """A relay without a demonstration; `program` is what is executed, `environ` what it gets.

    `unread`: what it logs goes into a pipe that is full and that nobody reads.
    """

    usual_program = RELAY

    def __init__(
        self,
        folder: Path,
        databases: Embedded | None,
        *,
        program: Sequence[str] = (RELAY,),
        workers: int = 2,
        environ: dict[str, str] | None = None,
        activated: bool = False,
        unread: bool = False,
    ) -> None:
        self._unread = _full_pipe() if unread else None
        folder.mkdir(parents=True, exist_ok=True)
        self.program = program
        self.sockets = [_listen(), _listen()] if activated else []
        found = [sock.getsockname() for sock in self.sockets]
        listen, admin = (f"127.0.0.1:{port}" for _, port in found) if found else (_free(), _free())
        self.environ = {
            "RELAY_DATA_DIR": str(folder / "data"),
            "RELAY_SERVER__LISTEN": listen,
            "RELAY_SERVER__ADMIN": admin,
            "RELAY_SERVER__CONSOLE": "",
            "RELAY_SERVER__WORKERS": str(workers),
            "RELAY_LOG": "json",
            **(environ or {}),
        }
        if databases is not None:
            self.environ["RELAY_DATABASE__URL"] = databases.database_url
            self.environ["RELAY_REDIS__URL"] = databases.redis_url
        super().__init__(folder / "data", folder / "words", subprocess.Popen(["/bin/true"]))
        self.process.wait()
        self.address, self.admin = listen, admin

    @property
    def begun(self) -> bool:
        """Whether it runs, or ended without being told to."""
        return self.words.exists()

    def launch(self) -> None:
        """Start the relay; it need not serve yet."""
        environ = {**os.environ, **self.environ}
        command = [*self.program, "serve"]
        handed = [sock.fileno() for sock in self.sockets]
        if handed:
            environ |= {"LISTEN_FDS": str(len(handed)), "LISTEN_FDNAMES": "relay:admin"}
            fds = ",".join(map(str, handed))
            command = [sys.executable, "-c", _BORN, fds, *command]
        with self.words.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=subprocess.STDOUT if self._unread is None else self._unread[1],
                env=environ,
                pass_fds=handed,
            )

    async def begin(self) -> None:
        """Start the relay and wait until it is ready."""
        self.launch()
        await self.until_ready()

    async def until_ready(self) -> None:
        """Wait until it says that it is ready."""

        async def ready() -> bool:
            assert self.process.poll() is None, self.words.read_text()[-3000:]
            return (await self.readiness())[0] == 200

        await until_told(ready, "the relay is ready", READY_S)

    async def readiness(self) -> tuple[int, dict[str, Any]]:
        """Return what /readyz answers; (0, {}) while nobody does."""
        with contextlib.suppress(OSError, ValueError):
            answer = await send(f"http://{self.admin}/readyz")
            return answer.status, json.loads(answer.body)
        return 0, {}

    async def cli(self, *words: str, code: int = 0, environ: dict[str, str] | None = None) -> str:
        """Run a command of `relay` with the host's environment."""
        return await super().cli(*words, code=code, environ={**self.environ, **(environ or {})})

    async def end(self) -> None:
        """End it whatever state it is in, and close the sockets it was handed."""
        try:
            await super().end()
        finally:
            for sock in self.sockets:
                sock.close()
            for fd in self._unread or ():
                os.close(fd)

    def destroy(self) -> None:
        """End it at once and all it started, as a power cut does, but for its files."""
        kill(family(self.process.pid))
        self.process.wait()

    async def stop(self) -> int:
        """Stop it as systemd does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, READY_S)

    def said(self, event: str) -> bool:
        """Return whether a line of the log says so."""
        return event in self.words.read_text()


@contextlib.asynccontextmanager
async def own_databases(folder: Path) -> AsyncIterator[Embedded]:
    """A Postgres and a Redis for one test alone, which it may take away."""
    embedded = Embedded(folder / "databases", durable=False)
    await embedded.start()
    try:
        yield embedded
    finally:
        await embedded.stop()


def _full_pipe() -> tuple[int, int]:
    """Return a pipe that nobody reads and that holds not one byte more."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writes, b"." * 4096)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writes, b".")
    os.set_blocking(writes, True)
    return reads, writes


def _listen() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    sock.listen(4096)
    return sock


def _free() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"127.0.0.1:{sock.getsockname()[1]}"
