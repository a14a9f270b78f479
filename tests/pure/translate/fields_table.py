"""The second half of docs/translation.md: what becomes of each field, tried out one by one.

Method: one field is added to a plain request and the request translated to each other dialect.
"""

import copy
from typing import Any, Final

from relay.translate import Refused, TranslateDialect, translate_request
from tests.pure.translate.reading import UPSTREAM
from tests.pure.translate.samples import (
    ANTHROPIC,
    CHAT,
    DIALECTS,
    GEMINI,
    PNG,
    REQUESTS,
    RESPONSES,
)

Json = dict[str, Any]
_PDF: Final = "data:application/pdf;base64,JVBERi0="
_OBJECT: Final = {"type": "json_object"}
_IMAGE_URL: Final = "https://example.com/a.png"


def _with(**fields: Any) -> Json:
    return fields


def _user(client: TranslateDialect, *parts: Json) -> Json:
    if client is GEMINI:
        return {"contents": [{"role": "user", "parts": list(parts)}]}
    message = {"role": "user", "content": list(parts)}
    return {"input": [message]} if client is RESPONSES else {"messages": [message]}


def _after_tools(client: TranslateDialect, *messages: Json) -> Json:
    body = REQUESTS[client]("tools")
    name = "input" if client is RESPONSES else "messages"
    return {**body, name: [*body[name], *messages]}


def _config(**fields: Any) -> Json:
    return {"generationConfig": fields}


def _chat_probes() -> list[tuple[str, Json]]:
    tools = REQUESTS[CHAT]("tools")["tools"]
    audio = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": _PDF}}
    function = {"type": "function", "function": {"name": "weather"}}
    stored = {"type": "file", "file": {"file_id": "file-1"}}
    allowed = {"mode": "required", "tools": [function]}
    return [
        ("temperature 0.5", _with(temperature=0.5)),
        ("temperature 1.5", _with(temperature=1.5)),
        ("top_p beside temperature", _with(temperature=0.5, top_p=0.9)),
        ("seed", _with(seed=7)),
        ("presence_penalty", _with(presence_penalty=0.5)),
        ("frequency_penalty", _with(frequency_penalty=0.5)),
        ("logit_bias", _with(logit_bias={"50256": -100})),
        ("logprobs", _with(logprobs=True, top_logprobs=2)),
        ("n 2", _with(n=2)),
        ("stop", _with(stop=["END"])),
        ("stop, blank", _with(stop=["\n"])),
        ("max_tokens", _with(max_completion_tokens=None, max_tokens=100)),
        ("response_format json_object", _with(response_format=_OBJECT)),
        ("tool_choice required", _with(tools=tools, tool_choice="required")),
        ("tool_choice function", _with(tools=tools, tool_choice=function)),
        (
            "tool_choice allowed_tools",
            _with(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}),
        ),
        ("parallel_tool_calls false", _with(tools=tools, parallel_tool_calls=False)),
        ("tools of type custom", _with(tools=[{"type": "custom", "custom": {"name": "x"}}])),
        ("web_search_options", _with(web_search_options={"search_context_size": "low"})),
        ("modalities audio", _with(modalities=["text", "audio"])),
        ("image by address", _user(CHAT, {"type": "image_url", "image_url": _IMAGE_URL})),
        ("file, PDF", _user(CHAT, file)),
        ("file_id", _user(CHAT, stored)),
        ("input_audio", _user(CHAT, audio)),
        (
            "system message later on",
            _after_tools(CHAT, {"role": "system", "content": "Now in French."}),
        ),
        ("service_tier", _with(service_tier="flex")),
        ("safety_identifier", _with(safety_identifier="u1")),
        ("metadata", _with(metadata={"a": "b"})),
        ("store true", _with(store=True)),
        ("verbosity", _with(verbosity="low")),
        ("reasoning_effort none", _with(reasoning_effort="none")),
        ("an unknown field", _with(shiny=True)),
    ]


