"""Reads a chat completion's request into the middle form.

Source: OpenAI API reference, "Create chat completion"; `reasoning_content` and `reasoning` of
DeepSeek and OpenRouter, `cache_control` of those who sell Anthropic's models in this dialect.
"""

from typing import Any, Final

from relay.translate.fields import (
    flag_at,
    integer_at,
    needed_text,
    number_at,
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
    Media,
    MediaKind,
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
    "stop": "stop",
    "top_k": "top_k",
    "max_tokens": "max_completion_tokens",
    "parallel": "parallel_tool_calls",
    "tier": "service_tier",
    "user": "safety_identifier",
    "thinking": "reasoning_effort",
    "choice": "tool_choice",
    "format": "response_format",
    "verbosity": "verbosity",
    "logprobs": "logprobs",
    "cache": "cache_control",
    "detail": "image_url.detail",
}
_FUNCTION: Final = frozenset({"name", "description", "parameters", "strict"})
_MESSAGE: Final = frozenset(
    {
        *("role", "content", "name", "refusal", "tool_calls", "tool_call_id", "function_call"),
        *("audio", "cache_control", "annotations", "reasoning_content", "reasoning"),
        *("reasoning_details", "parsed"),
    }
)
"""The last of them come from answers that clients send back as they got them."""
_READ: Final = frozenset(
    {
        *("model", "messages", "stream", "stream_options", "tools", "tool_choice", "stop", "n"),
        *("functions", "function_call", "parallel_tool_calls", "max_tokens", "temperature"),
        *("max_completion_tokens", "top_p", "top_k", "seed", "presence_penalty", "logit_bias"),
        *("frequency_penalty", "response_format", "reasoning_effort", "reasoning", "logprobs"),
        *("top_logprobs", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
        *("user", "safety_identifier", "service_tier", "verbosity", "metadata", "store"),
        *("modalities", "audio", "web_search_options", "prediction", "thinking"),
    }
)
_SYSTEM: Final = frozenset({"system", "developer"})


def read_request(body: JsonObject, ask: Ask) -> None:
    """Fill `ask` with what a chat completion's body says.

    Raises:
        Refused: CLIENT; a field that no other dialect can carry, or of the wrong type.
    """
    ask.names = dict(NAMES)
    ask.stream = flag_at(body, "stream") or False
    options = object_at(body, "stream_options") or {}
    ask.include_usage = flag_at(options, "include_usage", "stream_options") or False
    _refuse_unsayable(body)
    read_shared(body, ask)
    _read_bounds(body, ask)
    _read_tools(body, ask)
    ask.format = read_format(object_at(body, "response_format"), "response_format")
    _read_thinking(body, ask)
    for index, message in enumerate(objects_at(body, "messages")):
        ask.turns.append(_read_message(message, f"messages[{index}]", ask))
    ask.drop_unknown(body, _READ, "")


def _refuse_unsayable(body: JsonObject) -> None:
    if (integer_at(body, "n") or 1) != 1:
        raise refusal("n", "one answer a call")
    for name in ("logit_bias", "web_search_options", "functions", "function_call", "audio"):
        if body.get(name):
            raise refusal(name)
    if any(kind != "text" for kind in texts_at(body, "modalities")):
        raise refusal("modalities", "text alone")


def _read_bounds(body: JsonObject, ask: Ask) -> None:
    if body.get("max_completion_tokens") is None:
        ask.names["max_tokens"] = "max_tokens"
    ask.max_tokens = integer_at(body, "max_completion_tokens") or integer_at(body, "max_tokens")
    ask.stop = texts_at(body, "stop")
    sampling = ask.sampling
    sampling.top_k = integer_at(body, "top_k")
    sampling.seed = integer_at(body, "seed")
    sampling.presence_penalty = number_at(body, "presence_penalty")
    sampling.frequency_penalty = number_at(body, "frequency_penalty")
    ask.verbosity = text_at(body, "verbosity")
    if flag_at(body, "logprobs"):
        ask.logprobs = integer_at(body, "top_logprobs") or 0
    if body.get("prediction") is not None:
        ask.drop("prediction")


def _read_thinking(body: JsonObject, ask: Ask) -> None:
    ask.thinking = read_effort(text_at(body, "reasoning_effort"), "reasoning_effort")
    reasoning = object_at(body, "reasoning")
    if reasoning is not None and ask.thinking is None:
        ask.names["thinking"] = "reasoning"
        ask.thinking = read_effort(text_at(reasoning, "effort", "reasoning"), "reasoning.effort")
    if body.get("thinking") is not None:
        ask.drop("thinking")


def _read_tools(body: JsonObject, ask: Ask) -> None:
    for index, fields in enumerate(objects_at(body, "tools")):
        path = f"tools[{index}]"
        function = object_at(fields, "function", path)
        if fields.get("type", "function") != "function" or function is None:
            raise refusal(f"{path}.type", "functions alone")
        ask.drop_unknown(function, _FUNCTION, "tools.function")
        ask.tools.append(
            Tool(
                needed_text(function, "name", f"{path}.function"),
                text_at(function, "description", f"{path}.function"),
                object_at(function, "parameters", f"{path}.function"),
                flag_at(function, "strict", f"{path}.function"),
                cache_at(fields, path),
            )
        )
    ask.choice = read_choice(body.get("tool_choice"), "tool_choice")


def _read_message(message: JsonObject, path: str, ask: Ask) -> Turn:
    role = needed_text(message, "role", path)
    ask.drop_unknown(message, _MESSAGE, "messages")
    if role in _SYSTEM:
        return Turn(Role.SYSTEM, list(_shown(message, path, ask)), role == "developer")
    if role == "user":
        if message.get("name") is not None:
            ask.drop("messages.name")
        return Turn(Role.USER, list(_shown(message, path, ask)))
    if role == "tool":
        call_id = needed_text(message, "tool_call_id", path)
        cache = cache_at(message, path)
        return Turn(Role.USER, [Result(call_id, _shown(message, path, ask), path, cache=cache)])
    if role == "assistant":
        return Turn(Role.MODEL, _read_answer(message, path, ask))
    raise wrong(f"{path}.role", "system, developer, user, assistant or tool")


def _read_answer(message: JsonObject, path: str, ask: Ask) -> list[Part]:
    if message.get("function_call") is not None:
        raise refusal(f"{path}.function_call", "use tool_calls")
    if message.get("audio") is not None:
        raise refusal(f"{path}.audio")
    parts: list[Part] = []
    content = message.get("content")
    if isinstance(content, list):
        parts += [_read_said(part, f"{path}.content[{i}]") for i, part in enumerate(content)]
    elif content:
        parts.append(Text(needed_text(message, "content", path), cache_at(message, path)))
    declined = text_at(message, "refusal", path)
    if declined:
        parts.append(Declined(declined))
    for index, call in enumerate(objects_at(message, "tool_calls", path)):
        parts.append(_read_call(call, f"{path}.tool_calls[{index}]"))
    return parts


def _read_said(part: Any, path: str) -> Part:
    if isinstance(part, dict):
        match part.get("type"):
            case "text":
                return Text(needed_text(part, "text", path), cache_at(part, path))
            case "refusal":
                return Declined(needed_text(part, "refusal", path))
    raise refusal(path, "text alone from the assistant")


def _read_call(call: JsonObject, path: str) -> Call:
    function = object_at(call, "function", path)
    if function is None:
        raise refusal(f"{path}.type", "functions alone")
    return Call(
        needed_text(call, "id", path),
        needed_text(function, "name", f"{path}.function"),
        text_at(function, "arguments", f"{path}.function") or "",
    )


def _shown(message: JsonObject, path: str, ask: Ask) -> list[Shown]:
    content = message.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [Text(content, cache_at(message, path))]
    parts = objects_at(message, "content", path)
    return [_read_shown(part, f"{path}.content[{i}]", ask) for i, part in enumerate(parts)]


def _read_shown(part: JsonObject, path: str, ask: Ask) -> Shown:
    cache = cache_at(part, path)
    match part.get("type"):
        case "text":
            return Text(needed_text(part, "text", path), cache)
        case "image_url":
            image = part.get("image_url")
            if isinstance(image, dict):
                detail = text_at(image, "detail", f"{path}.image_url")
                return read_image(image.get("url"), detail, f"{path}.image_url", cache)
            return read_image(image, None, f"{path}.image_url", cache)
        case "file":
            return read_file(object_at(part, "file", path) or {}, f"{path}.file", cache)
        case "input_audio":
            audio = object_at(part, "input_audio", path) or {}
            sound = needed_text(audio, "data", f"{path}.input_audio")
            kind = needed_text(audio, "format", f"{path}.input_audio")
            return Media(MediaKind.AUDIO, f"{path}.input_audio", f"audio/{kind}", sound)
        case _:
            raise refusal(f"{path}.type", "no part of this type")
