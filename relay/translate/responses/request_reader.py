"""Reads a request for a response into the middle form.

A custom tool, whose input is free text, becomes a function with one text: `input`.

Source: OpenAI API reference, "Create a model response".
"""

from typing import Any, Final

from relay.translate.fields import (
    encode_text,
    flag_at,
    integer_at,
    list_at,
    needed_text,
    object_at,
    objects_at,
    text_at,
    texts_at,
    wrong,
)
from relay.translate.middle import (
    Ask,
    Call,
    Declined,
    JsonObject,
    Part,
    Result,
    Role,
    Shown,
    Text,
    Tool,
    Turn,
    refusal,
)
from relay.translate.openai_common import (
    cache_at,
    read_choice,
    read_effort,
    read_file,
    read_format,
    read_image,
    read_shared,
)

NAMES: Final = {
    "max_tokens": "max_output_tokens",
    "parallel": "parallel_tool_calls",
    "tier": "service_tier",
    "user": "safety_identifier",
    "thinking": "reasoning",
    "choice": "tool_choice",
    "format": "text.format",
    "verbosity": "text.verbosity",
    "logprobs": "top_logprobs",
    "cache": "cache_control",
    "detail": "input_image.detail",
}
_TOOL: Final = frozenset(
    {"type", "name", "description", "parameters", "strict", "format", "cache_control"}
)
_READ: Final = frozenset(
    {
        *("model", "input", "instructions", "stream", "max_output_tokens", "temperature", "top_p"),
        *("tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "prompt_cache_key"),
        *("prompt_cache_retention", "prompt_cache_options", "user", "safety_identifier"),
        *("service_tier", "metadata", "store", "include", "top_logprobs", "truncation"),
        *("previous_response_id", "conversation", "background", "prompt", "max_tool_calls"),
        *("stream_options", "context_management", "client_metadata"),
    }
)
_STATEFUL: Final = ("previous_response_id", "conversation", "background", "prompt")
_LOGPROBS: Final = "message.output_text.logprobs"
_PASSED: Final = frozenset({"reasoning.encrypted_content", _LOGPROBS})
INPUT_SCHEMA: Final[JsonObject] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The one argument of what is a custom tool to the client."""


def read_request(body: JsonObject, ask: Ask) -> None:
    """Fill `ask` with what a body for `/responses` says.

    Raises:
        Refused: CLIENT; a field that no other dialect can carry, or of the wrong type.
    """
    ask.names = dict(NAMES)
    ask.stream = flag_at(body, "stream") or False
    for name in _STATEFUL:
        if body.get(name):
            raise refusal(name, "no state is kept at the provider; send the whole input")
    read_shared(body, ask)
    ask.max_tokens = integer_at(body, "max_output_tokens")
    for name in ("max_tool_calls", "context_management"):
        if body.get(name):
            ask.drop(name)
    if body.get("truncation") not in {None, "disabled"}:
        ask.drop("truncation")
    _read_include(body, ask)
    _read_output(body, ask)
    _read_tools(body, ask)
    instructions = text_at(body, "instructions")
    if instructions:
        ask.turns.append(Turn(Role.SYSTEM, [Text(instructions)]))
    given = body.get("input")
    if isinstance(given, str):
        ask.turns.append(Turn(Role.USER, [Text(given)]))
    else:
        for index, item in enumerate(objects_at(body, "input")):
            _read_item(item, f"input[{index}]", ask)
    ask.drop_unknown(body, _READ, "")


def _read_include(body: JsonObject, ask: Ask) -> None:
    wanted = texts_at(body, "include")
    if _LOGPROBS in wanted or integer_at(body, "top_logprobs"):
        ask.logprobs = integer_at(body, "top_logprobs") or 0
    for name in wanted:
        if name not in _PASSED:
            ask.drop(f"include={name}")


def _read_output(body: JsonObject, ask: Ask) -> None:
    text = object_at(body, "text") or {}
    ask.format = read_format(object_at(text, "format", "text"), "text.format")
    ask.verbosity = text_at(text, "verbosity", "text")
    reasoning = object_at(body, "reasoning") or {}
    ask.thinking = read_effort(text_at(reasoning, "effort", "reasoning"), "reasoning.effort")
    if ask.thinking is not None:
        ask.thinking.shown = bool(reasoning.get("summary"))


def _read_tools(body: JsonObject, ask: Ask) -> None:
    for index, fields in enumerate(objects_at(body, "tools")):
        path = f"tools[{index}]"
        kind = text_at(fields, "type", path)
        if kind not in {"function", "custom"}:
            raise refusal(f"{path}.type", "the provider's own tools run nowhere else")
        custom = kind == "custom"
        ask.drop_unknown(fields, _TOOL, "tools")
        ask.tools.append(
            Tool(
                needed_text(fields, "name", path),
                _description(fields, path),
                INPUT_SCHEMA if custom else object_at(fields, "parameters", path),
                flag_at(fields, "strict", path),
                cache_at(fields, path),
                custom,
            )
        )
    ask.choice = read_choice(body.get("tool_choice"), "tool_choice")


def _description(fields: JsonObject, path: str) -> str | None:
    """Return what a tool is for; a custom tool's grammar is told in words."""
    described = text_at(fields, "description", path)
    grammar = object_at(fields, "format", path)
    if grammar is None or grammar.get("type") != "grammar":
        return described
    said = text_at(grammar, "definition", f"{path}.format") or ""
    syntax = text_at(grammar, "syntax", f"{path}.format") or "grammar"
    return f"{described or ''}\nIts input must follow this {syntax} definition:\n{said}".strip()


def _read_item(item: JsonObject, path: str, ask: Ask) -> None:
    kind = item.get("type") or "message"
    if kind == "message":
        ask.turns.append(_read_message(item, path))
    elif kind in {"function_call", "custom_tool_call"}:
        ask.turns.append(Turn(Role.MODEL, [_read_call(item, path)]))
    elif kind in {"function_call_output", "custom_tool_call_output"}:
        ask.turns.append(Turn(Role.USER, [_read_result(item, path)]))
    elif kind == "reasoning":
        ask.echoed = "input.reasoning"
    elif kind == "item_reference":
        raise refusal(path, "no state is kept at the provider; send the whole item")
    else:
        raise refusal(f"{path}.type", "no item of this type")


def _read_call(item: JsonObject, path: str) -> Call:
    call_id = needed_text(item, "call_id", path)
    name = needed_text(item, "name", path)
    if item.get("type") == "custom_tool_call":
        text = text_at(item, "input", path) or ""
        return Call(call_id, name, encode_text({"input": text}), custom=True)
    return Call(call_id, name, text_at(item, "arguments", path) or "")


def _read_result(item: JsonObject, path: str) -> Result:
    given = item.get("output")
    parts: list[Shown] = []
    if isinstance(given, str):
        parts.append(Text(given))
    else:
        for index, part in enumerate(list_at(item, "output", path)):
            parts.append(_read_shown(part, f"{path}.output[{index}]"))
    return Result(needed_text(item, "call_id", path), parts, path)


def _read_message(item: JsonObject, path: str) -> Turn:
    role = needed_text(item, "role", path)
    content = item.get("content")
    if role == "assistant":
        return Turn(Role.MODEL, _said(item, path))
    parts: list[Part] = []
    if isinstance(content, str):
        parts.append(Text(content))
    else:
        for index, part in enumerate(list_at(item, "content", path)):
            parts.append(_read_shown(part, f"{path}.content[{index}]"))
    if role == "user":
        return Turn(Role.USER, parts)
    if role not in {"system", "developer"}:
        raise wrong(f"{path}.role", "user, assistant, system or developer")
    return Turn(Role.SYSTEM, parts, role == "developer")


def _said(item: JsonObject, path: str) -> list[Part]:
    content = item.get("content")
    if isinstance(content, str):
        return [Text(content)]
    parts: list[Part] = []
    for index, part in enumerate(objects_at(item, "content", path)):
        where = f"{path}.content[{index}]"
        if part.get("type") == "refusal":
            parts.append(Declined(needed_text(part, "refusal", where)))
        else:
            parts.append(Text(needed_text(part, "text", where)))
    return parts


def _read_shown(part: Any, path: str) -> Shown:
    if not isinstance(part, dict):
        raise wrong(path, "an object")
    cache = cache_at(part, path)
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return Text(needed_text(part, "text", path), cache)
        case "input_image":
            if part.get("file_id") is not None:
                raise refusal(f"{path}.file_id", "a stored file belongs to one provider")
            detail = text_at(part, "detail", path)
            return read_image(part.get("image_url"), detail, f"{path}.image_url", cache)
        case "input_file":
            return read_file(part, path, cache)
        case _:
            raise refusal(f"{path}.type", "no part of this type")
