"""Providers that cache prompts as the real ones do, on a clock of the test's own.

    a prompt --in blocks of 128 tokens, each hashed with all before it--> how many of the first ones
    are known, and were used within the time that they are kept for

OpenAI: from 1,024 tokens, on one of several machines, told by a hash of the first 256 tokens and
of `prompt_cache_key`. Anthropic: up to the marks of `cache_control` only, tools, system and
messages in this order. Gemini: as OpenAI without a key, from 2,048 tokens.

Source: OpenAI, Prompt caching; Anthropic, Prompt caching; Gemini API, Context caching.
"""

import asyncio
import json
from collections import defaultdict
from typing import Any, Final
from zlib import crc32

from aiohttp import web

BYTES_A_TOKEN: Final = 4
BLOCK_BYTES: Final = 128 * BYTES_A_TOKEN
OPENAI_MIN: Final = 1_024
ANTHROPIC_MIN: Final = 1_024
GEMINI_MIN: Final = 2_048
KEPT_S: Final = 300.0
MACHINES: Final = 4


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0


class PrefixCache:
    """The prefixes that one machine of a provider has seen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._used_s: dict[int, float] = {}

    def read(self, prompt: bytes, ends: list[int], written: list[int]) -> int:
        """Return the bytes of the longest known prefix that ends at one of `ends`.

        `written`: where prefixes end that are known from now on.
        """
        known, now_s, mark, begin = 0, self._clock.now_s, 0, 0
        for end in sorted({*ends, *written}):
            mark, begin = crc32(prompt[begin:end], mark), end
            used_s = self._used_s.get(mark)
            if used_s is not None and now_s - used_s <= KEPT_S:
                known = end
                self._used_s[mark] = now_s
            elif end in written:
                self._used_s[mark] = now_s
        return known


class CachingProvider:
    """One account at a provider.

    Args:
        clock: Shared by all.
        pause_s: How long an answer takes.
    """

    def __init__(self, clock: Clock, pause_s: float = 0.02) -> None:
        self._caches = [PrefixCache(clock) for _ in range(MACHINES)]
        self._pause_s = pause_s
        self.calls = 0
        self.running = 0
        self.most_running = 0
        self.limited = False
        """Answers nothing but 429."""
        self.turns: defaultdict[str, list[int]] = defaultdict(list)
        """Session -> the turns of it that came, as the client numbers them in a header."""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a call of any of the dialects."""
        body = await request.json()
        if self.limited:
            error = {"error": {"message": "slow down", "type": "rate_limit_error", "code": None}}
            return web.json_response(error, status=429, headers={"Retry-After": "1"})
        self.calls += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        session, _, turn = request.headers.get("x-session-id", "0.0").partition(".")
        self.turns[session].append(int(turn))
        try:
            await asyncio.sleep(self._pause_s)
            return web.json_response(self._told(request.path, body))
        finally:
            self.running -= 1

    def _told(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/messages"):
            return self._message(body)
        if "generateContent" in path:
            return self._content(body)
        if path.endswith("/responses"):
            return self._response(body)
        return self._chat(body)

    def _implicit(self, prompt: bytes, key: str, least: int) -> tuple[int, int]:
        """Return the tokens of a prompt, and those of them that were cached."""
        whole = len(prompt) // BYTES_A_TOKEN
        if whole < least:
            return whole, 0
        machine = crc32(prompt[: 256 * BYTES_A_TOKEN] + key.encode()) % MACHINES
        ends = list(range(BLOCK_BYTES, len(prompt) + 1, BLOCK_BYTES))
        found = self._caches[machine].read(prompt, ends, ends) // BYTES_A_TOKEN
        return whole, found if found >= least else 0

    def _chat(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = _written(body.get("tools")) + b"".join(map(_written, body["messages"]))
        whole, cached = self._implicit(prompt, body.get("prompt_cache_key", ""), OPENAI_MIN)
        usage = {
            "prompt_tokens": whole,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens": 1,
            "total_tokens": whole + 1,
        }
        choice = {"index": 0, "message": {"role": "assistant", "content": "ok"}}
        return {"id": "1", "choices": [{**choice, "finish_reason": "stop"}], "usage": usage}

    def _response(self, body: dict[str, Any]) -> dict[str, Any]:
        said = _written(body.get("instructions")) + b"".join(map(_written, body["input"]))
        whole, cached = self._implicit(said, body.get("prompt_cache_key", ""), OPENAI_MIN)
        usage = {
            "input_tokens": whole,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": 1,
            "total_tokens": whole + 1,
        }
        return {"id": "resp_1", "status": "completed", "output": [], "usage": usage}

    def _content(self, body: dict[str, Any]) -> dict[str, Any]:
        said = _written(body.get("systemInstruction")) + b"".join(map(_written, body["contents"]))
        whole, cached = self._implicit(said, "", GEMINI_MIN)
        parts = {"content": {"role": "model", "parts": [{"text": "ok"}]}, "finishReason": "STOP"}
        usage = {
            "promptTokenCount": whole,
            "cachedContentTokenCount": cached,
            "candidatesTokenCount": 1,
            "totalTokenCount": whole + 1,
        }
        return {"candidates": [parts], "usageMetadata": usage}

    def _message(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, ends = b"", []
        blocks = [*(body.get("tools") or []), *_blocks(body.get("system"))]
        for message in body["messages"]:
            blocks += [{"role": message["role"], **one} for one in _blocks(message["content"])]
        for block in blocks:
            marked = block.pop("cache_control", None)
            prompt += _written(block)
            if marked is not None and len(prompt) // BYTES_A_TOKEN >= ANTHROPIC_MIN:
                ends.append(len(prompt))
        whole = len(prompt) // BYTES_A_TOKEN
        # What was written at an earlier mark is found at any block's end, 20 blocks back.
        seen = [end for end in _block_ends(blocks) if ends and end <= ends[-1]]
        cached = self._caches[0].read(prompt, seen, ends) // BYTES_A_TOKEN
        written = (ends[-1] // BYTES_A_TOKEN - cached) if ends else 0
        usage = {
            "input_tokens": whole - cached - written,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "output_tokens": 1,
        }
        content = [{"type": "text", "text": "ok"}]
        return {"id": "msg_1", "type": "message", "content": content, "usage": usage}


def _written(value: Any) -> bytes:
    return b"" if value is None else json.dumps(value).encode()


def _blocks(said: Any) -> list[dict[str, Any]]:
    if said is None:
        return []
    return [{"type": "text", "text": said}] if isinstance(said, str) else [dict(b) for b in said]


def _block_ends(blocks: list[dict[str, Any]]) -> list[int]:
    ends, size = [], 0
    for block in blocks:
        size += len(_written(block))
        ends.append(size)
    return ends
