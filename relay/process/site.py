"""A listener of aiohttp's on a socket that is there, in the clear or over TLS."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, Final

from aiohttp import web

from relay.tls import ListenerTls, TlsFiles

LOOK_S: Final = 1.0
"""How often its files are looked at."""


async def serve_site(
    runner: web.AppRunner, sock: socket.socket, files: TlsFiles | None
) -> Coroutine[Any, Any, None]:
    """Listen, and return the work that keeps its certificate in step with its files, for ever.

    Raises:
        ConfigError: RELAY; the files are not there, or no good.
    """
    tls = None if files is None else ListenerTls(files)
    await web.SockSite(runner, sock, ssl_context=tls.context if tls else None).start()
    return _refresh_forever(tls)


async def _refresh_forever(tls: ListenerTls | None) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        if tls is not None:
            tls.refresh()
