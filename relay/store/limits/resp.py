"""A pipelined connection to Redis for the limiter's scripts: a few microseconds a call.

redis-py's pool, retries and telemetry cost 63-85 us a call, and a call that it cancels or times
out may be sent twice. Here a batch is one write; it is answered within its deadline or the
connection is dropped, and nothing is ever sent again: whoever asked treats the outcome as unknown.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, TypeVar, cast

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from relay.errors import DependencyDown

Command = tuple[bytes | str | int, ...]

NO_SCRIPT: Final = "NOSCRIPT"
_T = TypeVar("_T")
TURNS: Final = 8
"""Of the loop, after a deadline: what is in the socket by then has come in time."""


class Script:
    """A Lua script of store/lua, called by its digest."""

    def __init__(self, name: str) -> None:
        self.text = files("relay.store").joinpath("lua", name).read_bytes()
        self.digest = sha1(self.text, usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], *arguments: bytes | str | int) -> Command:
        """Return the command that runs it."""
        return "EVALSHA", self.digest, len(keys), *keys, *arguments

    def spell_out(self, command: Command) -> Command:
        """Return the same call with the text in place of the digest."""
        return "EVAL", self.text, *command[2:]


class RespConnection(asyncio.Protocol):
    """One connection; answers come in the order of the commands."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._due: deque[asyncio.Future[Any]] = deque()
        self._transport: asyncio.Transport | None = None

    @property
    def usable(self) -> bool:
        """Whether commands may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def unanswered(self) -> int:
        """How many commands have no reply yet."""
        return len(self._due)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one write and return their replies; an error reply is a value.

        To be bounded by the caller's deadline. If it ends early, the connection is dropped: a late
        answer must not be taken for the next one's.

        Raises:
            DependencyDown: The connection broke, or spoke something else than RESP.
        """
        if not self.usable:
            raise DependencyDown("the limiter's Redis closed the connection")
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in commands]
        self._due.extend(answers)
        self._transport.write(b"".join(map(_pack, commands)))
        try:
            return [await answer for answer in answers]
        except BaseException:
            self.close()
            raise

    def tell(self, commands: Sequence[Command]) -> asyncio.Future[Any]:
        """Send some commands, at least one, in one write, and wait for none; only while usable.

        Returns:
            The reply to the last of them, an error reply as a value; or DependencyDown.
        """
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        answers = [loop.create_future() for _ in commands]
        self._due.extend(answers)
        self._transport.write(b"".join(map(_pack, commands)))
        return answers[-1]

    def close(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()
        self._fail()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Give each reply to who waits for it."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                answer = self._due.popleft()
                if not answer.done():
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits."""
        self._transport = None
        self._fail()

    def _fail(self) -> None:
        while self._due:
            answer = self._due.popleft()
            if not answer.done():
                answer.set_exception(DependencyDown("the connection to the limiter's Redis broke"))
                answer.exception()  # Whoever asked may have left: then nobody else looks at it.


async def connect(url: str) -> RespConnection:
    """Return a connection to redis://, rediss:// or unix://, signed in; bounded by the caller.

    Raises:
        DependencyDown: Unreachable, or it did not let us in. The message holds no password.
    """
    options = parse_url(url)
    loop = asyncio.get_running_loop()
    try:
        if path := options.get("path"):
            _, connection = await loop.create_unix_connection(RespConnection, path)
        else:
            secure = options.get("connection_class") is SSLConnection
            _, connection = await loop.create_connection(
                RespConnection,
                options.get("host", "localhost"),
                options.get("port", 6379),
                ssl=ssl.create_default_context() if secure else None,
            )
    except OSError as exc:
        raise DependencyDown("the limiter's Redis cannot be reached") from exc
    try:
        replies = await connection.ask([*_greeting(options)])
    except BaseException:
        connection.close()
        raise
    if any(isinstance(reply, hiredis.ReplyError) for reply in replies):
        connection.close()
        raise DependencyDown("the limiter's Redis refused the login or the database")
    return connection


async def in_time(work: Coroutine[Any, Any, _T], seconds: float, reason: str) -> _T:
    """Return what `work` gives within its time.

    A worker that was busy or got no CPU for as long finds its timers due before it has looked at
    its sockets: so what has arrived is read first, and what waits for it woken, else the worker
    would take its own lag for Redis's. Where Redis is slow these turns take no time.

    Raises:
        DependencyDown: It took too long; `reason` is its message.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(TURNS):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
    finally:
        task.cancel()
    raise DependencyDown(reason)


def _pack(command: Command) -> bytes:
    # hiredis types its argument as a tuple of one.
    packed: bytes = hiredis.pack_command(cast("tuple[bytes]", command))
    return packed


def _greeting(options: Mapping[str, Any]) -> list[Command]:
    commands: list[Command] = []
    if password := options.get("password"):
        name = options.get("username") or "default"
        commands.append(("AUTH", name, password))
    if database := options.get("db"):
        commands.append(("SELECT", database))
    return commands