def _anthropic_probes() -> list[tuple[str, Json]]:
    tools = REQUESTS[ANTHROPIC]("tools")["tools"]
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    text = {"type": "text", "media_type": "text/plain", "data": "Hello."}
    address = {"type": "url", "url": _IMAGE_URL}
    stored = {"type": "file", "file_id": "file_1"}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    calls = REQUESTS[ANTHROPIC]("tools")["messages"][:2]
    result = {"type": "tool_result", "tool_use_id": "call_0"}
    thinking = {"type": "enabled", "budget_tokens": 2048}
    adaptive = {"type": "adaptive"}
    cited = {"type": "document", "source": text, "citations": {"enabled": True}}
    return [
        ("temperature", _with(temperature=0.5)),
        ("top_k", _with(top_k=40)),
        ("stop_sequences", _with(stop_sequences=["END"])),
        ("tool_choice any", _with(tools=tools, tool_choice={"type": "any"})),
        ("tool_choice tool", _with(tools=tools, tool_choice={"type": "tool", "name": "weather"})),
        (
            "disable_parallel_tool_use",
            _with(tools=tools, tool_choice={"type": "auto", "disable_parallel_tool_use": True}),
        ),
        ("a server's own tool", _with(tools=[{"type": "web_search_20250305", "name": "search"}])),
        ("mcp_servers", _with(mcp_servers=[{"type": "url", "url": "https://a", "name": "a"}])),
        ("thinking enabled", _with(thinking=thinking)),
        ("thinking adaptive, effort", _with(thinking=adaptive, output_config={"effort": "high"})),
        ("thinking disabled", _with(thinking={"type": "disabled"})),
        ("image by address", _user(ANTHROPIC, {"type": "image", "source": address})),
        ("image, stored file", _user(ANTHROPIC, {"type": "image", "source": stored})),
        ("document, PDF", _user(ANTHROPIC, {"type": "document", "source": pdf})),
        ("document, text", _user(ANTHROPIC, {"type": "document", "source": text})),
        ("document, citations", _user(ANTHROPIC, cited)),
        (
            "tool_result with an image",
            _with(
                tools=tools,
                messages=[*calls, {"role": "user", "content": [{**result, "content": [image]}]}],
            ),
        ),
        (
            "tool_result is_error",
            _with(
                tools=tools,
                messages=[
                    *calls,
                    {"role": "user", "content": [{**result, "content": "No.", "is_error": True}]},
                ],
            ),
        ),
        ("metadata.user_id", _with(metadata={"user_id": "u1"})),
        ("service_tier", _with(service_tier="auto")),
        ("container", _with(container="c1")),
        ("an unknown field", _with(shiny=True)),
    ]


def _gemini_probes() -> list[tuple[str, Json]]:
    tools = REQUESTS[GEMINI]("tools")["tools"]
    schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING", "nullable": True}}}
    calling = {"mode": "ANY", "allowedFunctionNames": ["weather"]}
    config = {"functionCallingConfig": calling}
    wav = {"inlineData": {"mimeType": "audio/wav", "data": "AAAA"}}
    mp4 = {"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}}
    pdf = {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}}
    stored = {"fileData": {"mimeType": "image/png", "fileUri": "gs://bucket/a.png"}}
    return [
        ("temperature", _config(temperature=0.5)),
        ("topK", _config(topK=40)),
        ("seed", _config(seed=7)),
        ("presencePenalty", _config(presencePenalty=0.5)),
        ("stopSequences", _config(stopSequences=["END"])),
        ("candidateCount 2", _config(candidateCount=2)),
        ("responseLogprobs", _config(responseLogprobs=True, logprobs=2)),
        ("responseModalities", _config(responseModalities=["TEXT", "IMAGE"])),
        ("responseMimeType JSON, no schema", _config(responseMimeType="application/json")),
        (
            "responseSchema",
            _config(responseMimeType="application/json", responseSchema=schema),
        ),
        ("thinkingLevel", _config(thinkingConfig={"thinkingLevel": "HIGH"})),
        ("thinkingBudget 0", _config(thinkingConfig={"thinkingBudget": 0})),
        ("functionCallingConfig ANY, names", _with(tools=tools, toolConfig=config)),
        ("googleSearch", _with(tools=[{"googleSearch": {}}])),
        ("codeExecution", _with(tools=[{"codeExecution": {}}])),
        ("safetySettings", _with(safetySettings=[{"category": "A", "threshold": "OFF"}])),
        ("cachedContent", _with(cachedContent="cachedContents/1")),
        ("audio", _user(GEMINI, wav)),
        ("video", _user(GEMINI, mp4)),
        ("PDF", _user(GEMINI, pdf)),
        ("fileData, stored", _user(GEMINI, stored)),
        ("serviceTier", _with(serviceTier="flex")),
        ("an unknown field", _with(shiny=True)),
    ]


