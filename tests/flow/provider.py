"""A provider that keeps things: responses, conversations, encrypted reasoning, each for itself.

It answers as OpenAI's Responses API does, with what it alone knows, and refuses what another one
made; so a call that goes to the wrong one is seen to fail.
"""

import asyncio
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, Self

import msgspec
from aiohttp import web

from tests.flow.rig import make_channel
from tests.local_app import serve_app

USAGE = {"input_tokens": 20, "output_tokens": 10, "total_tokens": 30}


class Provider:
    """One account of a provider, on a port of its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.calls: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.bodies: list[dict[str, Any]] = []
        self.responses: dict[str, dict[str, Any]] = {}
        self.conversations: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self.made: list[str] = []
        """The ids of all responses, kept or not."""
        self.dead = False
        self.holds: asyncio.Event | None = None
        """Answers wait for it."""
        self.cut_after: int | None = None
        """Events after which a stream breaks off."""
        self.pause_after: int | None = None
        """Events after which a stream makes no more."""
        self.paused = False
        self.port = 0
        self.speaks_websocket = False
        self.handshakes: list[web.Request] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.refusals: list[dict[str, Any]] = []
        """What is told instead of the next answers over a socket."""
        self._ids = count(1)
        self._parts = AsyncExitStack()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        self.port = await self._parts.enter_async_context(serve_app(app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """Be gone: nobody listens any more."""
        await self._parts.aclose()

    def channel(self, **fields: Any) -> Any:
        """Return the channel to it."""
        return make_channel(self.number, self.port, **fields)

    def end(self, name: str, status: str = "completed", usage: Any = USAGE) -> None:
        """Have a background response end."""
        self.responses[name] |= {"status": status, "usage": usage}

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1")
        self.calls.append((request.method, path + (f"?{q}" if (q := request.query_string) else "")))
        if self.speaks_websocket and request.headers.get("Upgrade", "") == "websocket":
            return await self._turns(request)
        if self.dead or request.headers.get("Upgrade", "") == "websocket":
            return web.json_response({"error": {"message": "down"}}, status=500)
        body = await request.read()
        if path.startswith("/files"):
            return self._file(request, path.strip("/").split("/"), body)
        fields = msgspec.json.decode(body) if body else {}
        self.bodies.append(fields)
        return await self._route(request, path.strip("/").split("/"), fields)

    async def _turns(self, request: web.Request) -> web.WebSocketResponse:
        """Answer turns over a socket, which alone has the last of those that are not stored."""
        self.handshakes.append(request)
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self.sockets.append(socket)
        last = ""
        async for message in socket:
            fields = msgspec.json.decode(message.data)
            assert fields.pop("type") == "response.create" and "stream" not in fields
            self.bodies.append(fields)
            told = self.refusals.pop(0) if self.refusals else self._wrong(fields, last)
            if told is not None:
                await socket.send_str(msgspec.json.encode(told).decode())
                last = ""
                continue
            response = self._make(fields)
            last = response["id"]
            if self.holds is not None:
                await self.holds.wait()
            for number, event in enumerate(events_of(response)):
                if number == self.cut_after:
                    assert request.transport is not None
                    request.transport.abort()
                    return socket
                await socket.send_str(event.split(b"data: ")[1].strip().decode())
        return socket

    async def _route(
        self, request: web.Request, parts: list[str], fields: dict[str, Any]
    ) -> web.StreamResponse:
        if request.method == "POST" and parts == ["responses"]:
            return await self._create(request, fields)
        if request.method == "POST" and parts == ["responses", "input_tokens"]:
            return web.json_response({"object": "response.input_tokens", "input_tokens": 7})
        if request.method == "POST" and parts == ["responses", "compact"]:
            return web.json_response(self._compact())
        if request.method == "POST" and parts == ["conversations"]:
            name = self._name("conv")
            self.conversations[name] = {"id": name, "object": "conversation"}
            return web.json_response(self.conversations[name])
        return await self._kept(request, parts)

    async def _kept(self, request: web.Request, parts: list[str]) -> web.StreamResponse:
        kept = self.responses if parts[0] == "responses" else self.conversations
        found = kept.get(parts[1]) if len(parts) > 1 else None
        if found is None:
            return _refuse(404, "not_found", "It is not here.")
        if parts[2:] == ["input_items"]:
            return web.json_response({"object": "list", "data": [{"id": "msg_in"}]})
        if parts[2:] == ["cancel"]:
            found |= {"status": "cancelled"}
        if request.method == "DELETE":
            del kept[parts[1]]
            return web.json_response({"id": parts[1], "deleted": True})
        if request.query.get("stream") == "true":
            return await self._stream(request, found, int(request.query.get("starting_after", -1)))
        return web.json_response(found)

    def _file(self, request: web.Request, parts: list[str], body: bytes) -> web.Response:
        if request.method == "POST":
            name = self._name("file")
            self.files[name] = body.rpartition(b"\r\n\r\n")[2].partition(b"\r\n--")[0]
            told = {"object": "file", "id": name, "bytes": 5, "created_at": 1, "filename": "a.txt"}
            return web.json_response(told | {"purpose": "user_data", "status": "processed"})
        if parts[1] not in self.files:
            return _refuse(404, "not_found", "No such File object.")
        if parts[2:] == ["content"]:
            return web.Response(body=self.files[parts[1]], content_type="text/plain")
        if request.method == "DELETE":
            del self.files[parts[1]]
        return web.json_response({"object": "file", "id": parts[1], "deleted": True})

    async def _create(self, request: web.Request, fields: dict[str, Any]) -> web.StreamResponse:
        wrong = self._wrong(fields)
        if wrong is not None:
            return web.json_response({"error": wrong["error"]}, status=wrong["status"])
        response = self._make(fields)
        if self.holds is not None:
            await self.holds.wait()
        if fields.get("stream"):
            return await self._stream(request, response, -1)
        return web.json_response(response)

    def _make(self, fields: dict[str, Any]) -> dict[str, Any]:
        name = self._name("resp")
        pending = fields.get("background") is True
        response = {
            "id": name,
            "background": pending,
            "object": "response",
            "status": "queued" if pending else "completed",
            "model": fields["model"],
            "output": [self._reasoning(), {"type": "message", "id": self._name("msg")}],
            "usage": None if pending else USAGE,
        }
        self.made.append(name)
        if fields.get("store") is not False:
            self.responses[name] = response
        return response

    def _wrong(self, fields: dict[str, Any], last: str = "") -> dict[str, Any] | None:
        previous = fields.get("previous_response_id")
        if previous is not None and previous not in self.responses and previous != last:
            return _told(400, "previous_response_not_found", "Previous response with id gone.")
        conversation = fields.get("conversation")
        if conversation is not None and conversation not in self.conversations:
            return _told(404, "not_found", "Conversation with id gone.")
        given = fields.get("input")
        for item in given if isinstance(given, list) else []:
            for part in item.get("content") or [] if isinstance(item.get("content"), list) else []:
                if part.get("file_id", "") and part["file_id"] not in self.files:
                    return _told(404, "not_found", "No such File object.")
            blob = item.get("encrypted_content")
            if blob is not None and not blob.startswith(f"made-by-{self.number}-"):
                return _told(400, "invalid_encrypted_content", "Could not be verified.")
            if item.get("type") == "item_reference" and item["id"] not in self._items():
                return _told(404, "not_found", "Item with id gone.")
        return None

    def _items(self) -> set[str]:
        return {item["id"] for one in self.responses.values() for item in one["output"]}

    def _reasoning(self) -> dict[str, Any]:
        name = self._name("rs")
        blob = f"made-by-{self.number}-{name}-" + "x" * 200
        return {"type": "reasoning", "id": name, "summary": [], "encrypted_content": blob}

    def _compact(self) -> dict[str, Any]:
        blob = f"made-by-{self.number}-{self._name('cmp')}-" + "x" * 200
        item = {"type": "compaction", "id": self._name("cmp"), "encrypted_content": blob}
        name = self._name("resp")
        return {"id": name, "object": "response.compaction", "output": [item], "usage": USAGE}

    async def _stream(
        self, request: web.Request, response: dict[str, Any], after: int
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        events = events_of(response)
        for number, event in enumerate(events):
            if number == self.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return answer
            if number == self.pause_after:
                self.paused = True
                await asyncio.Event().wait()
            if number > after:
                await answer.write(event)
                await asyncio.sleep(0)
        await answer.write_eof()
        return answer

    def _name(self, kind: str) -> str:
        return f"{kind}_{self.number:02d}{next(self._ids):014d}"


def events_of(response: dict[str, Any]) -> list[bytes]:
    """Return the events of a whole response."""
    opening = response | {"status": "in_progress", "output": [], "usage": None}
    ended = response | {"status": "completed", "usage": USAGE}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": opening},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning"}},
        {"type": "response.output_item.done", "output_index": 0, "item": response["output"][0]},
        {"type": "response.output_text.delta", "delta": "Hello"},
        {"type": "response.output_text.delta", "delta": " there."},
        {"type": "response.completed", "response": ended},
    ]
    return [
        b"event: %b\ndata: %b\n\n"
        % (event["type"].encode(), msgspec.json.encode(event | {"sequence_number": number}))
        for number, event in enumerate(told)
    ]


def _told(status: int, code: str, message: str) -> dict[str, Any]:
    error = {"message": message, "type": "invalid_request_error", "code": code, "param": None}
    return {"type": "error", "status": status, "error": error}


def _refuse(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": _told(status, code, message)["error"]}, status=status)
