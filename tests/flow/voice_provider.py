"""A provider of sessions of voice: it answers as OpenAI's does, and tells what it was told.

It begins responses when it is asked to, and by itself when sound is committed.
"""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import web

from tests.flow.rig import MODEL, make_channel
from tests.local_app import serve_app

WRITER = "gpt-writer"
USAGE = {
    "total_tokens": 253,
    "input_tokens": 132,
    "output_tokens": 121,
    "input_token_details": {
        "text_tokens": 119,
        "audio_tokens": 13,
        "image_tokens": 0,
        "cached_tokens": 64,
        "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
}
SOUND = "A" * 64_000
"""A second of it."""


class Voice:
    """A provider of sessions, on a port of its own."""

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.handshakes: list[web.Request] = []
        self.heard: list[dict[str, Any]] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.refuses = 0
        self.usage: dict[str, Any] | None = USAGE
        self.deltas = 3
        self.holds: asyncio.Event | None = None
        """Responses end when it is set, or when they are cancelled."""
        self.transcriber = ""
        self.port = 0
        self._tasks: dict[str, tuple[web.WebSocketResponse, asyncio.Task[None]]] = {}
        self._count = 0

    async def __aenter__(self) -> "Voice":
        app = web.Application()
        app.router.add_get("/v1/realtime", self._serve)
        self._parts = AsyncExitStack()
        self.port = await self._parts.enter_async_context(serve_app(app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    def channel(self, **fields: Any) -> Any:
        models = {MODEL: f"up-{MODEL}", WRITER: WRITER, "free-writer": "free-writer"}
        return make_channel(self.number, self.port, **({"models": models} | fields))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.handshakes.append(request)
        if self.refuses:
            return web.json_response({"error": {"message": "no"}}, status=self.refuses)
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self.sockets.append(socket)
        await socket.send_json({"type": "session.created", "event_id": "e", "session": {}})
        async for message in socket:
            event = json.loads(message.data)
            self.heard.append(event)
            await self._answer(socket, event)
        for served, task in self._tasks.values():
            if served is socket:
                task.cancel()
        return socket

    async def _answer(self, socket: web.WebSocketResponse, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind in ("response.create", "input_audio_buffer.commit"):
            self._count += 1
            name = f"resp_{self._count}"
            self._tasks[name] = socket, asyncio.create_task(self._respond(socket, name))
        elif kind == "response.cancel":
            name = event.get("response_id") or next(iter(self._tasks))
            self._tasks.pop(name)[1].cancel()
            await self._end(socket, name, "cancelled")
        elif kind == "session.update":
            await socket.send_json({"type": "session.updated", "session": event["session"]})
        elif kind == "break":
            told = {"type": "invalid_request_error", "code": "odd", "event_id": event["event_id"]}
            await socket.send_json({"type": "error", "event_id": "e", "error": told})

    async def _respond(self, socket: web.WebSocketResponse, name: str) -> None:
        await socket.send_json({"type": "response.created", "response": {"id": name}})
        for _ in range(self.deltas):
            delta = {"type": "response.output_audio.delta", "response_id": name, "delta": SOUND}
            await socket.send_json(delta)
        if self.holds is not None:
            await self.holds.wait()
        await self._end(socket, name, "completed")

    async def _end(self, socket: web.WebSocketResponse, name: str, status: str) -> None:
        self._tasks.pop(name, None)
        response: dict[str, Any] = {"id": name, "object": "realtime.response", "status": status}
        response |= {"output": [], "usage": self.usage}
        await socket.send_json({"type": "response.done", "event_id": "e", "response": response})

    async def transcribe(self, usage: dict[str, Any]) -> None:
        """Say what was written down, and what that used."""
        kind = "conversation.item.input_audio_transcription.completed"
        told = {"type": kind, "item_id": "i", "transcript": "hello", "usage": usage}
        await self.sockets[-1].send_json(told)
