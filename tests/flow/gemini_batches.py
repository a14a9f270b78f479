"""A provider of Gemini's API that keeps batches: ended after so many looks, or when a test says so.

    begun --so many looks at it--> succeeded: every request answered, or refused, in its place
          --cancelled-----------> cancelled: the first half of them was

A request's `metadata.key` says what becomes of it: `error` is refused, `silent` is served and
nothing is said of its usage; all others are served.
"""

from contextlib import AsyncExitStack
from itertools import count
from typing import Any, Final, Self

import msgspec
from aiohttp import web

from tests.local_app import serve_app

TOKENS_IN: Final = 2
TOKENS_OUT: Final = 8
TYPE: Final = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"


class GeminiBatches:
    """One project of such a provider, on a port of its own."""

    def __init__(self, number: int = 1) -> None:
        self.batches: dict[str, dict[str, Any]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[tuple[str, str]] = []
        self.looks = 2
        self.hides_answers = False
        """Says that batches have succeeded, and not what they have made."""
        self.cuts_begin = False
        """Breaks off in the answer that begins one."""
        self.port = 0
        self._number = number
        self._ids = count(1)
        self._asked: dict[str, list[dict[str, Any]]] = {}
        self._seen: dict[str, int] = {}
        self._embeds: set[str] = set()

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        self._parts = AsyncExitStack()
        self.port = await self._parts.enter_async_context(serve_app(app))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._parts.aclose()

    def end(self, name: str, state: str = "SUCCEEDED") -> None:
        """Have a batch end now."""
        batch, asked = self.batches[name], self._asked[name]
        served = {"SUCCEEDED": len(asked), "CANCELLED": len(asked) // 2}.get(state, 0)
        batch["metadata"]["state"] = f"BATCH_STATE_{state}"
        batch["metadata"]["endTime"] = "2026-11-30T12:00:00Z"
        batch["done"] = True
        if state == "FAILED":
            batch["error"] = {"code": 13, "message": "Internal error.", "status": "INTERNAL"}
        if not served or self.hides_answers:
            return
        embeds = name in self._embeds
        answer = _embedded if embeds else _answer
        kind = "inlinedEmbedContentResponses" if embeds else "inlinedResponses"
        output = {kind: {"inlinedResponses": [answer(one) for one in asked[:served]]}}
        batch["metadata"]["output"] = output
        batch["response"] = {"@type": f"{TYPE}Output", **output}

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path = request.path.removeprefix("/v1beta/")
        self.paths.append((request.method, path))
        body = await request.read()
        if path.startswith("models/"):
            return self._begin(request, path, msgspec.json.decode(body))
        name, _, verb = path.partition(":")
        batch = self.batches.get(name)
        if batch is None:
            error = {
                "code": 404,
                "message": "Requested entity was not found.",
                "status": "NOT_FOUND",
            }
            return web.json_response({"error": error}, status=404)
        if request.method == "DELETE":
            del self.batches[name]
            return web.json_response({})
        if verb == "cancel":
            self.end(name, "CANCELLED")
            return web.json_response({})
        self._seen[name] = self._seen.get(name, 0) + 1
        if not batch.get("done") and self._seen[name] >= self.looks:
            self.end(name)
        # Pretty, as the provider writes it.
        text = msgspec.json.format(msgspec.json.encode(batch)).decode()
        return web.Response(text=text, content_type="application/json")

    def _begin(self, request: web.Request, path: str, body: dict[str, Any]) -> web.Response:
        self.bodies.append(body)
        name = f"batches/b{self._number}x{next(self._ids)}"
        self._asked[name] = body["batch"]["inputConfig"]["requests"]["requests"]
        if path.endswith(":asyncBatchEmbedContent"):
            self._embeds.add(name)
        total = str(len(self._asked[name]))
        metadata = {
            "@type": TYPE,
            "model": path.partition(":")[0],
            "displayName": body["batch"].get("displayName", ""),
            "state": "BATCH_STATE_PENDING",
            "createTime": "2026-11-30T11:00:00Z",
            "batchStats": {"requestCount": total, "pendingRequestCount": total},
            "name": name,
        }
        self.batches[name] = {"name": name, "metadata": metadata}
        if self.cuts_begin:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(self.batches[name])


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    metadata = asked.get("metadata", {})
    key = metadata.get("key", "")
    if key.startswith("error"):
        return {"metadata": metadata, "error": {"code": 3, "message": "Invalid."}}
    parts = [{"text": "word " * TOKENS_OUT}]
    response: dict[str, Any] = {
        "candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}],
        "modelVersion": "gemini",
    }
    if not key.startswith("silent"):
        response["usageMetadata"] = {
            "promptTokenCount": TOKENS_IN,
            "candidatesTokenCount": TOKENS_OUT,
            "totalTokenCount": TOKENS_IN + TOKENS_OUT,
        }
    return {"metadata": metadata, "response": response}


def _embedded(asked: dict[str, Any]) -> dict[str, Any]:
    response: dict[str, Any] = {"embedding": {"values": [0.5] * 4}}
    if "silent" not in str(asked):
        response["tokenCount"] = str(TOKENS_IN)
    return {"response": response}
