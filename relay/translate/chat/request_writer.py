"""Writes a chat completion's request from the middle form.

Source: OpenAI API reference, "Create chat completion".
"""

from typing import Any, Final

from relay.translate.idents import legal_call_id
from relay.translate.middle import (
    Ask,
    Call,
    Declined,
    JsonObject,
    Media,
    MediaKind,
    Part,
    Result,
    Role,
    Shown,
    Text,
    Turn,
    Upstream,
    refusal,
)
from relay.translate.openai_common import (
    choice_word,
    effort_of,
    format_members,
    inline_url,
    write_sampling,
    write_shared,
)

STOPS_MAX: Final = 4
PLACEHOLDER: Final = "(The result is in the next message of the user.)"
"""Stands where a tool's result holds what only a user may show."""
_SAMPLING: Final = frozenset(
    {"temperature", "top_p", "seed", "presence_penalty", "frequency_penalty"}
)
_FORMATS: Final = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
}


def write_request(ask: Ask, upstream: Upstream) -> JsonObject:
    """Return the body of a chat completion.

    Raises:
        Refused: CLIENT; the dialect has no way to say it.
    """
    body: JsonObject = {"model": ask.model, "messages": _messages(ask)}
    if ask.stream:
        body["stream"] = True
        if upstream.include_usage:
            body["stream_options"] = {"include_usage": True}
    _write_tools(ask, body)
    _write_bounds(ask, body, upstream)
    write_sampling(ask.sampling, ask, body, _SAMPLING)
    _write_format(ask, body)
    if ask.thinking is not None:
        effort = effort_of(ask.thinking, ask)
        if effort is not None:
            body["reasoning_effort"] = effort
        elif ask.thinking.enabled is False:
            ask.drop_named("thinking")
    if ask.verbosity is not None:
        body["verbosity"] = ask.verbosity
    write_shared(ask, body, ask.cache_key)
    ask.drop_error_flags()
    return body


def _write_bounds(ask: Ask, body: JsonObject, upstream: Upstream) -> None:
    if ask.max_tokens is not None:
        name = "max_tokens" if upstream.legacy_max_tokens else "max_completion_tokens"
        body[name] = ask.max_tokens
    if ask.stop:
        body["stop"] = ask.stop[:STOPS_MAX]
        ask.cut_at(ask.stop[STOPS_MAX:])
    if ask.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = ask.logprobs


def _write_format(ask: Ask, body: JsonObject) -> None:
    if ask.format is None:
        return
    if ask.format.schema is None:
        body["response_format"] = {"type": "json_object"}
    else:
        members = format_members(ask.format)
        body["response_format"] = {"type": "json_schema", "json_schema": members}


def _write_tools(ask: Ask, body: JsonObject) -> None:
    tools: list[JsonObject] = []
    for tool in ask.tools:
        function: JsonObject = {"name": tool.name}
        if tool.description is not None:
            function["description"] = tool.description
        if tool.schema is not None:
            function["parameters"] = tool.schema
        if tool.strict is not None:
            function["strict"] = tool.strict
        tools.append({"type": "function", "function": function})
    if tools:
        body["tools"] = tools
    choice = ask.choice
    if choice is None or not tools:
        return
    if not choice.names:
        body["tool_choice"] = choice_word(choice)
    elif len(choice.names) == 1 and choice_word(choice) == "required":
        body["tool_choice"] = {"type": "function", "function": {"name": choice.names[0]}}
    else:
        allowed = [{"type": "function", "function": {"name": name}} for name in choice.names]
        body["tool_choice"] = {
            "type": "allowed_tools",
            "allowed_tools": {"mode": choice_word(choice), "tools": allowed},
        }


def _messages(ask: Ask) -> list[JsonObject]:
    messages: list[JsonObject] = []
    for turn in ask.turns:
        if turn.role is Role.SYSTEM:
            messages.append({"role": "system", "content": _content(turn.parts)})
        elif turn.role is Role.MODEL:
            messages.append(_answer(turn))
        else:
            _write_user(turn, messages)
    return messages


def _write_user(turn: Turn, messages: list[JsonObject]) -> None:
    """Write a user's turn: every result first, then one message with all that may be shown."""
    shown: list[Part] = []
    for part in turn.parts:
        if not isinstance(part, Result):
            shown.append(part)
            continue
        words = [one for one in part.parts if isinstance(one, Text)]
        media = [one for one in part.parts if not isinstance(one, Text)]
        shown[len(shown) :] = media
        text = "\n".join(one.text for one in words)
        if media:
            text = f"{text}\n{PLACEHOLDER}" if text else PLACEHOLDER
        call_id = legal_call_id(part.call_id)
        messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
    if shown:
        messages.append({"role": "user", "content": _content(shown)})


def _content(parts: list[Part]) -> str | list[JsonObject]:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_shown(part) for part in parts if isinstance(part, Text | Media)]


def _shown(part: Shown) -> JsonObject:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if part.kind is MediaKind.IMAGE:
        image: JsonObject = {"url": inline_url(part)}
        if part.detail:
            image["detail"] = part.detail
        return {"type": "image_url", "image_url": image}
    if part.kind is MediaKind.AUDIO and part.data and part.mime in _FORMATS:
        sound = {"data": part.data, "format": _FORMATS[part.mime]}
        return {"type": "input_audio", "input_audio": sound}
    if part.kind is MediaKind.DOCUMENT and part.text:
        return {"type": "text", "text": f"{part.title}\n{part.text}" if part.title else part.text}
    if part.kind is MediaKind.DOCUMENT and part.data:
        file = {"filename": part.title or "document.pdf", "file_data": inline_url(part)}
        return {"type": "file", "file": file}
    raise refusal(part.param, f"no {part.kind.value} of this type")


def _answer(turn: Turn) -> JsonObject:
    calls: list[JsonObject] = []
    texts: list[str] = []
    message: JsonObject = {"role": "assistant", "content": None}
    for part in turn.parts:
        if isinstance(part, Call):
            calls.append(_call(part))
            for kept in part.kept:
                message.update(kept)
        elif isinstance(part, Text):
            texts.append(part.text)
        elif isinstance(part, Declined):
            message["refusal"] = message.get("refusal", "") + part.text
    if texts or not calls:
        message["content"] = "".join(texts)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(part: Call) -> JsonObject:
    function: dict[str, Any] = {"name": part.name, "arguments": part.arguments or "{}"}
    return {"id": legal_call_id(part.id), "type": "function", "function": function}
