"""The night on the admin listener, for whoever holds the admin token.

GET  /admin/v1/maintenance           the window, and what each work did last
POST /admin/v1/maintenance/run       {"works": ["vacuum"]}: now; all of them where none is named
POST /admin/v1/maintenance/skip      {"nights": 1}: so many do not open; 0: they open again
"""

import datetime
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from relay.control.api.json import decode_body, json_answer
from relay.night_rules import Maintenance
from relay.store.maintenance import ask_run, read_status, skip_nights
from relay.store.postgres import Connection

Connect = Callable[[], AbstractAsyncContextManager[Connection]]


class RunRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/maintenance/run; may be left out."""

    works: list[Literal["memory", "backup", "retention", "vacuum", "reindex"]] = []


class SkipRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /admin/v1/maintenance/skip; may be left out."""

    nights: Annotated[int, Meta(ge=0, le=30)] = 1


class MaintenanceApi:
    """The handlers, and what they need.

    Args:
        rules: When the nights are.
        connect: Gives a connection for as long as one request takes.
    """

    def __init__(self, rules: Maintenance, connect: Connect) -> None:
        self._rules = rules
        self._connect = connect

    def routes(self) -> list[web.RouteDef]:
        """Return the routes, all below /admin/v1."""
        return [
            web.get("/admin/v1/maintenance", self._show),
            web.post("/admin/v1/maintenance/run", self._run),
            web.post("/admin/v1/maintenance/skip", self._skip),
        ]

    async def _show(self, _request: web.Request) -> web.Response:
        async with self._connect() as connection:
            return json_answer(await read_status(connection, self._rules, _now()))

    async def _run(self, request: web.Request) -> web.Response:
        asked = decode_body(await request.read() or b"{}", RunRequest)
        now = _now()
        async with self._connect() as connection:
            await ask_run(connection, asked.works, now)
        return json_answer({"asked_at": now, "works": asked.works})

    async def _skip(self, request: web.Request) -> web.Response:
        asked = decode_body(await request.read() or b"{}", SkipRequest)
        async with self._connect() as connection:
            until = await skip_nights(connection, self._rules, asked.nights, _now())
        return json_answer({"skip_until": until})


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
