"""Reads a request for an Anthropic message into the middle form.

Source: Anthropic API reference, "Create a Message".
"""

from typing import Final

from relay.translate.fields import (
    encode_text,
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
    ChoiceMode,
    JsonObject,
    Media,
    MediaKind,
    OutputFormat,
    Part,
    Result,
    Role,
    Shown,
    Text,
    Thinking,
    Tool,
    ToolChoice,
    Turn,
    refusal,
)
from relay.translate.openai_common import cache_at

NAMES: Final = {
    "stop": "stop_sequences",
    "top_k": "top_k",
    "max_tokens": "max_tokens",
    "parallel": "tool_choice.disable_parallel_tool_use",
    "tier": "service_tier",
    "user": "metadata.user_id",
    "thinking": "thinking",
    "choice": "tool_choice",
    "format": "output_config.format",
    "cache": "cache_control",
    "is_error": "tool_result.is_error",
}
_TOOL: Final = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})
_MESSAGE: Final = frozenset({"role", "content"})
_READ: Final = frozenset(
    {
        *("model", "messages", "system", "stream", "max_tokens", "temperature", "top_p", "top_k"),
        *("stop_sequences", "tools", "tool_choice", "thinking", "metadata", "output_config"),
        *("output_format", "service_tier", "container", "mcp_servers", "cache_control"),
    }
)
_MODES: Final = {
    "auto": ChoiceMode.AUTO,
    "any": ChoiceMode.ANY,
    "tool": ChoiceMode.ANY,
    "none": ChoiceMode.NONE,
}
_THOUGHTS: Final = frozenset({"thinking", "redacted_thinking"})


def read_request(body: JsonObject, ask: Ask) -> None:
    """Fill `ask` with what a body for `/messages` says.

    Raises:
        Refused: CLIENT; a field that no other dialect can carry, or of the wrong type.
    """
    ask.names = dict(NAMES)
    ask.stream = flag_at(body, "stream") or False
    for name in ("container", "mcp_servers"):
        if body.get(name):
            raise refusal(name)
    ask.max_tokens = integer_at(body, "max_tokens")
    sampling = ask.sampling
    sampling.temperature = number_at(body, "temperature")
    sampling.top_p = number_at(body, "top_p")
    sampling.top_k = integer_at(body, "top_k")
    ask.stop = texts_at(body, "stop_sequences")
    ask.tier = text_at(body, "service_tier")
    ask.user = text_at(object_at(body, "metadata") or {}, "user_id", "metadata")
    _read_tools(body, ask)
    _read_output(body, ask)
    system = _system(body)
    if system:
        ask.turns.append(Turn(Role.SYSTEM, system))
    for index, message in enumerate(objects_at(body, "messages")):
        _read_message(message, f"messages[{index}]", ask)
    ask.drop_unknown(body, _READ, "")


def _system(body: JsonObject) -> list[Part]:
    if isinstance(body.get("system"), str):
        return [Text(body["system"])] if body["system"] else []
    return [
        Text(needed_text(block, "text", f"system[{i}]"), cache_at(block, f"system[{i}]"))
        for i, block in enumerate(objects_at(body, "system"))
    ]


def _read_tools(body: JsonObject, ask: Ask) -> None:
    for index, fields in enumerate(objects_at(body, "tools")):
        path = f"tools[{index}]"
        kind = text_at(fields, "type", path)
        if kind not in {None, "custom"}:
            raise refusal(f"{path}.type", "the provider's own tools run nowhere else")
        ask.drop_unknown(fields, _TOOL, "tools")
        ask.tools.append(
            Tool(
                needed_text(fields, "name", path),
                text_at(fields, "description", path),
                object_at(fields, "input_schema", path),
                flag_at(fields, "strict", path),
                cache_at(fields, path),
            )
        )
    choice = object_at(body, "tool_choice")
    if choice is None:
        return
    mode = _MODES.get(needed_text(choice, "type", "tool_choice"))
    if mode is None:
        raise wrong("tool_choice.type", "auto, any, tool or none")
    names = [needed_text(choice, "name", "tool_choice")] if choice["type"] == "tool" else []
    ask.choice = ToolChoice(mode, names)
    if flag_at(choice, "disable_parallel_tool_use", "tool_choice"):
        ask.parallel = False


