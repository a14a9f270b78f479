"""Passes on what the admin listener does not serve itself to the console's operator side.

The pages live in another process, so that nothing that happens there holds up the shipper or the
health checks. A console that is not there is a 503 of a moment.
"""

import os
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from relay.errors import Unavailable
from relay.store.console_socket import NAME, open_folder

TIMEOUT_S: Final = 60.0
CONNECTIONS_MAX: Final = 16
BODY_BYTES_MAX: Final = 1024 * 1024 + 128 * 1024
"""A catalog file, and the form around it."""
CHUNK_BYTES: Final = 64 * 1024
_PAGES: Final = (
    *("login", "logout", "oidc", "invite", "link", "language", "settings"),
    *("static", "openapi.json"),
    *("logs", "channels", "lines", "accounts", "prices", "catalog", "orders", "maintenance"),
    *("audit", "users", "admin/v1/users", "admin/v1/audit"),
)
PASSED_ON: Final = rf"/{{head:(?:{'|'.join(_PAGES)})?}}{{tail:(?:/.*)?}}"
"""The paths of the console's operator side; a path that nobody has is told so right here."""
_OURS: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "x-relay-peer"}
)


class ConsoleProxy:
    """The handler of every path that no other handler has.

    Args:
        data_dir: Where the relay keeps its state: the socket is in it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._session: aiohttp.ClientSession | None = None
        self._folder = -1

    async def pass_on(self, request: web.Request) -> web.StreamResponse:
        """Send a request to the console, and its answer back as it comes."""
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _OURS
        }
        headers["x-relay-peer"] = request.remote or ""
        try:
            async with self._open().request(
                request.method,
                f"http://console{request.rel_url}",
                headers=headers,
                data=await request.clone(client_max_size=BODY_BYTES_MAX).read() or None,
                allow_redirects=False,
                auto_decompress=False,
            ) as found:
                return await _copy(request, found)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable("the console is not there: it comes back in a moment") from error

    async def close(self, _app: web.Application) -> None:
        """Let go of the connections."""
        if self._session is not None:
            await self._session.close()
            os.close(self._folder)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._folder = open_folder(self._data_dir)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(
                    f"/proc/self/fd/{self._folder}/{NAME}", limit=CONNECTIONS_MAX
                ),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers={"User-Agent", "Accept", "Accept-Encoding", "Content-Type"},
            )
        return self._session


async def _copy(request: web.Request, found: aiohttp.ClientResponse) -> web.StreamResponse:
    answer = web.StreamResponse(status=found.status, reason=found.reason)
    for name, value in found.headers.items():
        if name.lower() not in _OURS:
            answer.headers.add(name, value)
    await answer.prepare(request)
    if request.method != "HEAD":
        async for chunk in found.content.iter_chunked(CHUNK_BYTES):
            await answer.write(chunk)
        await answer.write_eof()
    return answer
