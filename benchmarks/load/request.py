"""The bytes of a call, as its client would send it.

    chat        an SDK's chat completion: one message
    messages    like Claude Code's: system text and tools, most of it the same in every call
    responses   like Codex's: instructions and tools, then the turns

Sizes and headers follow what these clients were seen to send; the words are ours.
"""

import json
from typing import Any, Final

from benchmarks.load.job import Call, Job

_SENTENCE: Final = "The quick brown fox jumps over the lazy dog near the quiet harbour. "
_TOOL_SHARE: Final = 0.6
"""Of an agent's prompt that is tools; of the rest, half is instructions."""
_TURN_BYTES: Final = 4_000
_PATHS: Final = {"messages": "/v1/messages?beta=true", "responses": "/v1/responses"}
_MESSAGES_HEADERS: Final = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14",
    "x-claude-code-session-id": "0f8b6a52-3f1e-4f0e-9b62-5d0f3c9a7e11",
    "x-app": "cli",
    "User-Agent": "claude-cli/2.1 (external, cli)",
}
_RESPONSES_HEADERS: Final = {
    "session-id": "0199a213-81c0-7800-8aa1-bbab2a035a53",
    "thread-id": "0199a213-81c0-7800-8aa1-bbab2a035a53",
    "User-Agent": "codex_cli_rs/0.169",
}


def make_request(job: Job, call: Call, host: str) -> bytes:
    """Return the bytes of one call."""
    headers = {"Authorization": f"Bearer {job.key}", "Content-Type": "application/json"}
    headers |= {"Accept": "text/event-stream" if call.shape == "responses" else "*/*"}
    if call.shape == "messages":
        fields, headers = _messages(call), headers | _MESSAGES_HEADERS
    elif call.shape == "responses":
        fields, headers = _responses(call), headers | _RESPONSES_HEADERS
    else:
        fields = _chat(call)
    path = _PATHS.get(call.shape, job.path)
    body = json.dumps(fields, separators=(",", ":")).encode()
    lines = {"Host": host, **headers, **job.headers, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def _text(size: int) -> str:
    return (_SENTENCE * (size // len(_SENTENCE) + 1))[: max(size, 1)]


def _chat(call: Call) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": call.model,
        "messages": [{"role": "user", "content": _text(call.prompt_bytes)}],
        "stream": call.stream,
    }
    if call.stream:
        fields["stream_options"] = {"include_usage": True}
    if call.tokens_max:
        fields["max_tokens"] = call.tokens_max
    return fields


def _messages(call: Call) -> dict[str, Any]:
    tools, words, turns = _shares(call)
    cached = {"type": "ephemeral"}
    return {
        "model": call.model,
        "max_tokens": call.tokens_max or 32_000,
        "stream": call.stream,
        "system": [{"type": "text", "text": _text(words), "cache_control": cached}],
        "tools": [
            {"name": name, "description": text, "input_schema": _schema()} for name, text in tools
        ],
        "messages": [
            {"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns
        ],
        "metadata": {"user_id": "user_bench_account__session_bench"},
    }


def _responses(call: Call) -> dict[str, Any]:
    tools, words, turns = _shares(call)
    kinds = {"user": "input_text", "assistant": "output_text"}
    return {
        "model": call.model,
        "instructions": _text(words),
        "input": [
            {"type": "message", "role": role, "content": [{"type": kinds[role], "text": text}]}
            for role, text in turns
        ],
        "tools": [
            {"type": "function", "name": name, "description": text, "parameters": _schema()}
            for name, text in tools
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "store": False,
        "stream": call.stream,
        "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
    }


def _shares(call: Call) -> tuple[list[tuple[str, str]], int, list[tuple[str, str]]]:
    """Return an agent's tools, how long its instructions are, and its turns, the last a user's."""
    fixed = min(call.prompt_bytes, call.fixed_bytes or call.prompt_bytes)
    each = int(fixed * _TOOL_SHARE) // call.tools if call.tools else 0
    spent = len(json.dumps(_schema()))
    tools = [(f"tool_{number}", _text(each - spent)) for number in range(call.tools)]
    words = (fixed - each * call.tools) // 2
    left = call.prompt_bytes - each * call.tools - words
    count = max(1, left // _TURN_BYTES) | 1  # odd: a user begins and ends
    turns = [("assistant" if n % 2 else "user", _text(left // count)) for n in range(count)]
    return tools, words, turns


def _schema() -> dict[str, Any]:
    names = ("path", "command", "limit")
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": _SENTENCE} for name in names},
        "required": ["path"],
        "additionalProperties": False,
    }
