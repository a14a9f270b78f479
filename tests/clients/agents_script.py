"""A model that works through twenty steps with a tool, as any number of upstreams tell it.

It goes by what was answered to its calls, in whatever dialect and over whatever connection that
came; so the upstreams that share it are one model behind several accounts. Each may break a turn.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

from aiohttp import WSMsgType, web

from tests.flow import test_spliced_messages as messages
from tests.flow.rig import MODEL, make_channel
from tests.flow.test_spliced_responses import Answer
from tests.local_app import serve_app

CALL: Final = re.compile(r"call_step_(\d+)")
NOTICE: Final = re.compile(r"which are:\n(.*)\nand then go on", re.DOTALL)
DONE: Final = "All of the steps are done now."
MODES: Final = ("before", "within", "behind")
"""Where a turn breaks: before its first event, in its text, in its tool call."""


class Script:
    """What the model has done.

    Args:
        steps: Turns with a call of a tool; one more ends the work.
        breaks: Whoever is asked first for a step breaks off.
        tool: What an agent calls its shell.
        takes: ...and what it is to run there.
    """

    def __init__(
        self, steps: int, *, breaks: bool = False, tool: str = "exec_command", takes: str = "cmd"
    ) -> None:
        self.tool = tool
        self.takes = takes
        self.steps = steps
        self._breaks = breaks
        self.answered: set[int] = set()
        self.begun: dict[int, int] = {}
        """How often each step was asked for."""
        self.broken: list[int] = []

    def turn(self, asked: str) -> tuple[int, str]:
        """Return which step is asked for, and where it has to break, "" = nowhere.

        Args:
            asked: The request, as text.
        """
        self.answered |= {int(found) for found in CALL.findall(asked)}
        step = max(self.answered, default=0) + 1
        self.begun[step] = self.begun.get(step, 0) + 1
        if not self._breaks or self.begun[step] > 1:
            return step, ""
        self.broken.append(step)
        return step, MODES[step % len(MODES)]

    def text(self, step: int, asked: str) -> str:
        """Return what is said at a step, or the rest of it where that was asked for."""
        said = (
            DONE if step > self.steps else f"Step {step} of {self.steps}: I look at what is there."
        )
        notice = NOTICE.search(asked)
        if notice is None:
            return said
        anchor = notice[1]
        at = said.index(anchor)
        return said[at:]


def pieces(text: str) -> list[str]:
    """Return a text as a model says it."""
    return re.findall(r"\S+\s*", text)


class AgentUpstream:
    """One account of the model's provider, on a port of its own."""

    def __init__(self, number: int, script: Script, *, websocket: bool = False) -> None:
        self.number = number
        self.script = script
        self._websocket = websocket
        self.turns: list[tuple[str, int]] = []
        """Over what each was asked, and its step."""
        self.others: list[tuple[str, str]] = []
        """Other requests."""
        self._made = 0
        self.port = 0

    async def __aenter__(self) -> "AgentUpstream":
        app = web.Application(client_max_size=1 << 28)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        self._parts = AsyncExitStack()
        self.port = await self._parts.enter_async_context(serve_app(app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    def channel(self, **fields: Any) -> Any:
        """Return the channel to it."""
        return make_channel(self.number, self.port, **({"models": {MODEL: "up"}} | fields))

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._session(request) if self._websocket else web.Response(status=426)
        body = (await request.read()).decode()
        if request.method == "POST" and request.path.endswith("/responses"):
            return await self._stream(request, self._respond(body))
        if request.method == "POST" and request.path.endswith("/messages"):
            if '"stream":true' not in body:
                return web.json_response(self._whole(body))
            return await self._stream(request, self._tell(body))
        self.others.append((request.method, request.path))
        return web.json_response({"error": {"message": "not here"}}, status=404)

    async def _session(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        async for message in socket:
            assert message.type is WSMsgType.TEXT
            async for event in self._respond(message.data, over="websocket"):
                if not event:
                    _cut(request)
                    return socket
                await socket.send_str(event.split(b"data: ", 1)[1].decode().strip())
        return socket

    async def _stream(
        self, request: web.Request, events: AsyncIterator[bytes]
    ) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        with contextlib.suppress(ConnectionError):  # whoever asked may have left
            async for event in events:
                if not event:
                    _cut(request)
                    return answer
                if not answer.prepared:
                    await answer.prepare(request)
                await answer.write(event)
                await asyncio.sleep(0)
            await answer.write_eof()
        return answer

    async def _respond(self, asked: str, over: str = "http") -> AsyncIterator[bytes]:
        """Yield the events of a response; b"" where it breaks off."""
        self._made += 1
        answer = Answer(self.number * 1000 + self._made)
        if '"tools"' not in asked:
            for event in answer.say("A title").end(4):
                yield event
            return
        step, breaks = self.script.turn(asked)
        self.turns.append((over, step))
        answer.think("hm").say(*pieces(self.script.text(step, asked)))
        if step <= self.script.steps:
            given = json.dumps({self.script.takes: f"echo {step}"})
            call_id = f"call_step_{step}"
            answer.call(self.script.tool, given[:8], given[8:], call_id=call_id)
        ends = {
            "before": b"event: response.created",
            "within": b"event: response.output_text.done",
            "behind": b"event: response.function_call_arguments.done",
        }
        for event in answer.end(40):
            if breaks and event.startswith(ends[breaks]):
                yield b""
                return
            yield event

    def _whole(self, asked: str) -> dict[str, Any]:
        """Return the whole message: Claude Code asks so where a stream has failed."""
        step, _ = self.script.turn(asked)
        self.turns.append(("whole", step))
        content: list[dict[str, Any]] = [{"type": "text", "text": self.script.text(step, asked)}]
        more = step <= self.script.steps
        if more:
            content.append({"type": "tool_use", **_tool(step), "input": _given(step)})
        return {
            "id": f"msg_{self.number}",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": content,
            "stop_reason": "tool_use" if more else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 7, "output_tokens": 40},
        }

    async def _tell(self, asked: str) -> AsyncIterator[bytes]:
        """Yield the events of a message; b"" where it breaks off."""
        step, breaks = self.script.turn(asked)
        if '"tools":[]' in asked or '"tools"' not in asked:
            yield messages.start(self.number) + messages.said(0, "A title") + messages.end(4)
            return
        self.turns.append(("http", step))
        if breaks == "before":
            yield b""
            return
        text = pieces(self.script.text(step, asked))
        yield messages.start(self.number)
        if breaks == "within":
            yield messages.said(0, *text[:-1], stop=False)
            yield b""
            return
        yield messages.said(0, *text)
        if step > self.script.steps:
            yield messages.end(40)
            return
        given = json.dumps(_given(step))
        half = messages.delta(1, "input_json_delta", partial_json=given[:9])
        rest = messages.delta(1, "input_json_delta", partial_json=given[9:])
        named = _tool(step) | {"input": {}}
        if breaks == "behind":
            yield messages.block(1, "tool_use", half, stop=False, **named)
            yield b""
            return
        yield messages.block(1, "tool_use", half, rest, **named)
        yield messages.end(40).replace(b'"end_turn"', b'"tool_use"')


def _tool(step: int) -> dict[str, Any]:
    return {"id": f"toolu_call_step_{step}", "name": "Bash"}


def _given(step: int) -> dict[str, str]:
    return {"description": "Says a number", "command": f"echo {step}"}


def _cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