def _read_output(body: JsonObject, ask: Ask) -> None:
    config = object_at(body, "output_config") or {}
    wanted = object_at(config, "format", "output_config")
    if wanted is None and body.get("output_format") is not None:
        ask.names["format"] = "output_format"
        wanted = object_at(body, "output_format")
    if wanted is not None:
        param = ask.names["format"]
        if wanted.get("type") != "json_schema":
            raise refusal(f"{param}.type", "json_schema alone")
        ask.format = OutputFormat(param, object_at(wanted, "schema", param) or {}, strict=True)
    effort = text_at(config, "effort", "output_config")
    thinking = object_at(body, "thinking")
    if thinking is None:
        if effort is not None:
            ask.thinking = Thinking("output_config.effort", effort=effort)
        return
    kind = needed_text(thinking, "type", "thinking")
    budget = integer_at(thinking, "budget_tokens", "thinking")
    enabled = {"enabled": True, "disabled": False}.get(kind)
    hidden = thinking.get("display") == "omitted"
    shown = kind != "disabled" and not hidden
    ask.thinking = Thinking("thinking", enabled, effort, budget, shown)


def _read_message(message: JsonObject, path: str, ask: Ask) -> None:
    role = needed_text(message, "role", path)
    ask.drop_unknown(message, _MESSAGE, "messages")
    blocks = _blocks(message, path)
    if role == "assistant":
        ask.turns.append(Turn(Role.MODEL, _said(blocks, path, ask)))
    elif role in {"user", "system"}:
        parts = [_read_part(block, f"{path}.content[{i}]", ask) for i, block in enumerate(blocks)]
        ask.turns.append(Turn(Role.USER if role == "user" else Role.SYSTEM, parts))
    else:
        raise wrong(f"{path}.role", "user or assistant")


def _blocks(fields: JsonObject, path: str) -> list[JsonObject]:
    content = fields.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return objects_at(fields, "content", path)


def _said(blocks: list[JsonObject], path: str, ask: Ask) -> list[Part]:
    parts: list[Part] = []
    for index, block in enumerate(blocks):
        where = f"{path}.content[{index}]"
        kind = block.get("type")
        if kind == "text":
            # What its citations point at is in the provider's own index.
            parts.append(Text(needed_text(block, "text", where), cache_at(block, where)))
        elif kind == "tool_use":
            parts.append(
                Call(
                    needed_text(block, "id", where),
                    needed_text(block, "name", where),
                    encode_text(object_at(block, "input", where) or {}),
                    cache_at(block, where),
                )
            )
        elif kind in _THOUGHTS:
            ask.echoed = "messages.thinking"
        else:
            raise refusal(f"{where}.type", "no block of this type")
    return parts


def _read_part(block: JsonObject, path: str, ask: Ask) -> Part:
    if block.get("type") != "tool_result":
        return _read_shown(block, path, ask)
    inner = _blocks(block, path)
    return Result(
        needed_text(block, "tool_use_id", path),
        [_read_shown(one, f"{path}.content[{i}]", ask) for i, one in enumerate(inner)],
        path,
        is_error=flag_at(block, "is_error", path) or False,
        cache=cache_at(block, path),
    )


def _read_shown(block: JsonObject, path: str, ask: Ask) -> Shown:
    cache = cache_at(block, path)
    kind = block.get("type")
    if kind == "text":
        return Text(needed_text(block, "text", path), cache)
    if kind == "image":
        return _read_source(block, Media(MediaKind.IMAGE, path, cache=cache), path)
    if kind == "document":
        media = Media(MediaKind.DOCUMENT, path, cache=cache)
        media.title = text_at(block, "title", path) or ""
        if (object_at(block, "citations", path) or {}).get("enabled"):
            ask.drop("citations")
        if block.get("context") is not None:
            ask.drop(f"{path}.context")
        return _read_source(block, media, path)
    raise refusal(f"{path}.type", "no block of this type")


def _read_source(block: JsonObject, media: Media, path: str) -> Media:
    where = f"{path}.source"
    source = object_at(block, "source", path) or {}
    match source.get("type"):
        case "base64":
            media.mime = needed_text(source, "media_type", where)
            media.data = needed_text(source, "data", where)
        case "url":
            media.url = needed_text(source, "url", where)
        case "text":
            media.mime = "text/plain"
            media.text = needed_text(source, "data", where)
        case "content":
            inner = _blocks(source, where)
            if any(one.get("type") != "text" for one in inner):
                raise refusal(where, "text alone in a document")
            media.mime = "text/plain"
            media.text = "\n".join(needed_text(one, "text", where) for one in inner)
        case "file":
            raise refusal(f"{where}.file_id", "a stored file belongs to one provider")
        case _:
            raise wrong(f"{where}.type", "base64, url, text or content")
    return media
