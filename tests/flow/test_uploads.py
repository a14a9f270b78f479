"""Goal: a file may be sent in parts, over any worker, and is its sender's alone.

Method: the official client over two relays, providers that each know their own uploads.
"""

from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI, NotFoundError

from tests.flow.rig import KEY, Rig, make_channel, make_snapshot
from tests.flow.test_state import OTHER_KEY, SharedMemory, catalog, get
from tests.local_app import serve_app


class Shelf:
    """A provider that takes files in parts."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.parts: dict[str, dict[str, bytes]] = {}
        self.files: dict[str, bytes] = {}
        self.port = 0
        self._ids = count(1)

    async def __aenter__(self) -> "Shelf":
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/uploads", self._begin)
        app.router.add_post("/v1/uploads/{id}/parts", self._part)
        app.router.add_post("/v1/uploads/{id}/complete", self._complete)
        app.router.add_post("/v1/uploads/{id}/cancel", self._cancel)
        app.router.add_get("/v1/files/{id}/content", self._content)
        self._parts = AsyncExitStack()
        self.port = await self._parts.enter_async_context(serve_app(app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    def channel(self, **fields: Any) -> Any:
        """Return the channel to it."""
        return make_channel(self.number, self.port, **fields)

    def _told(self, name: str, status: str, **more: Any) -> web.Response:
        told = {"id": name, "object": "upload", "bytes": 9, "created_at": 1, "expires_at": 9}
        told |= {"filename": "a.txt", "purpose": "user_data", "status": status}
        return web.json_response({**told, **more})

    async def _begin(self, request: web.Request) -> web.Response:
        name = f"upload_{self.number}{next(self._ids)}"
        self.parts[name] = {}
        return self._told(name, "pending")

    async def _part(self, request: web.Request) -> web.Response:
        upload = self.parts[request.match_info["id"]]
        form = await request.post()
        sent = form["data"]
        assert isinstance(sent, web.FileField)
        name = f"part_{self.number}{next(self._ids)}"
        upload[name] = sent.file.read()
        told = {"id": name, "object": "upload.part", "created_at": 1}
        return web.json_response({**told, "upload_id": request.match_info["id"]})

    async def _complete(self, request: web.Request) -> web.Response:
        upload = self.parts.pop(request.match_info["id"])
        name = f"file-{self.number}{next(self._ids)}"
        self.files[name] = b"".join(upload[part] for part in (await request.json())["part_ids"])
        file = {"object": "file", "id": name, "bytes": 9, "created_at": 1, "filename": "a.txt"}
        file |= {"purpose": "user_data", "status": "processed"}
        return self._told(request.match_info["id"], "completed", file=file)

    async def _cancel(self, request: web.Request) -> web.Response:
        del self.parts[request.match_info["id"]]
        return self._told(request.match_info["id"], "cancelled")

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["id"]])


async def test_a_file_is_sent_in_parts_over_any_worker() -> None:
    memory = SharedMemory()
    async with Shelf(1) as one, Shelf(2) as other:
        snapshot = catalog([one, other])  # type: ignore[list-item]  # it has a channel
        async with (
            Rig(snapshot, owner_store=memory) as first,
            Rig(snapshot, owner_store=memory) as second,
            AsyncOpenAI(base_url=first.url, api_key=KEY, max_retries=0) as here,
            AsyncOpenAI(base_url=second.url, api_key=KEY, max_retries=0) as there,
            AsyncOpenAI(base_url=second.url, api_key=OTHER_KEY, max_retries=0) as stranger,
        ):
            upload = await here.uploads.create(
                bytes=9, filename="a.txt", mime_type="text/plain", purpose="user_data"
            )
            pieces = [b"one ", b"two ", b"x" * 3_000_000]
            parts = [
                await client.uploads.parts.create(upload.id, data=piece)
                for client, piece in zip((there, here, there), pieces, strict=True)
            ]
            with pytest.raises(NotFoundError):
                await stranger.uploads.complete(upload.id, part_ids=[part.id for part in parts])
            done = await here.uploads.complete(upload.id, part_ids=[part.id for part in parts])
            assert done.file is not None
            told = await there.files.content(done.file.id)
            assert told.content == b"".join(pieces)
            with pytest.raises(NotFoundError):
                await stranger.files.content(done.file.id)
            dropped = await there.uploads.create(
                bytes=9, filename="a.txt", mime_type="text/plain", purpose="user_data"
            )
            assert (await here.uploads.cancel(dropped.id)).status == "cancelled"
            ends = [*first.journal.ends, *second.journal.ends]
            assert all(end.cost_nanos == 0 for end in ends)
            assert {end.endpoint for end in ends} == {"uploads", "files"}


async def test_an_upload_that_nobody_made_is_not_there() -> None:
    async with Shelf(1) as shelf, Rig(make_snapshot([shelf.channel()])) as rig:
        for path in ("/v1/uploads/upload_9/complete", "/v1/uploads/upload_9/parts"):
            assert (await get(rig, "POST", path))[0] == 404
        assert (await get(rig, "GET", "/v1/uploads"))[0] == 405
