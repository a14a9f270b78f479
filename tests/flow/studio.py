"""A provider that makes videos: begun with a form or with JSON, ended whenever a test says so.

It answers as OpenAI's Videos API does: a video is asked for by its id, its bytes come when it is
there, and one that is not known is 404.
"""

from itertools import count
from typing import Any

import msgspec
from aiohttp import web

from relay.wire.request.multipart import peek_multipart
from tests.flow.provider import Provider

PIECE = bytes(range(256)) * 256


class Studio(Provider):
    """One account of such a provider, on a port of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.videos: dict[str, dict[str, Any]] = {}
        self.forms: list[bytes] = []
        """The bodies of the forms that came."""
        self.pieces = 4
        """Of a film, 64 KiB each."""
        self.sent_bytes = 0
        self.at_once = ""
        """The status that a video has in the very answer that begins it, "" = queued."""
        self._numbers = count(1)

    def finish(self, name: str, status: str = "completed", **said: Any) -> None:
        """Have a video end."""
        self.videos[name] |= {"status": status, "progress": 100} | said

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1")
        if not path.startswith("/videos"):
            return await super()._serve(request)
        self.calls.append((request.method, path + (f"?{q}" if (q := request.query_string) else "")))
        if self.dead:
            return web.json_response({"error": {"message": "down"}}, status=500)
        body = await request.read()
        parts = path.strip("/").split("/")
        if request.method == "POST" and len(parts) == 1:
            return web.json_response(self._begin(self._read(request, body)))
        found = self.videos.get(parts[1])
        if found is None:
            error = {"message": "Video not found.", "type": "invalid_request_error", "code": None}
            return web.json_response({"error": error}, status=404)
        return await self._kept_video(request, parts, found, body)

    async def _kept_video(
        self, request: web.Request, parts: list[str], found: dict[str, Any], body: bytes
    ) -> web.StreamResponse:
        if parts[2:] == ["content"]:
            return await self._film(request)
        if parts[2:] == ["remix"]:
            fields = {name: found[name] for name in ("model", "seconds", "size")}
            fields |= msgspec.json.decode(body)
            return web.json_response(self._begin(fields, remixed_from_video_id=parts[1]))
        if request.method == "DELETE":
            del self.videos[parts[1]]
            told = {"id": parts[1], "deleted": True, "object": "video.deleted"}
            return web.json_response(told)
        return web.json_response(found)

    def _read(self, request: web.Request, body: bytes) -> dict[str, Any]:
        if not request.content_type.startswith("multipart/"):
            fields: dict[str, Any] = msgspec.json.decode(body)
            self.bodies.append(fields)
            return fields
        self.forms.append(body)
        form = peek_multipart(body, request.headers["Content-Type"])
        said = {"model": form.model, "seconds": form.seconds, "size": form.size}
        return {name: value for name, value in said.items() if value}

    def _begin(self, fields: dict[str, Any], **said: Any) -> dict[str, Any]:
        name = f"video_{self.number:02d}{next(self._numbers):014d}"
        video = {
            "id": name,
            "object": "video",
            "created_at": 1,
            "status": self.at_once or "queued",
            "progress": 0,
            "model": fields["model"],
            "prompt": fields.get("prompt", ""),
            "seconds": str(fields.get("seconds", "4")),
            "size": fields.get("size", "720x1280"),
        }
        self.videos[name] = video | said
        return self.videos[name]

    async def _film(self, request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "video/mp4"}
        answer = web.StreamResponse(headers=headers)
        answer.content_length = self.pieces * len(PIECE)
        await answer.prepare(request)
        for _ in range(self.pieces):
            await answer.write(PIECE)
            self.sent_bytes += len(PIECE)
        await answer.write_eof()
        return answer
