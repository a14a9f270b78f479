"""Answers commands that ask for a secret which only the service has (store.secrets.desk).

What it gives out: any credential of the service manager (`cred:NAME`), and of the environment what
this relay's own configuration refers to.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.config import Config
from relay.errors import ConfigError
from relay.store.secrets import desk
from relay.store.secrets.desk import Answer, Question
from relay.store.secrets.refs import is_reference, resolve

PATIENCE_S: Final = 2.0

_log = logging.getLogger(__name__)


class SecretsDesk:
    """The desk of one relay; whoever comes before it runs waits in line.

    Args:
        config: What it runs under.
        data_dir: Where the socket goes.
    """

    def __init__(self, config: Config, data_dir: Path) -> None:
        self._known = set(_references(msgspec.to_builtins(config)))
        self._sock: socket.socket | None = None
        try:
            self._sock = desk.listen(data_dir)
        except OSError as error:
            _log.error("commands cannot ask for secrets", extra={"error": error.strerror})

    async def run(self) -> None:
        """Answer for ever; without a place for the socket, do nothing."""
        if self._sock is None:
            await asyncio.Event().wait()
            return
        server = await asyncio.start_unix_server(self._serve, sock=self._sock, limit=desk.BYTES_MAX)
        async with server:
            await server.serve_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if desk.may_ask(writer.get_extra_info("socket")):
                async with asyncio.timeout(PATIENCE_S):
                    answer = self.answer(await reader.readline())
                    writer.write(msgspec.json.encode(answer) + b"\n")
                    await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # who asked has gone, or never asked
        finally:
            writer.close()

    def answer(self, question: bytes) -> Answer:
        """Return the answer to one line."""
        try:
            reference = msgspec.json.decode(question, type=Question).reference
        except msgspec.MsgspecError:
            return Answer(refusal="not a question")
        if not (reference.startswith("cred:") or reference in self._known):
            return Answer(refusal="this relay is not configured with that")
        try:
            secret = resolve(reference, os.environ, path="reference").reveal()
        except ConfigError as error:
            return Answer(refusal=error.message)
        _log.info("a command was given a secret", extra={"path": reference})
        return Answer(secret=secret)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, str) and is_reference(value) and not value.startswith("file:"):
        yield value
