"""Requests and answers as each dialect writes them: the same thing said four times per feature.

Method: literal wire objects, written from the providers' references, so that no writer of ours has
a part in what readers are tested with.
"""

import json
from typing import Any, Final

from relay.translate import TranslateDialect

CHAT: Final = TranslateDialect.OPENAI_CHAT
ANTHROPIC: Final = TranslateDialect.ANTHROPIC
GEMINI: Final = TranslateDialect.GEMINI
RESPONSES: Final = TranslateDialect.RESPONSES
DIALECTS: Final = (CHAT, ANTHROPIC, GEMINI, RESPONSES)

Json = dict[str, Any]
PNG: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5E"
)
SCHEMA: Final[Json] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FEATURES: Final = (
    "text",
    "image",
    "tools",
    "parallel tools",
    "structured output",
    "thinking",
    "cache",
)


def chat_request(feature: str) -> Json:
    body: Json = {
        "model": "m",
        "max_completion_tokens": 4096,
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Weather in Paris?"},
        ],
    }
    match feature:
        case "image":
            url = {"url": f"data:image/png;base64,{PNG}"}
            body["messages"][1]["content"] = [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": url},
            ]
        case "tools" | "parallel tools":
            function = {"name": "weather", "description": "Looks it up.", "parameters": SCHEMA}
            body["tools"] = [{"type": "function", "function": function}]
            body["messages"] += _chat_calls(2 if feature == "parallel tools" else 1)
        case "structured output":
            wanted = {"name": "place", "strict": True, "schema": SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": wanted}
        case "thinking":
            body["reasoning_effort"] = "low"
        case "cache":
            body["prompt_cache_key"] = "session-1"
    return body


def _chat_calls(count: int) -> list[Json]:
    calls = [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": "weather", "arguments": json.dumps({"city": f"P{n}"})},
        }
        for n in range(count)
    ]
    results = [
        {"role": "tool", "tool_call_id": f"call_{n}", "content": f"Rain {n}."} for n in range(count)
    ]
    return [{"role": "assistant", "content": None, "tool_calls": calls}, *results]


def anthropic_request(feature: str) -> Json:
    body: Json = {
        "model": "m",
        "max_tokens": 4096,
        "system": "Be short.",
        "messages": [{"role": "user", "content": "Weather in Paris?"}],
    }
    match feature:
        case "image":
            source = {"type": "base64", "media_type": "image/png", "data": PNG}
            body["messages"][0]["content"] = [
                {"type": "text", "text": "What is it?"},
                {"type": "image", "source": source},
            ]
        case "tools" | "parallel tools":
            count = 2 if feature == "parallel tools" else 1
            tool = {"name": "weather", "description": "Looks it up.", "input_schema": SCHEMA}
            body["tools"] = [tool]
            uses = [
                {
                    "type": "tool_use",
                    "id": f"call_{n}",
                    "name": "weather",
                    "input": {"city": f"P{n}"},
                }
                for n in range(count)
            ]
            results = [
                {"type": "tool_result", "tool_use_id": f"call_{n}", "content": f"Rain {n}."}
                for n in range(count)
            ]
            body["messages"] += [
                {"role": "assistant", "content": uses},
                {"role": "user", "content": results},
            ]
        case "structured output":
            wanted = {"type": "json_schema", "schema": SCHEMA}
            body["output_config"] = {"format": wanted}
        case "thinking":
            body["thinking"] = {"type": "enabled", "budget_tokens": 2048}
        case "cache":
            mark = {"type": "ephemeral"}
            body["system"] = [{"type": "text", "text": "Be short.", "cache_control": mark}]
    return body