def _responses_probes() -> list[tuple[str, Json]]:
    tools = REQUESTS[RESPONSES]("tools")["tools"]
    custom = {"type": "custom", "name": "patch", "description": "Applies a patch."}
    image = {"type": "input_image", "image_url": _IMAGE_URL}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": _PDF}
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    developer = {"role": "developer", "content": "Now in French."}
    output = {"type": "function_call_output", "call_id": "call_0"}
    return [
        ("temperature 1.5", _with(temperature=1.5)),
        ("top_logprobs", _with(top_logprobs=2, include=["message.output_text.logprobs"])),
        ("text.format json_object", _with(text={"format": _OBJECT})),
        ("text.verbosity", _with(text={"verbosity": "low"})),
        ("tool_choice function", _with(tools=tools, tool_choice={"type": "function", "name": "w"})),
        ("parallel_tool_calls false", _with(tools=tools, parallel_tool_calls=False)),
        ("tools of type custom", _with(tools=[custom])),
        ("tools of type web_search", _with(tools=[{"type": "web_search"}])),
        ("tools of type mcp", _with(tools=[{"type": "mcp", "server_label": "a"}])),
        ("max_tool_calls", _with(max_tool_calls=3)),
        ("previous_response_id", _with(previous_response_id="resp_1")),
        ("conversation", _with(conversation="conv_1")),
        ("background", _with(background=True)),
        ("prompt", _with(prompt={"id": "p"})),
        ("item_reference", _with(input=[{"type": "item_reference", "id": "msg_1"}])),
        ("reasoning items of before", _after_tools(RESPONSES, reasoning)),
        ("developer message later on", _after_tools(RESPONSES, developer)),
        ("input_image by address", _user(RESPONSES, image)),
        ("input_file, PDF", _user(RESPONSES, file)),
        (
            "function_call_output with an image",
            _with(
                tools=tools,
                input=[
                    *REQUESTS[RESPONSES]("tools")["input"][:2],
                    {
                        **output,
                        "output": [
                            {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
                        ],
                    },
                ],
            ),
        ),
        ("truncation auto", _with(truncation="auto")),
        ("store true", _with(store=True)),
        ("metadata", _with(metadata={"a": "b"})),
        ("service_tier", _with(service_tier="flex")),
        ("an unknown field", _with(shiny=True)),
    ]


PROBES: Final = {
    CHAT: _chat_probes(),
    ANTHROPIC: _anthropic_probes(),
    GEMINI: _gemini_probes(),
    RESPONSES: _responses_probes(),
}


def outcome(client: TranslateDialect, upstream: TranslateDialect, fields: Json) -> str:
    """Return what becomes of a request with these fields."""
    body = copy.deepcopy(REQUESTS[client]("text"))
    body.update(copy.deepcopy(fields))
    try:
        request = translate_request(client, upstream, body, UPSTREAM)
    except Refused as refused:
        return f"400 {refused.param}"
    return f"drops {', '.join(request.dropped)}" if request.dropped else "carried"


def render_fields(names: dict[TranslateDialect, str]) -> str:
    """Return a table per client dialect."""
    lines: list[str] = []
    for client in DIALECTS:
        others = [dialect for dialect in DIALECTS if dialect is not client]
        lines += ["", f"### From {names[client]}", ""]
        lines.append("| field | " + " | ".join(f"to {names[one]}" for one in others) + " |")
        lines.append("|---" * (len(others) + 1) + "|")
        for name, fields in PROBES[client]:
            cells = [outcome(client, other, fields) for other in others]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