def gemini_request(feature: str) -> Json:
    config: Json = {"maxOutputTokens": 4096}
    body: Json = {
        "systemInstruction": {"parts": [{"text": "Be short."}]},
        "contents": [{"role": "user", "parts": [{"text": "Weather in Paris?"}]}],
        "generationConfig": config,
    }
    match feature:
        case "image":
            inline = {"mimeType": "image/png", "data": PNG}
            body["contents"][0]["parts"] = [{"text": "What is it?"}, {"inlineData": inline}]
        case "tools" | "parallel tools":
            count = 2 if feature == "parallel tools" else 1
            tool = {
                "name": "weather",
                "description": "Looks it up.",
                "parametersJsonSchema": SCHEMA,
            }
            body["tools"] = [{"functionDeclarations": [tool]}]
            calls = [
                {"functionCall": {"id": f"call_{n}", "name": "weather", "args": {"city": f"P{n}"}}}
                for n in range(count)
            ]
            results = [
                {
                    "functionResponse": {
                        "id": f"call_{n}",
                        "name": "weather",
                        "response": {"output": f"Rain {n}."},
                    }
                }
                for n in range(count)
            ]
            body["contents"] += [
                {"role": "model", "parts": calls},
                {"role": "user", "parts": results},
            ]
        case "structured output":
            config["responseMimeType"] = "application/json"
            config["responseJsonSchema"] = SCHEMA
        case "thinking":
            config["thinkingConfig"] = {"thinkingBudget": 2048, "includeThoughts": True}
        case "cache":
            pass  # it caches by itself, and is told nothing
    return body


def responses_request(feature: str) -> Json:
    body: Json = {
        "model": "m",
        "max_output_tokens": 4096,
        "instructions": "Be short.",
        "input": [{"type": "message", "role": "user", "content": "Weather in Paris?"}],
    }
    match feature:
        case "image":
            body["input"][0]["content"] = [
                {"type": "input_text", "text": "What is it?"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
            ]
        case "tools" | "parallel tools":
            count = 2 if feature == "parallel tools" else 1
            tool = {"type": "function", "name": "weather", "description": "Looks it up."}
            body["tools"] = [{**tool, "parameters": SCHEMA, "strict": True}]
            for n in range(count):
                call = {"type": "function_call", "call_id": f"call_{n}", "name": "weather"}
                body["input"].append({**call, "arguments": json.dumps({"city": f"P{n}"})})
            for n in range(count):
                result = {"type": "function_call_output", "call_id": f"call_{n}"}
                body["input"].append({**result, "output": f"Rain {n}."})
        case "structured output":
            wanted = {"type": "json_schema", "name": "place", "strict": True, "schema": SCHEMA}
            body["text"] = {"format": wanted}
        case "thinking":
            body["reasoning"] = {"effort": "low", "summary": "auto"}
        case "cache":
            body["prompt_cache_key"] = "session-1"
    return body


REQUESTS: Final = {
    CHAT: chat_request,
    ANTHROPIC: anthropic_request,
    GEMINI: gemini_request,
    RESPONSES: responses_request,
}

ANSWERS: Final = {
    "text": "Rain in Paris.",
    "image": "A dot.",
    "structured output": '{"city":"Paris"}',
    "cache": "Rain in Paris.",
    "thinking": "Rain in Paris.",
}
"""What each feature's answer says; tools say nothing, they call."""


def calls_of(feature: str) -> int:
    return {"tools": 1, "parallel tools": 2}.get(feature, 0)


def sse(*payloads: Json, event: bool = False) -> bytes:
    out = b""
    for payload in payloads:
        if event:
            out += b"event: " + payload["type"].encode() + b"\n"
        out += b"data: " + json.dumps(payload).encode() + b"\n\n"
    return out


def chat_stream(feature: str) -> bytes:
    def chunk(delta: Json, reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "choices": [choice]}

    chunks = [chunk({"role": "assistant", "content": ""})]
    if feature == "thinking":
        chunks += [chunk({"reasoning_content": "I "}), chunk({"reasoning_content": "know."})]
    chunks += [chunk({"content": piece}) for piece in split(ANSWERS.get(feature, ""))]
    for n in range(calls_of(feature)):
        function = {"name": "weather", "arguments": ""}
        head = {"index": n, "id": f"call_{n}", "type": "function", "function": function}
        chunks.append(chunk({"tool_calls": [head]}))
        for piece in split(json.dumps({"city": f"P{n}"})):
            call = {"index": n, "function": {"arguments": piece}}
            chunks.append(chunk({"tool_calls": [call]}))
    chunks.append(chunk({}, "tool_calls" if calls_of(feature) else "stop"))
    chunks.append({"id": "c1", "choices": [], "usage": CHAT_USAGE})
    return sse(*chunks) + b"data: [DONE]\n\n"


CHAT_USAGE: Final[Json] = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 64},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def split(text: str) -> list[str]:
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


def chat_body(feature: str) -> bytes:
    message: Json = {"role": "assistant", "content": ANSWERS.get(feature)}
    if feature == "thinking":
        message["reasoning_content"] = "I know."
    count = calls_of(feature)
    if count:
        message["tool_calls"] = _chat_calls(count)[0]["tool_calls"]
    reason = "tool_calls" if count else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    body = {"id": "c1", "object": "chat.completion", "choices": [choice], "usage": CHAT_USAGE}
    return json.dumps(body).encode()


def _anthropic_blocks(feature: str) -> list[Json]:
    blocks: list[Json] = []
    if feature in {"thinking", "tools"}:
        blocks.append({"type": "thinking", "thinking": "I know.", "signature": "c2ln"})
    if feature in ANSWERS:
        blocks.append({"type": "text", "text": ANSWERS[feature]})
    for n in range(calls_of(feature)):
        use = {"type": "tool_use", "id": f"call_{n}", "name": "weather"}
        blocks.append({**use, "input": {"city": f"P{n}"}})
    return blocks


ANTHROPIC_USAGE: Final[Json] = {
    "input_tokens": 36,
    "cache_read_input_tokens": 64,
    "cache_creation_input_tokens": 0,
    "output_tokens": 20,
    "output_tokens_details": {"thinking_tokens": 5},
}


def anthropic_body(feature: str) -> bytes:
    reason = "tool_use" if calls_of(feature) else "end_turn"
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
    ending = {"stop_reason": reason, "stop_sequence": None, "usage": ANTHROPIC_USAGE}
    return json.dumps({**message, "content": _anthropic_blocks(feature), **ending}).encode()


def anthropic_stream(feature: str) -> bytes:
    begun = {**ANTHROPIC_USAGE, "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    events: list[Json] = [
        {"type": "message_start", "message": {**message, "usage": begun}},
        {"type": "ping"},
    ]
    for index, block in enumerate(_anthropic_blocks(feature)):
        empty, deltas = _block_pieces(block)
        start = {"type": "content_block_start", "index": index, "content_block": empty}
        events.append(start)
        piece = {"type": "content_block_delta", "index": index}
        events += [{**piece, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    reason = "tool_use" if calls_of(feature) else "end_turn"
    delta = {"stop_reason": reason, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": ANTHROPIC_USAGE})
    events.append({"type": "message_stop"})
    return sse(*events, event=True)


def _block_pieces(block: Json) -> tuple[Json, list[Json]]:
    if block["type"] == "text":
        pieces = [{"type": "text_delta", "text": piece} for piece in split(block["text"])]
        return {"type": "text", "text": ""}, pieces
    if block["type"] == "thinking":
        pieces = [{"type": "thinking_delta", "thinking": p} for p in split(block["thinking"])]
        pieces.append({"type": "signature_delta", "signature": block["signature"]})
        return {"type": "thinking", "thinking": "", "signature": ""}, pieces
    text = json.dumps(block["input"])
    pieces = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *split(text)]]
    return {**block, "input": {}}, pieces


GEMINI_USAGE: Final[Json] = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 64,
    "candidatesTokenCount": 15,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 120,
}


def _gemini_parts(feature: str) -> list[Json]:
    parts: list[Json] = []
    if feature == "thinking":
        parts.append({"text": "I know.", "thought": True})
    parts += [{"text": piece} for piece in split(ANSWERS.get(feature, ""))]
    for n in range(calls_of(feature)):
        call = {"id": f"call_{n}", "name": "weather", "args": {"city": f"P{n}"}}
        part: Json = {"functionCall": call}
        if n == 0:
            part["thoughtSignature"] = "c2ln"
        parts.append(part)
    return parts


def gemini_body(feature: str) -> bytes:
    content = {"role": "model", "parts": _gemini_parts(feature)}
    candidate = {"content": content, "finishReason": "STOP", "index": 0}
    return json.dumps({"candidates": [candidate], "usageMetadata": GEMINI_USAGE}).encode()


def gemini_stream(feature: str) -> bytes:
    parts = _gemini_parts(feature)
    chunks = []
    for index, part in enumerate(parts):
        candidate: Json = {"content": {"role": "model", "parts": [part]}, "index": 0}
        if index == len(parts) - 1:
            candidate["finishReason"] = "STOP"
        chunks.append({"candidates": [candidate], "usageMetadata": GEMINI_USAGE})
    return sse(*chunks).replace(b"\n", b"\r\n")


RESPONSES_USAGE: Final[Json] = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 120,
}


def _response_items(feature: str) -> list[Json]:
    items: list[Json] = []
    if feature in {"thinking", "tools"}:
        summary = [{"type": "summary_text", "text": "I know."}]
        item = {"id": "rs_1", "type": "reasoning", "summary": summary}
        items.append({**item, "encrypted_content": "c2ln"})
    if feature in ANSWERS:
        part = {"type": "output_text", "text": ANSWERS[feature], "annotations": []}
        message = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
        items.append({**message, "content": [part]})
    for n in range(calls_of(feature)):
        call = {"id": f"fc_{n}", "type": "function_call", "call_id": f"call_{n}"}
        items.append({**call, "name": "weather", "arguments": json.dumps({"city": f"P{n}"})})
    return items


def responses_body(feature: str) -> bytes:
    response = {"id": "resp_1", "object": "response", "status": "completed", "error": None}
    output = {"output": _response_items(feature), "usage": RESPONSES_USAGE}
    return json.dumps({**response, "incomplete_details": None, **output}).encode()


def responses_stream(feature: str) -> bytes:
    begun = {"id": "resp_1", "object": "response", "status": "in_progress", "usage": None}
    events: list[Json] = [{"type": "response.created", "response": begun}]
    for index, item in enumerate(_response_items(feature)):
        added = {"type": "response.output_item.added", "output_index": index}
        if item["type"] == "reasoning":
            events.append({**added, "item": {**item, "summary": []}})
            kind, whole = "response.reasoning_summary_text.delta", item["summary"][0]["text"]
        elif item["type"] == "message":
            events.append({**added, "item": {**item, "content": []}})
            kind, whole = "response.output_text.delta", item["content"][0]["text"]
        else:
            events.append({**added, "item": {**item, "arguments": ""}})
            kind, whole = "response.function_call_arguments.delta", item["arguments"]
        events += [{"type": kind, "output_index": index, "delta": piece} for piece in split(whole)]
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    events.append({"type": "response.completed", "response": json.loads(responses_body(feature))})
    return sse(*events, event=True)


STREAMS: Final = {
    CHAT: chat_stream,
    ANTHROPIC: anthropic_stream,
    GEMINI: gemini_stream,
    RESPONSES: responses_stream,
}
BODIES: Final = {
    CHAT: chat_body,
    ANTHROPIC: anthropic_body,
    GEMINI: gemini_body,
    RESPONSES: responses_body,
}
ERRORS: Final[dict[TranslateDialect, Json]] = {
    CHAT: {"error": {"message": "Slow down.", "type": "rate_limit_error", "code": None}},
    ANTHROPIC: {"type": "error", "error": {"type": "rate_limit_error", "message": "Slow down."}},
    GEMINI: {"error": {"code": 429, "message": "Slow down.", "status": "RESOURCE_EXHAUSTED"}},
    RESPONSES: {"error": {"message": "Slow down.", "type": "rate_limit_error", "code": None}},
}
STREAM_ERRORS: Final = {
    CHAT: sse(ERRORS[CHAT]),
    ANTHROPIC: sse(ERRORS[ANTHROPIC], event=True),
    GEMINI: sse(ERRORS[GEMINI]),
    RESPONSES: sse(
        {"type": "error", "code": "rate_limit_exceeded", "message": "Slow down.", "param": None},
        event=True,
    ),
}
